"""The fused graph for CUDA: the operators of onnxruntime that have fast GPU kernels, in fp16 or fp32.

Values are `(batch, seq_len, width)` all through, so that no node computes a shape: such nodes would run on the
CPU. Biases are added where they cost nothing: inside BiasGelu and SkipLayerNormalization; those of keys and values
by algebra. As in `fused_graph`, the last layer is computed for `[CLS]` alone. Knows nothing of sessions or devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from transformers import PreTrainedModel

from shudun.session import INPUTS
from shudun_training.fused_graph import FUSED_DOMAIN, GraphBuilder, Weights

OPSET = 17
"""Old on purpose: onnxruntime's CUDA kernels of the standard operators used here cover it for certain."""

MASKED = -1e4
"""Added to the attention scores of padding: its softmax weight is then exactly 0, and fp16 can hold twice of it."""

HALF_EPSILON = 1e-5
"""Least epsilon of a layer-norm in fp16: a smaller one rounds to zero there, and a constant row divides by it."""


def build_cuda_graph(model: PreTrainedModel, *, half: bool = True) -> bytes:
    """Build the graph of a model for which `fused_graph.unsupported_reason` is `None`.

    Inputs and outputs as in `onnx_export`, the outputs always float32. With `half`, weights and activations of the
    encoder are fp16; the head, some rows a batch, stays float32. Padding may stand on either side of the real tokens.
    """
    form = _Form(GraphBuilder(), Weights(model), half=half)
    layers = range(model.config.num_hidden_layers)
    x = _embeddings(form)
    _attention_biases(form)
    for layer in layers:
        x = _layer(form, x, path=f"encoder.layer.{layer}", cls_only=layer == layers[-1])
    _head(form, x)
    return form.builder.model(form.weights.num_labels, form.weights.hidden, opset=OPSET)


@dataclass(frozen=True, slots=True)
class _Form:
    """The graph under construction, the weights, and the arithmetic of the encoder."""

    builder: GraphBuilder
    weights: Weights
    half: bool

    @property
    def tensor_type(self) -> int:
        return int(TensorProto.FLOAT16 if self.half else TensorProto.FLOAT)

    @property
    def epsilon(self) -> float:
        epsilon = float(self.weights.config.layer_norm_eps)
        return max(epsilon, HALF_EPSILON) if self.half else epsilon

    def constant(self, name: str, array: NDArray[np.float32]) -> str:
        return self.builder.constant(name, array.astype(np.float16 if self.half else np.float32))

    def norm(self, module: str) -> list[str]:
        names = [f"{module}.{part}" for part in ("weight", "bias")]
        return [self.constant(name, self.weights.encoder(name)) for name in names]

    def product(self, x: str, module: str) -> str:
        """`x @ weight` of a linear module, without its bias."""
        weight = self.constant(f"{module}.weight", self.weights.matrix(module))
        return self.builder.add("MatMul", [x, weight], output=f"{module}.product")


def _embeddings(form: _Form) -> str:
    builder, weights = form.builder, form.weights
    ids, types = (builder.add("Cast", [name], output=f"{name}.int32", to=TensorProto.INT32) for name in INPUTS[::2])
    tables = [
        form.constant(f"embeddings.{table}", weights.encoder(f"embeddings.{table}_embeddings.weight"))
        for table in ("word", "position", "token_type")
    ]
    builder.add_many(
        "EmbedLayerNormalization",
        [ids, types, *tables, *form.norm("embeddings.LayerNorm")],
        outputs=["embeddings.out", "embeddings.unused"],
        domain=FUSED_DOMAIN,
        epsilon=form.epsilon,
    )
    return "embeddings.out"


def _attention_biases(form: _Form) -> None:
    """`bias.cls` `(batch, 1, 1, seq_len)` and `bias.all` `(batch, 1, seq_len, seq_len)`: `MASKED` at padded keys.

    A mask of lengths would be smaller, but leaves newer GPUs (compute capability 9.0 and later) without any fused
    attention kernel; a bias keeps the memory-efficient one. A padded query adds the same to all of its scores, which
    changes nothing in a softmax and spares a node that expands shapes.
    """
    builder = form.builder
    real = builder.add("Cast", ["attention_mask"], output="mask.real", to=form.tensor_type)
    padding = builder.add("Sub", [real, form.constant("one", np.ones((), np.float32))], output="mask.padding")
    penalty = form.constant("masked", np.array(-MASKED, dtype=np.float32))
    bias = builder.add("Mul", [padding, penalty], output="bias")
    keys = builder.add("Unsqueeze", [bias, builder.int64(1, 2)], output="bias.cls")
    queries = builder.add("Unsqueeze", [bias, builder.int64(1, 3)], output="bias.queries")
    builder.add("Add", [keys, queries], output="bias.all")


