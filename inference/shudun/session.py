"""An onnxruntime session that runs where it was asked to run, or raises.

Knows graphs as bytes and token arrays; knows nothing of texts or labels. A session is made on first use in
each process, because onnxruntime's are neither picklable nor safe across a fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from shudun.batching import Batching, Outputs, start_batches
from shudun.errors import BundleError, DeviceError, MissingExtraError
from shudun.threads import resolve_threads
from shudun.tokenization import Encoded, TokenBatch

if TYPE_CHECKING:
    import onnxruntime

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
DISABLED_OPTIMIZERS = ["SkipLayerNormFusion"]
"""Fusions that make a CPU slower: the fused skip-layer-norm takes several times as long as its parts."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("logits", "embedding")


class GraphSession:
    """A graph with the inputs and outputs of this project, ready to run on one device.

    `device` is the resolved one: `"cpu"` or `"cuda"`.
    """

    def __init__(self, graph: bytes, *, device: Device = "auto", threads: int | None = None) -> None:
        """Create the session at once, so that a missing device or a broken graph shows here.

        Raises:
            DeviceError: unknown device, CUDA asked for but not what runs, or an unusable thread count.
            BundleError: the graph cannot be parsed or has other inputs or outputs than expected.
        """
        self.device = _resolve_device(device)
        self.threads = resolve_threads(threads) if self.device == "cpu" else 1
        self._graph = graph
        self._owner: _Owned | None = None
        self._own()

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
        """Logits `(batch, num_labels)` and embeddings `(batch, hidden)` of one padded batch."""
        logits, embedding = self._own().session.run(list(OUTPUTS), batch.feeds())
        return logits, embedding

    def start(self, encoded: Encoded, batching: Batching) -> Callable[[], Outputs]:
        """Begin to run all rows on the session's threads; the returned function waits for the outputs."""
        executor = self._own().executor
        return start_batches(encoded, self.run, widths=self.widths, batching=batching, executor=executor)

    def _own(self) -> _Owned:
        if self._owner is None or self._owner.process != os.getpid():
            session = _open(self._graph, self.device)
            self._owner = _Owned(os.getpid(), session, ThreadPoolExecutor(self.threads, "shudun"))
        return self._owner


class _Owned(NamedTuple):
    """What belongs to one process: its session, and the threads that run batches."""

    process: int
    session: onnxruntime.InferenceSession
    executor: ThreadPoolExecutor


def _import_onnxruntime() -> Any:
    # Read when onnxruntime starts: since 1.29 it reports its use over the network unless told not to.
    # The thread that sends would also hang a forked child that ends.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("scoring", "cpu", error) from error
    return onnxruntime


def _resolve_device(device: str) -> str:
    available = _import_onnxruntime().get_available_providers()
    if device == "auto":
        return "cuda" if PROVIDERS["cuda"] in available else "cpu"
    if device not in PROVIDERS:
        raise DeviceError(f"device: expected auto, cpu or cuda, got {device!r}")
    if PROVIDERS[device] not in available:
        raise DeviceError(
            f"device={device!r}: this onnxruntime has no {PROVIDERS[device]} (it has {', '.join(available)}). "
            "Install it with: pip uninstall onnxruntime && pip install 'shudun[gpu]'"
        )
    return device


def _open(graph: bytes, device: str) -> onnxruntime.InferenceSession:
    ort = _import_onnxruntime()
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
    try:
        session = ort.InferenceSession(
            graph, sess_options=options, providers=[PROVIDERS[device]], disabled_optimizers=DISABLED_OPTIMIZERS
        )
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        raise BundleError(f"model.onnx: onnxruntime cannot load this graph: {error}") from error
    if session.get_providers()[0] != PROVIDERS[device]:
        raise DeviceError(
            f"device={device!r}: onnxruntime fell back to {session.get_providers()[0]}; "
            "check the CUDA and cuDNN libraries that this onnxruntime-gpu needs, or ask for device='cpu'"
        )
    _require_names("inputs", {x.name for x in session.get_inputs()}, set(INPUTS))
    _require_names("outputs", {x.name for x in session.get_outputs()}, set(OUTPUTS))
    return session


def _require_names(what: str, got: set[str], expected: set[str]) -> None:
    if got != expected:
        raise BundleError(f"model.onnx: expected {what} {sorted(expected)}, got {sorted(got)}")
