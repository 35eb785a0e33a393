"""Which device runs a bundle, and what onnxruntime is told about it.

A device that was asked for either runs the model or raises; "auto" takes the best one that suits the bundle. Knows
precisions and provider options; knows nothing of tokens or texts. What each operator does on a GPU was looked up in
onnxruntime 1.31: see docs/experiments.md.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from shudun.errors import DeviceError

_log = logging.getLogger(__name__)

Device: TypeAlias = Literal["auto", "cpu", "cuda", "tensorrt"]

PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}
"""onnxruntime's providers of each device, the one that must do the work first."""

SUITABLE: Mapping[str, tuple[str, ...]] = {
    "fp32": ("cuda", "cpu", "tensorrt"),
    "fp16": ("cuda",),
    "int8": ("cpu",),
    "int8-dynamic": ("cpu",),
}
"""Devices that run a precision well, best first. "auto" never takes TensorRT, which builds an engine for minutes."""

SHAPE_OPERATORS = frozenset(
    {"Add", "Cast", "Concat", "Div", "Gather", "Mul", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze"}
)
"""What may run on a CPU beside a GPU: onnxruntime puts the nodes there that compute shapes."""

CUDA_OPTIONS: Mapping[str, str] = {
    # Batches differ in shape: doubling the arena at each new largest one would hold memory that nothing uses.
    "arena_extend_strategy": "kSameAsRequested",
    # fp32 means fp32; who wants speed takes the fp16 bundle, whose thresholds were fitted in fp16.
    "use_tf32": "0",
    # Flash 1, memory-efficient 2, plain 16. Without this, GPUs from compute capability 9.0 on take cuDNN's attention,
    # which compiles a graph for every new shape of a batch.
    "sdpa_kernel": "19",
}


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """What a GPU session may use.

    `memory`: most bytes of GPU memory for weights and activations, `None` for all of it. `engine_cache`: folder in
    which TensorRT keeps the engines it built. `rows`, `tokens`: the largest batch and the longest text that will come,
    which TensorRT builds its engine for.
    """

    memory: int | None = None
    engine_cache: Path | None = None
    rows: int = 256
    tokens: int = 512


def resolve_device(
    device: str, available: Collection[str], *, precision: str = "fp32", graph: str | None = None
) -> str:
    """The device to use for a bundle.

    Args:
        device: "auto", "cpu", "cuda" or "tensorrt".
        available: providers of this onnxruntime.
        precision: the bundle's; one that is not known here is taken for fp32.
        graph: how the bundle's graph was made, as its manifest records it, "fused" or "generic".

    Raises:
        DeviceError: unknown device, a provider that is not there, or a bundle that this device cannot run well.
    """
    suitable = SUITABLE.get(precision, SUITABLE["fp32"])
    if device == "auto":
        return _best(suitable, available, precision)
    if device not in PROVIDERS:
        raise DeviceError(f"device: expected auto, cpu, cuda or tensorrt, got {device!r}")
    _require_suitable(device, suitable, precision, graph)
    if PROVIDERS[device][0] not in available:
        raise DeviceError(f"device={device!r}: {_missing(device, available)}")
    return device


def _best(suitable: Collection[str], available: Collection[str], precision: str) -> str:
    for name in suitable:
        if name != "tensorrt" and PROVIDERS[name][0] in available:
            return name
    raise DeviceError(
        f"this bundle is of precision {precision}, made for CUDA: {_missing('cuda', available)}. Without a GPU use the "
        "fp32 or int8 bundle of the same run, or ask for device='cpu' by name"
    )


def _require_suitable(device: str, suitable: Collection[str], precision: str, graph: str | None) -> None:
    if device == "cpu" and precision == "fp16":
        # Of use to look into a GPU's scores elsewhere, and then asked for by name.
        _log.warning("an fp16 bundle on the CPU is slower than the fp32 one of the same run, and far slower than int8")
    elif device not in suitable:
        raise DeviceError(f"device={device!r} with a bundle of precision {precision}: {_advice(precision)}")
    if device == "tensorrt" and graph == "fused":
        raise DeviceError(
            "device='tensorrt': this bundle's graph is made of onnxruntime's fused operators, which TensorRT does not "
            "have. Export one of standard operators with: shudun export --graph generic"
        )


def provider_list(device: str, settings: GpuSettings) -> list[tuple[str, dict[str, str]]]:
    """The `providers` argument of onnxruntime for a resolved device."""
    options = {"CUDAExecutionProvider": _cuda_options(settings), "TensorrtExecutionProvider": _engine_options(settings)}
    return [(provider, options.get(provider, {})) for provider in PROVIDERS[device]]


def check_placement(device: str, nodes: Iterable[tuple[str, str]]) -> None:
    """Refuse a session whose work is not done where it was asked to be.

    Args:
        device: the resolved device, not "cpu".
        nodes: provider and operator of each node.

    Raises:
        DeviceError: an operator that is more than the computing of a shape runs somewhere else.
    """
    wanted = PROVIDERS[device][0]
    elsewhere = sorted({kind for provider, kind in nodes if provider != wanted and kind not in SHAPE_OPERATORS})
    if elsewhere:
        raise DeviceError(
            f"device={device!r}: {', '.join(elsewhere)} of this graph would not run on {wanted}, but beside it, node "
            "by node. Use a bundle that was exported for this device, or ask for another device"
        )


def _cuda_options(settings: GpuSettings) -> dict[str, str]:
    limit = {} if settings.memory is None else {"gpu_mem_limit": str(settings.memory)}
    return {**CUDA_OPTIONS, **limit}


def _engine_options(settings: GpuSettings) -> dict[str, str]:
    """TensorRT in fp16, with one engine for all shapes up to the largest: another shape would build a new one."""
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    shapes = {"min": (1, 1), "opt": (max(settings.rows // 2, 1), min(64, settings.tokens))}
    shapes["max"] = (settings.rows, settings.tokens)
    profile = {
        f"trt_profile_{name}_shapes": ",".join(f"{x}:{rows}x{tokens}" for x in inputs)
        for name, (rows, tokens) in shapes.items()
    }
    cache: dict[str, Any] = {}
    if settings.engine_cache is not None:
        cache = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(settings.engine_cache)}
    return {"trt_fp16_enable": "1", **profile, **cache}


def _missing(device: str, available: Collection[str]) -> str:
    extra = "" if device != "tensorrt" else " tensorrt"
    return (
        f"this onnxruntime has no {PROVIDERS[device][0]} (it has {', '.join(available)}). "
        f"Install it with: pip uninstall onnxruntime && pip install 'shudun[gpu]'{extra}"
    )


def _advice(precision: str) -> str:
    if precision == "fp16":
        return "TensorRT takes one exported with --precision fp32 --graph generic, and computes it in fp16"
    return "int8 graphs have no GPU kernels; use one exported with --precision fp16"
