"""An onnxruntime session that runs where it was asked to run, or raises.

Knows graphs as bytes and token arrays; knows nothing of texts or labels. A session is made on first use in
each process, because onnxruntime's are neither picklable nor safe across a fork.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shudun.batching import Batching, MemoryLimit, Outputs, start_batches
from shudun.devices import Device, GpuSettings, check_placement, provider_list, resolve_device
from shudun.errors import BundleError, DeviceError, DeviceMemoryError, MissingExtraError
from shudun.threads import resolve_threads
from shudun.tokenization import Encoded, TokenBatch

if TYPE_CHECKING:
    import onnxruntime

DISABLED_OPTIMIZERS = ["SkipLayerNormFusion"]
"""Fusions that make a CPU slower: the fused skip-layer-norm takes several times as long as its parts."""

OUT_OF_MEMORY = (
    "failed to allocate memory for requested buffer",
    "is smaller than requested bytes",
    "out of memory",
    "outofmemory",
    "status_alloc_failed",
    "bad_alloc",
    "bad allocation",
)
"""How onnxruntime's messages end when memory is exhausted: arena, arena limit, CUDA, TensorRT, cuBLAS and cuDNN, C++.
Its exception types do not tell: the same failure is a `Fail` or a `RuntimeException`."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("logits", "embedding")


class GraphSession:
    """A graph with the inputs and outputs of this project, ready to run on one device.

    `device` is the resolved one: `"cpu"`, `"cuda"` or `"tensorrt"`.
    """

    def __init__(
        self,
        graph: bytes,
        *,
        device: Device = "auto",
        threads: int | None = None,
        precision: str = "fp32",
        kind: str | None = None,
        gpu: GpuSettings | None = None,
    ) -> None:
        """Create the session at once, so that a missing device or a broken graph shows here.

        Args:
            graph: ONNX bytes.
            device: where to run.
            threads: batches computed at once; by default one on a GPU, and on a CPU what this process may use.
            precision: the bundle's, which decides what "auto" takes and what is refused.
            kind: "fused" or "generic", where known.
            gpu: limits of a GPU session.

        Raises:
            DeviceError: unknown device, one asked for that is not what runs or that this precision does not run well
                on, or an unusable thread count.
            BundleError: the graph cannot be parsed or has other inputs or outputs than expected.
        """
        available = _import_onnxruntime().get_available_providers()
        self.device = resolve_device(device, available, precision=precision, graph=kind)
        on_gpu = self.device != "cpu"
        self.threads = 1 if on_gpu and threads is None else resolve_threads(threads)
        self._graph = graph
        self._gpu = gpu or GpuSettings()
        self._owner: _Owned | None = None
        self._own()
        if on_gpu:
            self._probe()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_owner": None}

    @property
    def widths(self) -> tuple[int, int]:
        """`(num_labels, hidden)`, the fixed last axes of the outputs."""
        shapes = {output.name: output.shape for output in self._own().session.get_outputs()}
        num_labels, hidden = (shapes[name][-1] for name in OUTPUTS)
        if not isinstance(num_labels, int) or not isinstance(hidden, int):
            raise BundleError(f"model.onnx: outputs must have a fixed last axis, got {shapes}")
        return num_labels, hidden

    def run(self, batch: TokenBatch) -> Outputs:
        """Logits `(batch, num_labels)` and embeddings `(batch, hidden)` of one padded batch.

        Raises:
            DeviceMemoryError: the batch did not fit in the device's memory; a smaller one may.
        """
        session = self._own().session
        try:
            if self.device != "cpu":
                return run_bound(session, batch, memory="cuda")
            logits, embedding = session.run(list(OUTPUTS), batch.feeds())
        except Exception as error:
            if is_out_of_memory(error):
                raise DeviceMemoryError(f"device={self.device!r}: {error}") from error
            raise
        return logits, embedding

    def start(self, encoded: Encoded, batching: Batching) -> Callable[[], Outputs]:
        """Begin to run all rows on the session's threads; the returned function waits for the outputs."""
        own = self._own()
        return start_batches(
            encoded, self.run, widths=self.widths, batching=batching, executor=own.executor, limit=own.limit
        )

    def _own(self) -> _Owned:
        if self._owner is None or self._owner.process != os.getpid():
            session = _open(self._graph, self.device, self._gpu)
            self._owner = _Owned(os.getpid(), session, ThreadPoolExecutor(self.threads, "shudun"), MemoryLimit())
        return self._owner

    def _probe(self) -> None:
        """Run one text: libraries that only kernels load, cuDNN above all, are found missing here or in mid-job."""
        ids = np.ones((1, 8), dtype=np.int64)
        try:
            self.run(TokenBatch(ids, ids, np.zeros_like(ids), np.zeros(1, dtype=np.bool_)))
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            raise DeviceError(f"device={self.device!r}: the model does not run here: {error}. {_LIBRARIES}") from error


