"""Devices: what runs is what was asked for, and "auto" never takes a device that a bundle does not suit."""

from __future__ import annotations

from pathlib import Path

import pytest

from shudun import DeviceError
from shudun.devices import CUDA_OPTIONS, SHAPE_OPERATORS, GpuSettings, check_placement, provider_list, resolve_device

CPU = ["CPUExecutionProvider"]
CUDA = ["CUDAExecutionProvider", *CPU]
ALL = ["TensorrtExecutionProvider", *CUDA]


@pytest.mark.parametrize(
    ("precision", "available", "expected"),
    [
        ("fp32", CPU, "cpu"),
        ("fp32", ALL, "cuda"),
        ("fp16", ALL, "cuda"),
        ("int8", ALL, "cpu"),
        ("int8-dynamic", CUDA, "cpu"),
        ("of tomorrow", CUDA, "cuda"),
    ],
)
def test_auto_takes_the_best_device_that_suits_the_bundle(precision, available, expected):
    assert resolve_device("auto", available, precision=precision) == expected


def test_auto_does_not_fall_from_a_gpu_bundle_to_the_cpu():
    with pytest.raises(DeviceError, match=r"made for CUDA.*shudun\[gpu\].*fp32 or int8 bundle.*device='cpu' by name"):
        resolve_device("auto", CPU, precision="fp16")


def test_a_gpu_bundle_runs_on_a_cpu_that_is_asked_for_and_says_that_it_is_slow(caplog):
    assert resolve_device("cpu", CPU, precision="fp16") == "cpu"
    assert "slower than the fp32 one" in caplog.text
    caplog.clear()
    assert resolve_device("cpu", CPU, precision="fp32") == resolve_device("cpu", CPU, precision="int8") == "cpu"
    assert not caplog.records


@pytest.mark.parametrize(
    ("device", "precision", "graph", "message"),
    [
        ("cuda", "int8", "fused", "no GPU kernels.*--precision fp16"),
        ("cuda", "int8-dynamic", "fused", "precision int8-dynamic: int8 graphs have no GPU kernels"),
        ("tensorrt", "int8", "fused", "no GPU kernels"),
        ("tensorrt", "fp16", "fused", "--precision fp32 --graph generic"),
        ("tensorrt", "fp32", "fused", "fused operators.*export --graph generic"),
    ],
)
def test_a_device_that_does_not_suit_the_bundle_is_refused_with_what_to_do(device, precision, graph, message):
    with pytest.raises(DeviceError, match=message):
        resolve_device(device, ALL, precision=precision, graph=graph)


@pytest.mark.parametrize(("device", "available"), [("cuda", CPU), ("tensorrt", CUDA), ("tensorrt", CPU)])
def test_a_device_that_this_onnxruntime_lacks_is_refused(device, available):
    with pytest.raises(DeviceError, match=r"has no \w+ExecutionProvider.*pip install"):
        resolve_device(device, available, graph="generic")


def test_the_providers_of_a_device_stand_in_their_order_with_their_options():
    assert provider_list("cpu", GpuSettings()) == [("CPUExecutionProvider", {})]
    assert provider_list("cuda", GpuSettings()) == [("CUDAExecutionProvider", dict(CUDA_OPTIONS))]
    names = [name for name, _ in provider_list("tensorrt", GpuSettings())]
    assert names == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]


def test_a_memory_limit_reaches_the_provider():
    [(_, options)] = provider_list("cuda", GpuSettings(memory=123))
    assert options == {**CUDA_OPTIONS, "gpu_mem_limit": "123"}


def test_tensorrt_builds_one_engine_for_every_shape_that_can_come(tmp_path):
    settings = GpuSettings(rows=7, tokens=40, engine_cache=Path(tmp_path))
    options = dict(provider_list("tensorrt", settings))["TensorrtExecutionProvider"]
    expected = {"min": (1, 1), "opt": (3, 40), "max": (7, 40)}
    for name, (rows, tokens) in expected.items():
        shapes = dict(part.split(":") for part in options[f"trt_profile_{name}_shapes"].split(","))
        assert shapes == dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), f"{rows}x{tokens}")
    assert options["trt_engine_cache_path"] == str(tmp_path)
    assert "trt_engine_cache_enable" not in dict(provider_list("tensorrt", GpuSettings()))["TensorrtExecutionProvider"]


def test_work_beside_the_device_is_refused_and_shapes_are_not():
    on_gpu = [("CUDAExecutionProvider", kind) for kind in ("MatMul", "Attention", "Concat")]
    check_placement("cuda", on_gpu)
    check_placement("cuda", on_gpu + [("CPUExecutionProvider", kind) for kind in SHAPE_OPERATORS])
    with pytest.raises(DeviceError, match="MatMulIntegerToFloat, QuantizeLinear of this graph would not run on CUDA"):
        check_placement(
            "cuda", [*on_gpu, *(("CPUExecutionProvider", x) for x in ("QuantizeLinear", "MatMulIntegerToFloat", "Add"))]
        )
    with pytest.raises(DeviceError, match="Attention, MatMul of this graph would not run on Tensorrt"):
        check_placement("tensorrt", on_gpu)
