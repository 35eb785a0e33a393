"""The fused graph: equal to torch, its nodes counted, int8 that does not depend on batch mates, and its gate."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from lively_bert import lively
from transformers import BertConfig, BertForSequenceClassification, ErnieConfig, ErnieForSequenceClassification

from shudun.batching import Batching
from shudun.calibration import Calibration
from shudun.session import GraphSession
from shudun.tokenization import TokenBatch
from shudun_training.examples import POSITIVE, UNKNOWN
from shudun_training.export_graph import check_quantisation, export_graph
from shudun_training.onnx_export import GateError, check_parity, graph_outputs

TINY = {
    "vocab_size": 300,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 32,
    "num_labels": 4,
}


@pytest.fixture(scope="module")
def model():
    return lively(BertForSequenceClassification(BertConfig(**TINY)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: BertForSequenceClassification(BertConfig(**TINY)),
        lambda: BertForSequenceClassification(BertConfig(**TINY, hidden_act="gelu_new")),
        lambda: BertForSequenceClassification(BertConfig(**TINY, hidden_act="relu")),
        lambda: BertForSequenceClassification(BertConfig(**TINY | {"num_hidden_layers": 1, "hidden_size": 36})),
        lambda: ErnieForSequenceClassification(ErnieConfig(**TINY)),
    ],
    ids=["bert", "gelu_new", "relu", "one-layer", "ernie"],
)
def test_the_fused_graph_equals_torch_on_parents_empty_emoji_and_longest_texts(make, trained, items):
    model = lively(make())
    exported = export_graph(model)
    assert exported.kind == "fused"
    assert check_parity(model, exported.graph, trained.encoder, items).max_abs_logit <= 1e-5


def test_padding_changes_nothing_but_the_last_bits(model, trained, items):
    session = GraphSession(export_graph(model).graph, device="cpu", threads=1)
    encoded = trained.encoder.encode(items)
    exact = session.start(encoded, Batching(1))()
    padded = session.start(encoded, Batching(100_000, length_step=32))()
    for a, b in zip(exact, padded, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_census_of_nodes(model):
    layers = TINY["num_hidden_layers"]
    census = Counter(node.op_type for node in onnx.load_from_string(export_graph(model).graph).graph.node)
    assert census["Attention"] == layers - 1  # the last layer's is for [CLS] alone:
    assert (census["Softmax"], census["FusedMatMul"], census["MatMul"]) == (1, 3, 1)
    assert census["LayerNormalization"] == 2 * layers + 1
    assert census["Gelu"] == layers
    assert census["Gemm"] == 6 * layers - 2 + 2  # no keys and values in the last layer; pooler and classifier
    assert not {"Erf", "ReduceMean", "Split", "SkipLayerNormalization"} & set(census)


def test_the_census_of_int8_nodes(model, trained, items):
    graph = export_graph(model, precision="int8", encoder=trained.encoder, calibration_items=items).graph
    census = Counter(node.op_type for node in onnx.load_from_string(graph).graph.node)
    products = 6 * TINY["num_hidden_layers"] - 2
    assert census["MatMulIntegerToFloat"] == products
    assert census["QuantizeLinear"] == 4 * TINY["num_hidden_layers"]  # query, key and value share theirs
    assert census["Gemm"] == 2
    weights = {tensor.name: tensor for tensor in onnx.load_from_string(graph).graph.initializer}
    integers = [name for name in weights if name.endswith(".weight.int8")]
    assert len(integers) == products
    assert all(weights[name].data_type == onnx.TensorProto.INT8 for name in integers)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_score_never_depends_on_batch_mates_position_or_threads(precision, model, trained, items):
    exported = export_graph(model, precision=precision, encoder=trained.encoder, calibration_items=items)
    encoder, rng = trained.encoder, np.random.default_rng(0)
    alone = GraphSession(exported.graph, device="cpu", threads=1)
    expected = np.concatenate([alone.start(encoder.encode([item]), Batching(1))()[0] for item in items])
    assert np.unique(expected, axis=0).shape[0] > len(items) // 2
    for threads in (1, 3):
        session = GraphSession(exported.graph, device="cpu", threads=threads)
        for _ in range(10):
            chosen = rng.integers(0, len(items), rng.integers(1, 60))
            encoded = encoder.encode([items[i] for i in chosen])
            logits, _ = session.start(encoded, Batching(int(rng.integers(1, 2000))))()
            assert (logits == expected[chosen]).all()


def test_the_size_of_a_batch_changes_no_bit_of_a_wide_model():
    # Products over more than 128 values are summed in blocks, whose size must not depend on the number of texts.
    shape = {"hidden_size": 320, "num_attention_heads": 10, "intermediate_size": 640, "num_hidden_layers": 2}
    model = lively(BertForSequenceClassification(BertConfig(**TINY | shape)))
    session = GraphSession(export_graph(model).graph, device="cpu", threads=1)
    rng = np.random.default_rng(0)
    for length in (2, 17):
        ids = rng.integers(0, model.config.vocab_size, (40, length))

        def run(rows: slice, ids=ids):
            shape = ids[rows].shape
            ones, zeros = np.ones(shape, np.int64), np.zeros(shape, np.int64)
            return session.run(TokenBatch(ids[rows], ones, zeros, np.zeros(len(ids[rows]), bool)))[1]

        alone = np.concatenate([run(slice(i, i + 1)) for i in range(40)])
        for size in (2, 15, 16, 17, 33, 40):
            assert (run(slice(0, size)) == alone[:size]).all()


def test_int8_is_close_to_fp32_and_dynamic_too(model, trained, items):
    fp32, _ = graph_outputs(export_graph(model).graph, trained.encoder, items)
    spread = fp32.std()
    for precision in ("int8", "int8-dynamic"):
        exported = export_graph(model, precision=precision, encoder=trained.encoder, calibration_items=items)
        got, _ = graph_outputs(exported.graph, trained.encoder, items)
        assert 0 < np.abs(got - fp32).mean() < 0.1 * spread


def test_static_int8_needs_texts(model):
    with pytest.raises(GateError, match="activation ranges"):
        export_graph(model, precision="int8")


def test_a_model_that_cannot_be_fused_says_why_and_is_exported_in_fp32_alone():
    model = lively(BertForSequenceClassification(BertConfig(**TINY, hidden_act="silu")))
    exported = export_graph(model)
    assert (exported.kind, "silu" in exported.note) == ("generic", True)
    with pytest.raises(GateError, match="silu"):
        export_graph(model, precision="int8-dynamic")


@pytest.fixture
def judged(points):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(400, len(points))).astype(np.float32) * 3
    labels = (logits + rng.normal(size=logits.shape) > 1).astype(np.int64) * POSITIVE
    labels[:50, 1] = UNKNOWN
    return logits, labels, Calibration.identity(len(points)), points


def test_the_quantisation_gate_measures_what_changed(judged):
    logits, labels, calibration, points = judged
    same = check_quantisation(logits, logits, labels, calibration, points)
    assert (same.max_ap_loss, same.max_abs_probability, same.flip_rate, same.texts) == (0, 0, 0, len(logits))
    nudged = logits + np.float32(0.01)
    loss = check_quantisation(logits, nudged, labels, calibration, points)
    assert 0 < loss.max_abs_probability < 0.01
    assert loss.max_ap_loss == 0  # the order is the same


def test_the_quantisation_gate_refuses_lost_precision_flips_and_nan(judged):
    logits, labels, calibration, points = judged
    noise = np.random.default_rng(2).normal(size=logits.shape).astype(np.float32)
    with pytest.raises(GateError, match="quantisation gate"):
        check_quantisation(logits, logits + 3 * noise, labels, calibration, points)
    with pytest.raises(GateError, match="decisions flip"):
        check_quantisation(logits, logits - np.float32(0.5), labels, calibration, points)
    with pytest.raises(GateError, match="non-finite"):
        check_quantisation(logits, np.where(noise > 3, np.nan, logits), labels, calibration, points)


def test_unknown_cells_do_not_count_in_the_gate(judged):
    logits, labels, calibration, points = judged
    changed = logits.copy()
    changed[:50, 1] *= -1
    assert check_quantisation(logits, changed, labels, calibration, points).flip_rate == 0
