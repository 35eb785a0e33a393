"""GPU sessions, as far as a machine without a GPU shows them: binding, refusals with a stand-in, exhausted memory."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from shudun import BundleError, DeviceError, Scorer, session
from shudun.batching import Batching
from shudun.devices import CUDA_OPTIONS, GpuSettings
from shudun.errors import DeviceMemoryError
from shudun.session import INPUTS, OUTPUTS, GraphSession, is_out_of_memory, run_bound

STATUS = "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running MatMul node. Status Message: "
CUDA = "CUDAExecutionProvider"


def test_a_bound_run_equals_a_plain_one(vivid_graph, trained, items):
    plain = GraphSession(vivid_graph, device="cpu", threads=1)
    batch = trained.encoder.encode(items).batch(np.arange(len(items)))
    own = plain._own().session
    for got, expected in zip(run_bound(own, batch, memory="cpu"), plain.run(batch), strict=True):
        np.testing.assert_array_equal(got, expected)
    strided = batch.__class__(*(np.asfortranarray(x) for x in batch.feeds().values()), batch.truncated)
    np.testing.assert_array_equal(run_bound(own, strided, memory="cpu")[0], plain.run(batch)[0])


@pytest.mark.parametrize(
    "message",
    [
        "BFCArena::AllocateRawInternal(size_t, bool, Stream*) Failed to allocate memory for requested buffer of size 9",
        "BFCArena::AllocateRawInternal Available memory of 35584 is smaller than requested bytes of 2097152",
        "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&cublas_handle_);",
        "CUDNN failure 2: CUDNN_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
        "bad allocation",
    ],
)
def test_exhausted_memory_is_known_by_what_onnxruntime_says(message):
    types = onnxruntime.capi.onnxruntime_pybind11_state
    for kind in (types.Fail, types.RuntimeException):
        assert is_out_of_memory(kind(STATUS + message))
    assert is_out_of_memory(MemoryError())


@pytest.mark.parametrize("message", ["CUDA failure 700: an illegal memory access", "Got invalid dimensions", ""])
def test_other_failures_are_not_taken_for_exhausted_memory(message):
    assert not is_out_of_memory(RuntimeError(STATUS + message))


class FakeSession:
    """A session on a GPU that does not exist; `world` says how it behaves."""

    def __init__(self, graph, *, sess_options, providers, disabled_optimizers):
        self.world = FakeSession.world
        self.world.opened.append((providers, disabled_optimizers, sess_options.entries))
        if self.world.refuses:
            raise RuntimeError(self.world.refuses)
        if self.world.prints:
            print(self.world.prints)

    def get_providers(self):
        return [*self.world.starts, "CPUExecutionProvider"]

    def get_inputs(self):
        return [SimpleNamespace(name=name) for name in INPUTS]

    def get_outputs(self):
        return [SimpleNamespace(name=name, shape=["batch", 2]) for name in OUTPUTS]

    def get_provider_graph_assignment_info(self):
        return [
            SimpleNamespace(ep_name=provider, get_nodes=lambda kinds=kinds: [SimpleNamespace(op_type=x) for x in kinds])
            for provider, kinds in self.world.placed.items()
        ]

    def io_binding(self):
        return FakeBinding(self.world)

    def run_with_iobinding(self, binding):
        tokens = binding.inputs["input_ids"].size
        self.world.ran.append(tokens)
        if self.world.broken:
            raise RuntimeError(self.world.broken)
        if tokens > self.world.holds:
            raise RuntimeError(f"{STATUS}Failed to allocate memory for requested buffer of size {tokens}")


class FakeBinding:
    def __init__(self, world):
        self.world, self.inputs, self.outputs = world, {}, {}

    def bind_cpu_input(self, name, array):
        assert array.flags.c_contiguous
        self.inputs[name] = array

    def bind_output(self, name, memory):
        self.outputs[name] = memory

    def copy_outputs_to_cpu(self):
        assert self.outputs == dict.fromkeys(OUTPUTS, "cuda")
        total = self.inputs["input_ids"].sum(axis=1, keepdims=True).astype(np.float32)
        return [np.concatenate([total, -total], axis=1)] * 2


class FakeOptions:
    def __init__(self):
        self.entries = {}

    def add_session_config_entry(self, name, value):
        self.entries[name] = value


@pytest.fixture
def world(monkeypatch):
    state = SimpleNamespace(
        opened=[], ran=[], starts=[CUDA], placed={CUDA: ["MatMul", "MultiHeadAttention"]}, holds=10**9, broken="",
        refuses="", prints="",
    )  # fmt: skip
    monkeypatch.setattr(FakeSession, "world", state, raising=False)
    module = SimpleNamespace(
        get_available_providers=lambda: ["TensorrtExecutionProvider", CUDA, "CPUExecutionProvider"],
        preload_dlls=lambda: print("libcublas is missing") if state.prints else None,
        SessionOptions=FakeOptions,
        InferenceSession=FakeSession,
    )
    monkeypatch.setattr(session, "_import_onnxruntime", lambda: module)
    return state


def test_a_cuda_session_is_opened_with_its_options_and_runs_one_text_first(world):
    opened = GraphSession(b"", device="cuda", precision="fp16", gpu=GpuSettings(memory=5))
    [(providers, disabled, entries)] = world.opened
    assert providers == [(CUDA, {**CUDA_OPTIONS, "gpu_mem_limit": "5"})]
    assert disabled is None  # the fusion that slows a CPU is one that a GPU wants
    assert entries["session.record_ep_graph_assignment_info"] == "1"
    assert (opened.device, opened.threads, world.ran) == ("cuda", 1, [8])
    assert GraphSession(b"", device="cuda", threads=2).threads == 2


def test_a_provider_that_does_not_start_is_refused_with_what_onnxruntime_said(world, capsys):
    world.starts, world.prints = [], "EP Error: falling back"
    with pytest.raises(DeviceError, match=r"CUDAExecutionProvider does not start.*libcublas is missing EP Error"):
        GraphSession(b"", device="cuda")
    assert capsys.readouterr().out == ""
    world.starts = [CUDA]
    with pytest.raises(DeviceError, match="TensorrtExecutionProvider does not start"):
        GraphSession(b"", device="tensorrt")


def test_work_that_would_run_beside_the_gpu_is_refused(world):
    world.placed["CPUExecutionProvider"] = ["Concat"]
    GraphSession(b"", device="cuda")
    world.placed["CPUExecutionProvider"] = ["Concat", "DynamicQuantizeMatMul"]
    with pytest.raises(DeviceError, match="DynamicQuantizeMatMul of this graph would not run on CUDA"):
        GraphSession(b"", device="cuda")
    world.starts = ["TensorrtExecutionProvider", CUDA]
    with pytest.raises(DeviceError, match="MatMul, MultiHeadAttention of this graph would not run on Tensorrt"):
        GraphSession(b"", device="tensorrt")


def test_a_model_that_loads_but_does_not_run_is_refused_at_once(world):
    world.broken = "cuDNN is unavailable or disabled for CUDA Execution Provider"
    with pytest.raises(DeviceError, match=r"does not run here: cuDNN is unavailable.*shudun\[gpu\]"):
        GraphSession(b"", device="cuda")


def test_a_model_that_does_not_fit_is_told_from_one_that_is_broken(world):
    world.refuses = f"{STATUS}Available memory of 3 is smaller than requested bytes of 9"
    with pytest.raises(DeviceError, match="the model does not fit in memory"):
        GraphSession(b"", device="cuda")
    world.refuses = "Load model failed"
    with pytest.raises(BundleError, match="cannot load this graph: Load model failed"):
        GraphSession(b"", device="cuda")


def test_exhausted_gpu_memory_halves_the_batches_of_the_session(world, trained, items):
    world.holds = 200
    opened = GraphSession(b"", device="cuda")
    encoded = trained.encoder.encode(items)
    for _ in range(2):
        logits, embeddings = opened.start(encoded, Batching(16384, 16))()
        totals = [encoded.batch(np.array([i])).input_ids.sum() for i in range(len(items))]  # the padding's id is 0
        assert logits[:, 0].tolist() == embeddings[:, 0].tolist() == totals
    failures = [i for i, tokens in enumerate(world.ran) if tokens > world.holds]
    assert failures
    assert max(failures) < len(world.ran) // 2
    with pytest.raises(DeviceMemoryError, match="Failed to allocate memory"):
        opened.run(encoded.batch(np.arange(len(items))))


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [("int8", "cuda", "no GPU kernels"), ("fp16", "tensorrt", "--graph generic"), ("fp32", "tensorrt", "generic")],
)
def test_a_scorer_refuses_a_device_by_what_its_bundle_says_it_is(
    world, make_bundle, tmp_path, precision, device, message
):
    folder = make_bundle(tmp_path / "bundle", precision=precision, provenance={"graph": "fused"})
    with pytest.raises(DeviceError, match=message):
        Scorer.from_bundle(folder, device)
    assert not world.opened


def test_a_scorer_tells_tensorrt_the_largest_batch_and_text(world, make_bundle, trained, tmp_path, taxonomy):
    world.starts, world.placed = ["TensorrtExecutionProvider", CUDA], {"TensorrtExecutionProvider": ["MatMul"]}
    folder = make_bundle(tmp_path / "bundle", provenance={"graph": "generic"})
    with pytest.raises(BundleError, match="has 2 outputs"):  # the stand-in's; the session was opened before
        Scorer.from_bundle(folder, "tensorrt", batch_tokens=320, engine_cache=tmp_path / "engines")
    [(providers, _, _)] = world.opened
    options = dict(providers)["TensorrtExecutionProvider"]
    assert f"input_ids:20x{trained.encoder.max_length}" in options["trt_profile_max_shapes"]
    assert options["trt_engine_cache_path"] == str(tmp_path / "engines")


EXHAUSTED = """
import logging, resource, sys
import numpy as np
from shudun.batching import Batching
from shudun.session import GraphSession
from shudun.tokenization import Encoded

