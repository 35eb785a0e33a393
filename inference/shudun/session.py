"""An onnxruntime session that runs where it was asked to run, or raises.

Knows graphs as bytes and token arrays; knows nothing of texts or labels. A session is made on first use in
each process, because onnxruntime's are neither picklable nor safe across a fork.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from shudun.batching import Outputs, run_batches
from shudun.errors import BundleError, DeviceError, MissingExtraError
from shudun.threads import resolve_threads
from shudun.tokenization import Encoded, TokenBatch

if TYPE_CHECKING:
    import onnxruntime

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
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
        self.threads = resolve_threads(threads)
        self._graph = graph
        self._owner: tuple[int, onnxruntime.InferenceSession] | None = None
        self._session()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_owner": None}

    @property
    def widths(self) -> tuple[int, int]:
        """`(num_labels, hidden)`, the fixed last axes of the outputs."""
        shapes = {output.name: output.shape for output in self._session().get_outputs()}
        num_labels, hidden = (shapes[name][-1] for name in OUTPUTS)
        if not isinstance(num_labels, int) or not isinstance(hidden, int):
            raise BundleError(f"model.onnx: outputs must have a fixed last axis, got {shapes}")
        return num_labels, hidden

    def run(self, batch: TokenBatch) -> Outputs:
        """Logits `(batch, num_labels)` and embeddings `(batch, hidden)` of one padded batch."""
        logits, embedding = self._session().run(list(OUTPUTS), batch.feeds())
        return logits, embedding

    def run_encoded(self, encoded: Encoded, *, batch_tokens: int) -> Outputs:
        """Outputs of all rows in input order, in batches of at most `batch_tokens` padded tokens."""
        return run_batches(encoded, self.run, widths=self.widths, batch_tokens=batch_tokens)

    def _session(self) -> onnxruntime.InferenceSession:
        if self._owner is None or self._owner[0] != os.getpid():
            self._owner = (os.getpid(), _open(self._graph, self.device, self.threads))
        return self._owner[1]


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


def _open(graph: bytes, device: str, threads: int) -> onnxruntime.InferenceSession:
    ort = _import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Padded shapes vary from batch to batch: the planner's patterns and the growing arena would only hold memory.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    # A graph may name files for its weights; only the verified bytes count, so that no such file is ever found.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    _keep_inherited_sessions()
    try:
        session = ort.InferenceSession(graph, sess_options=options, providers=[PROVIDERS[device]])
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        raise BundleError(f"model.onnx: onnxruntime cannot load this graph: {error}") from error
    if session.get_providers()[0] != PROVIDERS[device]:
        raise DeviceError(
            f"device={device!r}: onnxruntime fell back to {session.get_providers()[0]}; "
            "check the CUDA and cuDNN libraries that this onnxruntime-gpu needs, or ask for device='cpu'"
        )
    _require_names("inputs", {x.name for x in session.get_inputs()}, set(INPUTS))
    _require_names("outputs", {x.name for x in session.get_outputs()}, set(OUTPUTS))
    _open_sessions.add(session)
    return session


_open_sessions: weakref.WeakSet[Any] = weakref.WeakSet()


@cache
def _keep_inherited_sessions() -> None:
    """From now on a forked child never destroys the sessions of its parent, not even when it ends.

    Their destructor waits for worker threads, which a fork does not copy, and so would hang.
    """

    def keep() -> None:
        for session in _open_sessions:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        _open_sessions.clear()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=keep)


def _require_names(what: str, got: set[str], expected: set[str]) -> None:
    if got != expected:
        raise BundleError(f"model.onnx: expected {what} {sorted(expected)}, got {sorted(got)}")
