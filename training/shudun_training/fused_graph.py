"""An ONNX graph built straight from the weights of a BERT-family classifier, with the operators that run fastest.

One embedding node; per layer one packed QKV product, one attention node, two layer-norms and one GELU; biases
inside the products. The last layer is computed for `[CLS]` alone, which is exact because nothing else is read
from it. How a linear layer is computed (fp32 or an int8 form) is the `Linear` strategy; the graph around it is
the same. Which operators those are was measured: see docs/experiments.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from transformers import PreTrainedModel

from shudun.session import INPUTS, OUTPUTS

FUSED_DOMAIN = "com.microsoft"
OPSET = 23
"""The first opset with an Attention operator; onnxruntime 1.23 and later run it."""

IR_VERSION = 11
MODEL_TYPES = ("bert", "ernie")
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


def unsupported_reason(model: PreTrainedModel) -> str | None:
    """Why this model cannot take the fused graph, or `None` when it can."""
    config = model.config
    if config.model_type not in MODEL_TYPES or not hasattr(model, "classifier"):
        return f"model type {config.model_type!r} is not one of {', '.join(MODEL_TYPES)}"
    if config.hidden_act not in ACTIVATIONS:
        return f"activation {config.hidden_act!r} is not one of {', '.join(ACTIVATIONS)}"
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        return "positions are not absolute"
    if getattr(config, "use_task_id", False):
        return "task-type embeddings"
    return None


class GraphBuilder:
    """Collects nodes and weights; every value has one name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._outputs: set[str] = set()

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add a weight once and return its name."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.array(array, order="C"), name)
        return name

    def add(self, kind: str, inputs: Sequence[str], *, output: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        self.add_many(kind, inputs, outputs=[output], domain=domain, **attributes)
        return output

    def add_many(
        self, kind: str, inputs: Sequence[str], *, outputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> None:
        """Add a node with several outputs; a node that is there already is not added again."""
        if outputs[0] not in self._outputs:
            self._outputs.add(outputs[0])
            name = f"{outputs[0]}/{kind}"
            self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes))

    def int64(self, *values: int) -> str:
        """A constant list of integers (shapes, axes)."""
        return self.constant(f"int64.{'_'.join(map(str, values))}", np.array(values, dtype=np.int64))

    def model(self, num_labels: int, hidden: int, extra_outputs: Sequence[str] = ()) -> bytes:
        """The serialised model; `extra_outputs` are inner values to expose (for calibration)."""
        info = helper.make_tensor_value_info
        widths = dict(zip(OUTPUTS, (num_labels, hidden), strict=True))
        outputs = [info(name, TensorProto.FLOAT, ["batch", width]) for name, width in widths.items()]
        outputs += [info(name, TensorProto.FLOAT, None) for name in extra_outputs]
        inputs = [info(name, TensorProto.INT64, ["batch", "seq_len"]) for name in INPUTS]
        graph = helper.make_graph(self.nodes, "shudun", inputs, outputs, list(self._constants.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED_DOMAIN, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="shudun")
        return bytes(model.SerializeToString())


class Linear(Protocol):
    """Computes `x @ weight + bias` of a layer called `name`; returns the output's name."""

    def __call__(
        self, builder: GraphBuilder, x: str, *, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> str:
        """Add the nodes of one product; `x` is `(tokens, in)`, `weight` `(in, out)`, `bias` `(out,)`."""


@dataclass(frozen=True, slots=True)
class FloatLinear:
    """fp32 product."""

    def __call__(
        self, builder: GraphBuilder, x: str, *, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> str:
        """One Gemm."""
        constants = [builder.constant(f"{name}.weight", weight), builder.constant(f"{name}.bias", bias)]
        return builder.add("Gemm", [x, *constants], output=f"{name}.out")


class RecordingLinear:
    """fp32 products that note which value enters each of them (for calibration)."""

    def __init__(self) -> None:
        self.inputs: dict[str, str] = {}

    def __call__(
        self, builder: GraphBuilder, x: str, *, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> str:
        """One Gemm; remembers `x` under `name`."""
        self.inputs[name] = x
        return FloatLinear()(builder, x, name=name, weight=weight, bias=bias)


def build_fused_graph(model: PreTrainedModel, linear: Linear, *, extra_outputs: Sequence[str] = ()) -> bytes:
    """Build the graph of a model for which `unsupported_reason` is `None`.

    Inputs and outputs as in `onnx_export`. `extra_outputs` names inner values to expose as well. Between the
    attention nodes all values are `(tokens, width)`: rows of the batch one after another.
    """
    weights = _Weights(model)
    builder = GraphBuilder()
    layers = range(model.config.num_hidden_layers)
    x = _embeddings(builder, weights)
    for layer in layers:
        x = _layer(builder, weights, linear, x, layer=layer, cls_only=layer == layers[-1])
    builder.add("Identity", [x], output="embedding")
    _head(builder, weights)
    return builder.model(weights.num_labels, weights.hidden, extra_outputs)


class _Weights:
    """The state dict as numpy arrays, addressed within the encoder."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.config: Any = model.config
        self._state: dict[str, NDArray[np.float32]] = {
            name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()
        }
        self._prefix = model.base_model_prefix

    @property
    def hidden(self) -> int:
        return int(self.config.hidden_size)

    @property
    def num_labels(self) -> int:
        return int(self._state["classifier.weight"].shape[0])

    def encoder(self, name: str) -> NDArray[np.float32]:
        return self._state[f"{self._prefix}.{name}"]

    def head(self, name: str) -> NDArray[np.float32]:
        return self._state[name]

    def matrix(self, module: str) -> NDArray[np.float32]:
        """Weight of a linear module as `(in, out)`."""
        return self.encoder(f"{module}.weight").T

    def bias(self, module: str) -> NDArray[np.float32]:
        return self.encoder(f"{module}.bias")


def _embeddings(builder: GraphBuilder, weights: _Weights) -> str:
    """Embeddings `(tokens, hidden)`; also adds the attention masks, True where a key is real."""
    ids, types = (builder.add("Cast", [name], output=f"{name}.int32", to=TensorProto.INT32) for name in INPUTS[::2])
    tables = [
        builder.constant(f"embeddings.{table}", weights.encoder(f"embeddings.{table}_embeddings.weight"))
        for table in ("word", "position", "token_type")
    ]
    builder.add_many(
        "EmbedLayerNormalization",
        [ids, types, *tables, *_norm_constants(builder, weights, "embeddings.LayerNorm")],
        outputs=["embeddings.out", "embeddings.unused"],
        domain=FUSED_DOMAIN,
        epsilon=weights.config.layer_norm_eps,
    )
    real = builder.add("Cast", ["attention_mask"], output="mask.real", to=TensorProto.BOOL)
    keys = builder.add("Unsqueeze", [real, builder.int64(1, 2)], output="mask.cls")
    length = builder.add("Shape", ["attention_mask"], output="length", start=1, end=2)
    square = builder.add("Concat", [builder.int64(1), builder.int64(1), length, length], output="mask.shape", axis=0)
    builder.add("Expand", [keys, square], output="mask.all")
    return builder.add("Reshape", ["embeddings.out", builder.int64(-1, weights.hidden)], output="tokens")


def _layer(builder: GraphBuilder, weights: _Weights, linear: Linear, x: str, *, layer: int, cls_only: bool) -> str:
    path = f"encoder.layer.{layer}"
    own = _cls_rows(builder, weights, x, path) if cls_only else x
    context = _attention(builder, weights, linear, x, own, path=f"{path}.attention", cls_only=cls_only)

    def dense(source: str, module: str) -> str:
        return linear(builder, source, name=module, weight=weights.matrix(module), bias=weights.bias(module))

    def add_and_norm(source: str, residual: str, module: str) -> str:
        # onnxruntime's SkipLayerNormalization is several times slower on a CPU than these two nodes.
        total = builder.add("Add", [dense(source, f"{module}.dense"), residual], output=f"{module}.sum")
        norm = _norm_constants(builder, weights, f"{module}.LayerNorm")
        epsilon = weights.config.layer_norm_eps
        return builder.add("LayerNormalization", [total, *norm], output=f"{module}.out", axis=-1, epsilon=epsilon)

    attended = add_and_norm(context, own, f"{path}.attention.output")
    wide = dense(attended, f"{path}.intermediate.dense")
    return add_and_norm(_activation(builder, wide, weights.config.hidden_act), attended, f"{path}.output")


def _cls_rows(builder: GraphBuilder, weights: _Weights, x: str, path: str) -> str:
    """The `[CLS]` row of each text, `(batch, hidden)`."""
    shape = builder.add("Shape", ["input_ids"], output="shape")
    target = builder.add("Concat", [shape, builder.int64(weights.hidden)], output="shape.hidden", axis=0)
    rows = builder.add("Reshape", [x, target], output=f"{path}.rows")
    return builder.add("Gather", [rows, builder.constant("int64.first", np.array(0))], output=f"{path}.cls", axis=1)


def _attention(
    builder: GraphBuilder, weights: _Weights, linear: Linear, x: str, own: str, *, path: str, cls_only: bool
) -> str:
    """Context of the `own` rows over all rows, `(tokens, hidden)` or `(batch, hidden)`."""
    parts = [f"{path}.self.{part}" for part in ("query", "key", "value")]
    matrices, biases = [weights.matrix(part) for part in parts], [weights.bias(part) for part in parts]
    names = [f"{path}.{part}" for part in ("query", "key", "value")]

    def product(source: str, name: str, chosen: slice) -> str:
        weight, bias = np.concatenate(matrices[chosen], axis=1), np.concatenate(biases[chosen])
        return linear(builder, source, name=f"{path}.{name}", weight=weight, bias=bias)

    if cls_only:
        names[0] = product(own, "q", slice(0, 1))
        builder.add_many("Split", [product(x, "kv", slice(1, 3))], outputs=names[1:], axis=-1, num_outputs=2)
    else:
        builder.add_many("Split", [product(x, "qkv", slice(0, 3))], outputs=names, axis=-1, num_outputs=3)
    batch = builder.add("Shape", ["input_ids"], output="batch", start=0, end=1)
    target = builder.add("Concat", [batch, builder.int64(-1, weights.hidden)], output="shape.rows", axis=0)
    rows = [builder.add("Reshape", [name, target], output=f"{name}.rows") for name in names]
    heads = weights.config.num_attention_heads
    mask = "mask.cls" if cls_only else "mask.all"
    context = builder.add("Attention", [*rows, mask], output=f"{path}.context", q_num_heads=heads, kv_num_heads=heads)
    return builder.add("Reshape", [context, builder.int64(-1, weights.hidden)], output=f"{path}.context.rows")


def _activation(builder: GraphBuilder, x: str, kind: str) -> str:
    if kind == "relu":
        return builder.add("Relu", [x], output=f"{x}.active")
    return builder.add("Gelu", [x], output=f"{x}.active", approximate="none" if kind == "gelu" else "tanh")


def _head(builder: GraphBuilder, weights: _Weights) -> None:
    def dense(source: str, name: str, output: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        constants = [builder.constant(f"{name}.weight", weight), builder.constant(f"{name}.bias", bias)]
        return builder.add("Gemm", [source, *constants], output=output, transB=1)

    pooler = [weights.encoder(f"pooler.dense.{part}") for part in ("weight", "bias")]
    pooled = dense("embedding", "pooler", "pooler.out", *pooler)
    active = builder.add("Tanh", [pooled], output="pooler.tanh")
    dense(active, "classifier", "logits", *(weights.head(f"classifier.{part}") for part in ("weight", "bias")))


def _norm_constants(builder: GraphBuilder, weights: _Weights, module: str) -> list[str]:
    return [builder.constant(f"{module}.{part}", weights.encoder(f"{module}.{part}")) for part in ("weight", "bias")]
