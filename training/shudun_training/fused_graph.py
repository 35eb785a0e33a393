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

    def extend(self, graph: onnx.GraphProto) -> None:
        """Add what was collected behind the nodes of another graph, which holds none of these names."""
        taken = {tensor.name for tensor in graph.initializer}.union(*(node.output for node in graph.node))
        if both := sorted(taken & (self._outputs | self._constants.keys())):
            raise ValueError(f"the graph holds these names already: {', '.join(both)}")
        graph.node.extend(self.nodes)
        graph.initializer.extend(self._constants.values())

    def model(self, num_labels: int, hidden: int, extra_outputs: Sequence[str] = (), *, opset: int = OPSET) -> bytes:
        """The serialised model; `extra_outputs` are inner values to expose (for calibration)."""
        info = helper.make_tensor_value_info
        widths = dict(zip(OUTPUTS, (num_labels, hidden), strict=True))
        outputs = [info(name, TensorProto.FLOAT, ["batch", width]) for name, width in widths.items()]
        outputs += [info(name, TensorProto.FLOAT, None) for name in extra_outputs]
        inputs = [info(name, TensorProto.INT64, ["batch", "seq_len"]) for name in INPUTS]
        graph = helper.make_graph(self.nodes, "shudun", inputs, outputs, list(self._constants.values()))
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid(FUSED_DOMAIN, 1)]
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
    weights = Weights(model)
    builder = GraphBuilder()
    layers = range(model.config.num_hidden_layers)
    x = _embeddings(builder, weights)
    for layer in layers:
        x = _layer(builder, weights, linear, x, layer=layer, cls_only=layer == layers[-1])
    builder.add("Identity", [x], output="embedding")
    _head(builder, weights)
    return builder.model(weights.num_labels, weights.hidden, extra_outputs)


