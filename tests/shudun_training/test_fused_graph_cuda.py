"""The fused graph for CUDA, run on the CPU: equal to torch in fp32, close in fp16, its nodes counted, its gate."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from lively_bert import lively
from onnx import TensorProto
from transformers import BertConfig, BertForSequenceClassification, ErnieConfig, ErnieForSequenceClassification

from shudun.batching import Batching
from shudun.session import INPUTS, OUTPUTS, GraphSession
from shudun_training.export_graph import export_graph
from shudun_training.finetune import predict_logits
from shudun_training.fused_graph_cuda import HALF_EPSILON, build_cuda_graph
from shudun_training.onnx_export import GateError, check_parity

LAYERS = 3
TINY = {
    "vocab_size": 300,
    "hidden_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 32,
    "num_labels": 4,
}
SHAPES = {"Shape", "Size", "Reshape", "Expand", "ConstantOfShape", "Concat", "Range"}
"""Nodes that onnxruntime would put on the CPU, or that need one there."""


@pytest.fixture(scope="module")
def model():
    return lively(BertForSequenceClassification(BertConfig(**TINY)))


def census(graph):
    return Counter(node.op_type for node in onnx.load_from_string(graph).graph.node)


def epsilons(graph):
    return [x.f for node in graph.node for x in node.attribute if x.name == "epsilon"]


MODELS = [
    lambda: BertForSequenceClassification(BertConfig(**TINY)),
    lambda: BertForSequenceClassification(BertConfig(**TINY, hidden_act="gelu_new")),
    lambda: BertForSequenceClassification(BertConfig(**TINY, hidden_act="gelu_pytorch_tanh")),
    lambda: BertForSequenceClassification(BertConfig(**TINY, hidden_act="relu")),
    lambda: BertForSequenceClassification(BertConfig(**TINY | {"num_hidden_layers": 1, "hidden_size": 36})),
    lambda: ErnieForSequenceClassification(ErnieConfig(**TINY)),
]


@pytest.mark.parametrize("make", MODELS, ids=["bert", "gelu_new", "tanh", "relu", "one-layer", "ernie"])
def test_in_fp32_it_equals_torch_on_parents_empty_emoji_and_longest_texts(make, trained, items):
    model = lively(make())
    parity = check_parity(model, build_cuda_graph(model, half=False), trained.encoder, items)
    assert parity.max_abs_logit <= 2e-5


@pytest.mark.parametrize("make", MODELS[:4], ids=["bert", "gelu_new", "tanh", "relu"])
def test_in_fp16_it_is_close_to_torch_and_returns_float32(make, trained, items):
    model = lively(make())
    expected = predict_logits(model, trained.encoder, items)
    session = GraphSession(build_cuda_graph(model), device="cpu", threads=1)
    got = session.start(trained.encoder.encode(items), Batching(512))()
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == np.float32
        assert 0 < np.abs(a - b).max() < 0.02
        assert np.abs(a - b).mean() < 0.005 * b.std()


@pytest.mark.parametrize(("half", "tolerance"), [(False, 2e-5), (True, 0.01)])
def test_padding_changes_nothing_but_the_last_bits(half, tolerance, model, trained, items):
    session = GraphSession(build_cuda_graph(model, half=half), device="cpu", threads=1)
    encoded = trained.encoder.encode(items)
    exact = session.start(encoded, Batching(1))()
    padded = session.start(encoded, Batching(100_000, length_step=32))()
    for a, b in zip(exact, padded, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


def test_what_stands_at_padded_positions_never_matters(model):
    session = GraphSession(build_cuda_graph(model), device="cpu", threads=1)._own().session
    rng = np.random.default_rng(0)
    lengths = np.array([24, 1, 7, 16])
    real = (np.arange(24) < lengths[:, None]).astype(np.int64)
    feeds = [
        {"input_ids": rng.integers(5, 300, real.shape) * (1 - real) + 9 * real, "attention_mask": real}
        | {"token_type_ids": rng.integers(0, 2, real.shape) * (1 - real)}
        for _ in range(2)
    ]
    first, second = (session.run(list(OUTPUTS), feed) for feed in feeds)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("activation", "fused"), [("gelu", "BiasGelu"), ("gelu_new", "FastGelu")])
def test_the_census_of_nodes(activation, fused):
    model = lively(BertForSequenceClassification(BertConfig(**TINY, hidden_act=activation)))
    nodes = census(build_cuda_graph(model))
    assert nodes["MultiHeadAttention"] == nodes[fused] == LAYERS
    assert nodes["SkipLayerNormalization"] == 2 * LAYERS
    assert nodes["EmbedLayerNormalization"] == 1
    assert nodes["MatMul"] == 6 * LAYERS  # Q, K, V, output, two of the feed-forward part
    assert nodes["Add"] == LAYERS + 1  # the bias of Q; the attention bias
    assert nodes["Gemm"] == 2  # pooler and classifier
    assert not {"Softmax", "Erf", "ReduceMean", "Transpose", "LayerNormalization", "Gelu"} & set(nodes)
    assert not SHAPES & set(nodes)


def test_every_weight_of_the_encoder_is_fp16_and_every_epsilon_survives_it(model):
    graph = onnx.load_from_string(build_cuda_graph(model)).graph
    kinds = {x.name: x.data_type for x in graph.initializer}
    single = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT}
    assert single == {f"{name}.{part}" for name in ("pooler", "logits") for part in ("weight", "bias")}
    assert set(kinds.values()) == {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64}
    assert epsilons(graph) == pytest.approx([HALF_EPSILON] * (2 * LAYERS + 1))
    assert np.float16(HALF_EPSILON) > 0
    single = onnx.load_from_string(build_cuda_graph(model, half=False)).graph
    assert epsilons(single) == pytest.approx([1e-12] * (2 * LAYERS + 1), rel=1e-3)


def test_inputs_and_outputs_are_those_of_every_graph(model):
    opened = onnxruntime.InferenceSession(build_cuda_graph(model), providers=["CPUExecutionProvider"])
    assert [(x.name, x.type) for x in opened.get_inputs()] == [(name, "tensor(int64)") for name in INPUTS]
    assert [(x.name, x.type) for x in opened.get_outputs()] == [(name, "tensor(float)") for name in OUTPUTS]


def test_fp16_is_the_cuda_form_and_a_generic_graph_has_standard_operators_alone(model, trained, monkeypatch):
    exported = export_graph(model, precision="fp16")
    assert exported.kind == "fused"
    assert census(exported.graph) == census(build_cuda_graph(model))
    monkeypatch.setattr("shudun_training.export_graph.export_stock_graph", lambda model: trained.graph)  # is that one
    generic = export_graph(model, kind="generic")
    assert (generic.kind, generic.note) == ("generic", "standard operators were asked for")
    assert {node.domain for node in onnx.load_from_string(generic.graph).graph.node} == {""}
    with pytest.raises(GateError, match="precision fp16 needs the fused graph"):
        export_graph(model, precision="fp16", kind="generic")


def test_a_model_that_cannot_be_fused_is_refused_in_fp16():
    model = BertForSequenceClassification(BertConfig(**TINY, hidden_act="silu"))
    with pytest.raises(GateError, match="silu"):
        export_graph(model, precision="fp16")