def _layer(form: _Form, x: str, *, path: str, cls_only: bool) -> str:
    own = x
    if cls_only:
        own = form.builder.add("Gather", [x, form.builder.int64(0)], output=f"{path}.cls", axis=1)
    context = _attention(form, x, own, path=f"{path}.attention", cls_only=cls_only)
    attended = _add_and_norm(form, context, own, f"{path}.attention.output", _output_bias(form, path))
    wide = _activation(form, form.product(attended, f"{path}.intermediate.dense"), f"{path}.intermediate.dense")
    return _add_and_norm(form, wide, attended, f"{path}.output", form.weights.bias(f"{path}.output.dense"))


def _attention(form: _Form, x: str, own: str, *, path: str, cls_only: bool) -> str:
    """Context of the `own` rows over all rows, without the bias of the values (see `_output_bias`).

    The bias of the keys is left out: it adds the same to all scores of a query, and a softmax does not see that.
    """
    builder = form.builder
    bias = form.constant(f"{path}.self.query.bias", form.weights.bias(f"{path}.self.query"))
    query = builder.add("Add", [form.product(own, f"{path}.self.query"), bias], output=f"{path}.self.query.out")
    key, value = (form.product(x, f"{path}.self.{part}") for part in ("key", "value"))
    return builder.add(
        "MultiHeadAttention",
        [query, key, value, "", "", "bias.cls" if cls_only else "bias.all"],
        output=f"{path}.context",
        domain=FUSED_DOMAIN,
        num_heads=form.weights.config.num_attention_heads,
    )


def _output_bias(form: _Form, path: str) -> NDArray[np.float32]:
    """Bias of the attention's output product, with that of the values carried through it.

    Attention weights add up to 1: adding `b` to every value adds `b` to every context row.
    """
    weights, module = form.weights, f"{path}.attention.output.dense"
    carried = weights.bias(f"{path}.attention.self.value").astype(np.float64) @ weights.matrix(module)
    return (carried + weights.bias(module)).astype(np.float32)


def _add_and_norm(form: _Form, source: str, residual: str, module: str, bias: NDArray[np.float32]) -> str:
    product = form.product(source, f"{module}.dense")
    inputs: Sequence[str] = [
        product,
        residual,
        *form.norm(f"{module}.LayerNorm"),
        form.constant(f"{module}.dense.bias", bias),
    ]
    return form.builder.add(
        "SkipLayerNormalization", inputs, output=f"{module}.out", domain=FUSED_DOMAIN, epsilon=form.epsilon
    )


def _activation(form: _Form, x: str, module: str) -> str:
    bias = form.constant(f"{module}.bias", form.weights.bias(module))
    kind, output = form.weights.config.hidden_act, f"{module}.active"
    if kind == "relu":
        return form.builder.add("Relu", [form.builder.add("Add", [x, bias], output=f"{module}.out")], output=output)
    # BiasGelu is the exact form by the error function, FastGelu the one by tanh.
    operator = "BiasGelu" if kind == "gelu" else "FastGelu"
    return form.builder.add(operator, [x, bias], output=output, domain=FUSED_DOMAIN)


def _head(form: _Form, x: str) -> None:
    """Pooler and classifier in float32, on the rows of `x` `(batch, 1, hidden)`."""
    builder, weights = form.builder, form.weights

    def dense(source: str, output: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        constants = [builder.constant(f"{output}.weight", weight), builder.constant(f"{output}.bias", bias)]
        return builder.add("Gemm", [source, *constants], output=output, transB=1)

    rows = builder.add("Squeeze", [x, builder.int64(1)], output="cls")
    builder.add("Cast", [rows], output="embedding", to=TensorProto.FLOAT)
    pooler = [weights.encoder(f"pooler.dense.{part}") for part in ("weight", "bias")]
    active = builder.add("Tanh", [dense("embedding", "pooler", *pooler)], output="pooler.tanh")
    dense(active, "logits", *(weights.head(f"classifier.{part}") for part in ("weight", "bias")))