class Weights:
    """The state dict as float32 numpy arrays, addressed within the encoder."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.config: Any = model.config
        self._state: dict[str, NDArray[np.float32]] = {
            name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()
        }
        self._prefix = model.base_model_prefix

    @property
    def hidden(self) -> int:
        """Width of the encoder."""
        return int(self.config.hidden_size)

    @property
    def num_labels(self) -> int:
        """Outputs of the classifier."""
        return int(self._state["classifier.weight"].shape[0])

    def encoder(self, name: str) -> NDArray[np.float32]:
        """A weight of the encoder."""
        return self._state[f"{self._prefix}.{name}"]

    def head(self, name: str) -> NDArray[np.float32]:
        """A weight outside the encoder."""
        return self._state[name]

    def matrix(self, module: str) -> NDArray[np.float32]:
        """Weight of a linear module as `(in, out)`."""
        return self.encoder(f"{module}.weight").T

    def bias(self, module: str) -> NDArray[np.float32]:
        """Bias of a linear module, `(out,)`."""
        return self.encoder(f"{module}.bias")


def _embeddings(builder: GraphBuilder, weights: Weights) -> str:
    """Embeddings `(tokens, hidden)`; also adds the attention masks, True where a key is real."""
    length = builder.add("Shape", ["attention_mask"], output="length", start=1, end=2)
    word = builder.constant("embeddings.word", weights.encoder("embeddings.word_embeddings.weight"))
    # Position and segment share one table: two gathers and one sum, faster than EmbedLayerNormalization.
    positions = weights.encoder("embeddings.position_embeddings.weight")
    types = weights.encoder("embeddings.token_type_embeddings.weight")
    places = builder.constant("embeddings.places", (types[:, None] + positions[None]).reshape(-1, weights.hidden))
    every = builder.constant("positions", np.arange(len(positions)))
    used = builder.add("Slice", [every, builder.int64(0), length], output="positions.used")
    offset = builder.add("Mul", ["token_type_ids", builder.int64(len(positions))], output="segment.offset")
    place = builder.add("Add", [offset, used], output="place")
    rows = [
        builder.add("Gather", [table, index], output=f"{table}.rows")
        for table, index in ((word, "input_ids"), (places, place))
    ]
    total = builder.add("Add", rows, output="embeddings.sum")
    flat = builder.add("Reshape", [total, builder.int64(-1, weights.hidden)], output="embeddings.flat")
    real = builder.add("Cast", ["attention_mask"], output="mask.real", to=TensorProto.BOOL)
    builder.add("Unsqueeze", [real, builder.int64(1)], output="mask.cls")
    keys = builder.add("Unsqueeze", [real, builder.int64(1, 2)], output="mask.keys")
    square = builder.add("Concat", [builder.int64(1), builder.int64(1), length, length], output="mask.shape", axis=0)
    builder.add("Expand", [keys, square], output="mask.all")
    return _layer_norm(builder, weights, flat, "embeddings")


def _layer(builder: GraphBuilder, weights: Weights, linear: Linear, x: str, *, layer: int, cls_only: bool) -> str:
    path = f"encoder.layer.{layer}"

    def dense(source: str, module: str) -> str:
        return linear(builder, source, name=module, weight=weights.matrix(module), bias=weights.bias(module))

    def add_and_norm(source: str, residual: str, module: str) -> str:
        # onnxruntime's SkipLayerNormalization is several times slower on a CPU than these two nodes.
        total = builder.add("Add", [dense(source, f"{module}.dense"), residual], output=f"{module}.sum")
        return _layer_norm(builder, weights, total, module)

    own, attention = x, f"{path}.attention"
    if cls_only:
        rows = _rows(builder, weights, x)
        own = builder.add("Gather", [rows, builder.constant("int64.first", np.array(0))], output=f"{path}.cls", axis=1)
        query = dense(own, f"{attention}.self.query")
        context = _cls_attention(builder, weights, query, rows, f"{attention}.self")
    else:
        # Three products, not one packed: the split of a packed result costs a copy of it.
        names = [dense(x, f"{attention}.self.{part}") for part in ("query", "key", "value")]
        context = _attention(builder, weights, names, f"{attention}.self")
    attended = add_and_norm(context, own, f"{attention}.output")
    wide = dense(attended, f"{path}.intermediate.dense")
    return add_and_norm(_activation(builder, wide, weights.config.hidden_act), attended, f"{path}.output")


def _attention(builder: GraphBuilder, weights: Weights, names: Sequence[str], path: str) -> str:
    """Context `(tokens, hidden)` of every token, from query, key and value of the same shape."""
    rows = [_rows(builder, weights, name) for name in names]
    heads = weights.config.num_attention_heads
    inputs = [*rows, "mask.all"]
    context = builder.add("Attention", inputs, output=f"{path}.context", q_num_heads=heads, kv_num_heads=heads)
    return builder.add("Reshape", [context, builder.int64(-1, weights.hidden)], output=f"{path}.context.flat")


def _cls_attention(builder: GraphBuilder, weights: Weights, query: str, rows: str, path: str) -> str:
    """Context `(batch, hidden)` of the `[CLS]` queries `(batch, hidden)` over `rows` `(batch, seq_len, hidden)`.

    Keys and values are never formed: `q·(x·Wk + bk) = (q·Wkᵀ)·x + const`, where softmax drops the constant, and
    `Σ a·(x·Wv + bv) = (Σ a·x)·Wv + bv`. So the work per token is a product with `heads` vectors, not two matrices.
    """
    hidden, heads = weights.hidden, int(weights.config.num_attention_heads)
    width = hidden // heads
    key = weights.matrix(f"{path}.key").reshape(hidden, heads, width).transpose(1, 2, 0)
    value = weights.matrix(f"{path}.value").reshape(hidden, heads, width).transpose(1, 0, 2)

    def product(a: str, b: str, name: str, *, scale: float, transposed: int = 0) -> str:
        options = {"alpha": scale, "transB": transposed}
        return builder.add("FusedMatMul", [a, b], output=f"{path}.{name}", domain=FUSED_DOMAIN, **options)

    def swapped(x: str, name: str) -> str:
        """Texts before heads as heads before texts, or back."""
        return builder.add("Transpose", [x], output=f"{path}.{name}", perm=[1, 0, 2])

    # Texts are the rows of the products with weights, and a factor is not 1: of a product's other axes, and of one
    # row times a factor of 1, onnxruntime chooses blocks and kernels by size, and the last bits follow.
    by_head = builder.add("Reshape", [query, builder.int64(-1, heads, width)], output=f"{path}.query.rows")
    keys, values = builder.constant(f"{path}.keys", key), builder.constant(f"{path}.values", 2 * value)
    wanted = product(swapped(by_head, "query.heads"), keys, "wanted.heads", scale=width**-0.5)
    scores = product(swapped(wanted, "wanted"), rows, "scores", scale=1.0, transposed=1)
    lowest = builder.constant("float.lowest", np.array(-np.inf, dtype=np.float32))
    masked = builder.add("Where", ["mask.cls", scores, lowest], output=f"{path}.scores.masked")
    shares = builder.add("Softmax", [masked], output=f"{path}.shares", axis=-1)
    mixed = builder.add("MatMul", [shares, rows], output=f"{path}.mixed")
    context = product(swapped(mixed, "mixed.heads"), values, "context.heads", scale=0.5)
    back = swapped(context, "context.rows")
    flat = builder.add("Reshape", [back, builder.int64(-1, hidden)], output=f"{path}.context.flat")
    bias = builder.constant(f"{path}.value.bias", weights.bias(f"{path}.value"))
    return builder.add("Add", [flat, bias], output=f"{path}.context.biased")


def _rows(builder: GraphBuilder, weights: Weights, x: str) -> str:
    """`(tokens, hidden)` as `(batch, seq_len, hidden)`."""
    shape = builder.add("Shape", ["input_ids"], output="shape")
    target = builder.add("Concat", [shape, builder.int64(weights.hidden)], output="shape.hidden", axis=0)
    return builder.add("Reshape", [x, target], output=f"{x}.rows")


def _layer_norm(builder: GraphBuilder, weights: Weights, x: str, module: str) -> str:
    norm = [
        builder.constant(f"{module}.{part}", weights.encoder(f"{module}.LayerNorm.{part}"))
        for part in ("weight", "bias")
    ]
    epsilon = weights.config.layer_norm_eps
    return builder.add("LayerNormalization", [x, *norm], output=f"{module}.out", axis=-1, epsilon=epsilon)


def _activation(builder: GraphBuilder, x: str, kind: str) -> str:
    if kind == "relu":
        return builder.add("Relu", [x], output=f"{x}.active")
    return builder.add("Gelu", [x], output=f"{x}.active", approximate="none" if kind == "gelu" else "tanh")


def _head(builder: GraphBuilder, weights: Weights) -> None:
    def dense(source: str, name: str, output: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        constants = [builder.constant(f"{name}.weight", weight), builder.constant(f"{name}.bias", bias)]
        return builder.add("Gemm", [source, *constants], output=output, transB=1)

    pooler = [weights.encoder(f"pooler.dense.{part}") for part in ("weight", "bias")]
    pooled = dense("embedding", "pooler", "pooler.out", *pooler)
    active = builder.add("Tanh", [pooled], output="pooler.tanh")
    dense(active, "classifier", "logits", *(weights.head(f"classifier.{part}") for part in ("weight", "bias")))
