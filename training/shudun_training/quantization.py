"""int8 products for the fused graph, and the activation ranges that the static form needs.

Weights are int8 per output channel, symmetric. `StaticInt8Linear` uses one activation scale per product, fixed
at export from real text: a text's score then cannot depend on its batch mates. `DynamicInt8Linear` lets
onnxruntime find a scale per batch: it needs no calibration, but the score of a text moves with its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from transformers import PreTrainedModel

from shudun.batching import plan_batches
from shudun.items import Item
from shudun.scorer import BATCHING
from shudun.tokenization import ItemTokenizer
from shudun_training.fused_graph import FUSED_DOMAIN, GraphBuilder, RecordingLinear, build_fused_graph

ZERO_POINT = 128
"""uint8 zero point of a symmetric activation range: onnxruntime's integer products want unsigned activations."""

CALIBRATION_TEXTS = 512
QUANTILE = 0.9999
"""Share of a product's input values that fit into its range; the rest, rare outliers, is clipped."""


@dataclass(frozen=True, slots=True)
class StaticInt8Linear:
    """int8 product with a fixed activation scale per layer, by layer name."""

    scales: Mapping[str, float]

    def __call__(
        self, builder: GraphBuilder, x: str, *, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> str:
        """Quantise the input with its fixed scale, multiply integers, return floats."""
        # The scale belongs to the value: products that share their input share its integers.
        scale = builder.constant(f"{x}.scale", np.array(self.scales[name], dtype=np.float32))
        zero = builder.constant("uint8.128", np.array(ZERO_POINT, dtype=np.uint8))
        quantised = builder.add("QuantizeLinear", [x, scale, zero], output=f"{x}.int8")
        return _integer_product(builder, [quantised, scale, zero], name=name, weight=weight, bias=bias)


@dataclass(frozen=True, slots=True)
class DynamicInt8Linear:
    """int8 product with an activation scale found per batch."""

    def __call__(
        self, builder: GraphBuilder, x: str, *, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> str:
        """Quantise the input with a scale found in this batch, multiply integers, return floats."""
        quantised = [f"{x}.int8", f"{x}.scale", f"{x}.zero"]
        builder.add_many("DynamicQuantizeLinear", [x], outputs=quantised)
        return _integer_product(builder, quantised, name=name, weight=weight, bias=bias)


def calibrate_scales(
    model: PreTrainedModel, encoder: ItemTokenizer, items: Sequence[Item], *, seed: int = 0
) -> dict[str, float]:
    """Activation scale of each product, from up to `CALIBRATION_TEXTS` of the given texts.

    The range of a product's input is the largest, over batches, of the `QUANTILE` quantile of its magnitudes at
    real (unpadded) positions.
    """
    recorder = RecordingLinear()
    build_fused_graph(model, recorder)
    values = list(dict.fromkeys(recorder.inputs.values()))
    graph = build_fused_graph(model, RecordingLinear(), extra_outputs=values)
    chosen = np.random.default_rng(seed).permutation(len(items))[:CALIBRATION_TEXTS]
    ranges = _value_ranges(graph, encoder, [items[i] for i in chosen], values)
    return {name: max(ranges[value], 1e-6) / 127 for name, value in recorder.inputs.items()}


def _value_ranges(
    graph: bytes, encoder: ItemTokenizer, items: Sequence[Item], values: Sequence[str]
) -> dict[str, float]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    encoded = encoder.encode(items)
    ranges = dict.fromkeys(values, 0.0)
    for planned in plan_batches(encoded.lengths, BATCHING["cpu"], max_length=encoded.max_length):
        batch = encoded.batch(*planned)
        real = batch.attention_mask.astype(bool).ravel()
        for value, array in zip(values, session.run(list(values), batch.feeds()), strict=True):
            # Values of the last layer hold one row per text, the [CLS] position, which is always real.
            used = array[real] if len(array) == len(real) else array
            ranges[value] = max(ranges[value], float(np.quantile(np.abs(used), QUANTILE)))
    return ranges


def _integer_product(
    builder: GraphBuilder,
    quantised: Sequence[str],
    *,
    name: str,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> str:
    """Product of a quantised value (integers, scale, zero point) with int8 weights, as floats with the bias added."""
    integers, scale, zero = quantised
    channel_scale = np.maximum(np.abs(weight).max(axis=0), 1e-12) / 127
    constants = (
        builder.constant(f"{name}.weight.int8", np.clip(np.round(weight / channel_scale), -127, 127).astype(np.int8)),
        builder.constant(f"{name}.weight.scale", channel_scale.astype(np.float32)),
        builder.constant(f"{name}.weight.zero", np.zeros(weight.shape[1], dtype=np.int8)),
        builder.constant(f"{name}.bias", bias),
    )
    inputs = [integers, constants[0], scale, constants[1], zero, *constants[2:]]
    return builder.add("MatMulIntegerToFloat", inputs, output=f"{name}.out", domain=FUSED_DOMAIN)