rows, width = 10_000, 32
ids = np.random.default_rng(0).integers(5, 60, rows * width)
starts = np.arange(0, rows * width + 1, width)
encoded = Encoded(ids, starts, np.full(rows, width), np.zeros(rows, dtype=bool), np.ones(rows, dtype=int), 0, width)
session = GraphSession(open(sys.argv[1], "rb").read(), device="cpu", threads=1)
ones = np.ones(100, dtype=int)
few = Encoded(ids[: 100 * width], starts[:101], ones * width, ones == 0, ones, 0, width)
expected, _ = session.start(few, Batching(512))()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000,) * 2)
logging.basicConfig(stream=sys.stdout, format="%(message)s")
logits, _ = session.start(encoded, Batching(rows * width))()
assert logits.shape[0] == rows and np.isfinite(logits).all()
np.testing.assert_allclose(logits[:100], expected, atol=1e-5)
print("all rows")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits its own address space")
def test_a_cpu_that_runs_out_of_memory_goes_on_with_halves(trained, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(trained.graph)
    command = [sys.executable, "-c", EXHAUSTED, str(path)]
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}  # glibc reserves 64 MB of address space for each thread's
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    *warnings, last = done.stdout.strip().splitlines() or [""]
    assert last == "all rows", done.stderr
    assert any("a batch of 320000 tokens exhausted memory" in line for line in warnings)