def run_bound(session: onnxruntime.InferenceSession, batch: TokenBatch, *, memory: str) -> Outputs:
    """Run one batch with its inputs uploaded once and its outputs left in `memory` until both are there.

    `memory`: "cuda", or "cpu" for a session on the CPU.
    """
    binding = session.io_binding()
    for name, array in batch.feeds().items():
        # Uploads at once, into the session's arena: arrays of one's own on the device are allocated anew each time.
        binding.bind_cpu_input(name, np.ascontiguousarray(array))
    for name in OUTPUTS:
        binding.bind_output(name, memory)
    session.run_with_iobinding(binding)
    logits, embedding = binding.copy_outputs_to_cpu()
    return logits, embedding


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of onnxruntime or numpy says that memory was exhausted."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(marker in text for marker in OUT_OF_MEMORY)


class _Owned(NamedTuple):
    """What belongs to one process: its session, the threads that run batches, and what its memory holds."""

    process: int
    session: onnxruntime.InferenceSession
    executor: ThreadPoolExecutor
    limit: MemoryLimit


_LIBRARIES = (
    "It needs an NVIDIA GPU and the CUDA and cuDNN libraries of this onnxruntime-gpu, which pip install 'shudun[gpu]' "
    "brings; tensorrt needs TensorRT 10 as well; device='cpu' does without"
)


def _import_onnxruntime() -> Any:
    # Read when onnxruntime starts: since 1.29 it reports its use over the network unless told not to.
    # The thread that sends would also hang a forked child that ends.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("scoring", "cpu", error) from error
    return onnxruntime


def _open(graph: bytes, device: str, gpu: GpuSettings) -> onnxruntime.InferenceSession:
    ort = _import_onnxruntime()
    disabled = DISABLED_OPTIMIZERS if device == "cpu" else None
    providers = provider_list(device, gpu)
    said = io.StringIO()
    try:
        # Where libraries are missing, onnxruntime prints so and carries on without the provider.
        with redirect_stdout(said):
            if device != "cpu":
                ort.preload_dlls()
            session = ort.InferenceSession(
                graph, sess_options=_options(ort, device), providers=providers, disabled_optimizers=disabled
            )
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        if is_out_of_memory(error):
            raise DeviceError(f"device={device!r}: the model does not fit in memory: {error}") from error
        raise BundleError(f"model.onnx: onnxruntime cannot load this graph: {error}") from error
    if session.get_providers()[0] != providers[0][0]:
        reason = " ".join(said.getvalue().split())
        raise DeviceError(f"device={device!r}: {providers[0][0]} does not start here. {_LIBRARIES}. {reason}")
    _require_names("inputs", {x.name for x in session.get_inputs()}, set(INPUTS))
    _require_names("outputs", {x.name for x in session.get_outputs()}, set(OUTPUTS))
    if device != "cpu":
        parts = session.get_provider_graph_assignment_info()
        check_placement(device, ((part.ep_name, node.op_type) for part in parts for node in part.get_nodes()))
    return session


def _options(ort: Any, device: str) -> Any:
    options = ort.SessionOptions()
    # One thread a batch and several batches at once: no hand-over inside a batch, and no thread pool to lose in a fork.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Padded shapes vary from batch to batch: the planner's patterns and the growing arena would only hold memory.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    # A graph may name files for its weights; only the verified bytes count, so that no such file is ever found.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    if device != "cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _require_names(what: str, got: set[str], expected: set[str]) -> None:
    if got != expected:
        raise BundleError(f"model.onnx: expected {what} {sorted(expected)}, got {sorted(got)}")
