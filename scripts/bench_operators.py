"""Which onnxruntime operators are fastest on this CPU for the parts of an encoder layer, one thread each.

python scripts/bench_operators.py [--json OUT]

Prints the 20th percentile of the run time in microseconds, for 512 tokens. The fused graph is built from the winners.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from shudun_training.fused_graph import FUSED_DOMAIN, IR_VERSION, OPSET

TOKENS = 512
LENGTH = 24
HEADS = 12
EPSILON = 1e-12
node = helper.make_node

Case = tuple[list[NodeProto], dict[str, np.ndarray]]


def norm_cases(width: int) -> dict[str, Case]:
    x, y = _random(TOKENS, width), _random(TOKENS, width)
    constants = {"g": np.ones(width, np.float32), "b": np.zeros(width, np.float32), "bias": _random(width)}
    feeds = {"x": x, "y": y, **constants}
    skip = node("SkipLayerNormalization", ["x", "y", "g", "b", "bias"], ["o"], domain=FUSED_DOMAIN, epsilon=EPSILON)
    plain = [
        node("Add", ["x", "y"], ["s0"]),
        node("Add", ["s0", "bias"], ["s"]),
        node("LayerNormalization", ["s", "g", "b"], ["o"], axis=-1, epsilon=EPSILON),
    ]
    return {"SkipLayerNormalization": ([skip], feeds), "Add + Add + LayerNormalization": (plain, feeds)}


def activation_cases(width: int) -> dict[str, Case]:
    feeds = {"x": _random(TOKENS, 4 * width), "bias": _random(4 * width)}
    return {
        "BiasGelu": ([node("BiasGelu", ["x", "bias"], ["o"], domain=FUSED_DOMAIN)], feeds),
        "Gelu": ([node("Gelu", ["x"], ["o"])], {"x": feeds["x"]}),
    }


def attention_cases(width: int) -> dict[str, Case]:
    batch = TOKENS // LENGTH
    feeds = {name: _random(batch, LENGTH, width) for name in ("q", "k", "v")}
    fused = node("MultiHeadAttention", ["q", "k", "v", "bias", "mask"], ["o"], domain=FUSED_DOMAIN, num_heads=HEADS)
    standard = node("Attention", ["q", "k", "v", "mask"], ["o"], q_num_heads=HEADS, kv_num_heads=HEADS)
    return {
        "MultiHeadAttention": (
            [fused],
            feeds | {"bias": _random(3 * width), "mask": np.ones((batch, LENGTH), np.int32)},
        ),
        "Attention": ([standard], feeds | {"mask": np.ones((batch, 1, LENGTH, LENGTH), np.bool_)}),
    }


def microseconds(case: Case, runs: int = 100) -> float:
    nodes, feeds = case
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
        if array.ndim > 1
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in feeds.items() if array.ndim == 1]
    output = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED_DOMAIN, 1)]
    model = helper.make_model(
        helper.make_graph(nodes, "case", inputs, [output], weights), opset_imports=opsets, ir_version=IR_VERSION
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {name: array for name, array in feeds.items() if array.ndim > 1}
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        session.run(None, given)
        times.append(time.perf_counter() - started)
    return float(np.percentile(times, 20) * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    target = parser.parse_args().json
    rows = []
    for width in (312, 768):
        for cases in (norm_cases, attention_cases, activation_cases):
            for name, case in cases(width).items():
                rows.append({"width": width, "operator": name, "microseconds": round(microseconds(case), 1)})
                print(f"{width:>5}  {name:<32} {rows[-1]['microseconds']:>8.1f} us", flush=True)
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


if __name__ == "__main__":
    main()
