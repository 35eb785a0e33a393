"""The n-gram branch inside graphs: equal to the model it was fitted as, bit for bit the same in any company."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from lively_bert import lively
from onnx import TensorProto, helper, numpy_helper
from transformers import BertConfig, BertForSequenceClassification

from shudun import Comment, Scorer
from shudun.batching import Batching
from shudun.pooling import pool_windows
from shudun.session import INPUTS, OUTPUTS, GraphSession
from shudun.tokenization import Encoded, TokenBatch
from shudun_training.examples import UNKNOWN
from shudun_training.export_graph import export_graph
from shudun_training.finetune import predict_logits
from shudun_training.fused_graph import FloatLinear, build_fused_graph
from shudun_training.ngram_branch.branch import BlendWeights, NgramBranch
from shudun_training.ngram_branch.dictionary import build_dictionary
from shudun_training.ngram_branch.features import inverse_document_frequency
from shudun_training.ngram_branch.fitting import fit_branch
from shudun_training.ngram_branch.graph import BRANCH_LOGITS, ENCODER_LOGITS, add_branch, part_graph
from shudun_training.onnx_export import GateError, check_parity, graph_outputs

TINY = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "num_labels": 4,
}
VOCABULARY, LONGEST = 400, 512


@pytest.fixture(scope="module")
def model():
    return lively(BertForSequenceClassification(BertConfig(**TINY)))


@pytest.fixture(scope="module")
def branch(trained, texts):
    rows = [Comment(text, parent_text="这个怎么买" if i % 3 else "") for i in range(6) for text in texts]
    labels = np.random.default_rng(0).integers(0, 2, (len(rows), 4))
    labels[:20, 3] = UNKNOWN
    fitted = fit_branch(rows, labels, trained.encoder, max_order=2, min_df=2, inverse_regularisation=16.0)
    return replace(fitted, weights=BlendWeights(0.75, 1.25))


def encoded(rows):
    none, one = np.zeros(len(rows), np.bool_), np.ones(len(rows), np.int64)
    starts = np.cumsum([0, *map(len, rows)])
    return Encoded(np.concatenate(rows).astype(np.int64), starts, one, none, one, pad_id=0, max_length=LONGEST)


def random_rows(lengths, seed=1):
    """Rows of tokens of which a few are common and many stand once; a quarter of the vocabulary is in no dictionary."""
    rng = np.random.default_rng(seed)
    return [(rng.zipf(1.5, length) - 1) % VOCABULARY for length in lengths]


def random_branch(*, num_labels, max_order):
    rows = [row[row < 3 * VOCABULARY // 4] for row in random_rows([80] * 200, seed=0)]
    dictionary, frequency = build_dictionary(encoded(rows), max_order=max_order, min_df=2)
    rng = np.random.default_rng(2)
    return NgramBranch(
        dictionary,
        inverse_document_frequency(frequency, len(rows)),
        rng.normal(size=(len(dictionary), num_labels)).astype(np.float32),
        rng.normal(size=num_labels).astype(np.float32),
        VOCABULARY,
        LONGEST,
        BlendWeights(0.3, 1.7),
    )


def stub_graph(num_labels):
    """An encoder whose logits and embedding are read from a table by a row's first token."""
    info = helper.make_tensor_value_info
    table = np.random.default_rng(3).normal(size=(VOCABULARY, num_labels)).astype(np.float32)
    zero = numpy_helper.from_array(np.array(0), "zero")
    nodes = [
        helper.make_node("Gather", ["input_ids", "zero"], ["first"], axis=1),
        helper.make_node("Gather", ["table", "first"], ["logits"]),
        helper.make_node("Identity", ["logits"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "stub",
        [info(name, TensorProto.INT64, ["batch", "seq_len"]) for name in INPUTS],
        [info(name, TensorProto.FLOAT, ["batch", num_labels]) for name in OUTPUTS],
        [numpy_helper.from_array(table, "table"), zero],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString(), table


def run(session, ids, mask=None):
    mask = np.ones_like(ids) if mask is None else mask
    return session.run(TokenBatch(ids, mask, np.zeros_like(ids), np.zeros(len(ids), np.bool_)))[0]


@pytest.mark.parametrize("max_order", [1, 2, 3])
@pytest.mark.parametrize("num_labels", [1, 16])
def test_the_graph_computes_the_model_for_texts_of_every_length(num_labels, max_order):
    branch = random_branch(num_labels=num_labels, max_order=max_order)
    graph, table = stub_graph(num_labels)
    session = GraphSession(add_branch(graph, branch), device="cpu", threads=1)
    rows = random_rows([1, 2, 3, 4, 5, 17, 64, 127, 128, 129, 300, LONGEST])
    expected = 0.3 * table[[row[0] for row in rows]] + 1.7 * branch.logits(encoded(rows))
    got = np.concatenate([run(session, row[None]) for row in rows])
    assert got.dtype == np.float32
    assert np.ptp(expected, axis=0).min() > 1
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("num_labels", "max_order"), [(1, 2), (16, 2), (18, 3)])
def test_a_score_is_the_same_to_the_last_bit_in_any_batch_place_and_thread(num_labels, max_order):
    branch = random_branch(num_labels=num_labels, max_order=max_order)
    graph = add_branch(stub_graph(num_labels)[0], branch)
    sessions = [GraphSession(graph, device="cpu", threads=threads) for threads in (1, 3)]
    rng = np.random.default_rng(5)
    for length in (3, 8, 27, 31, 64, 127, 129, 300):
        rows = random_rows([length] * 40, seed=length)
        alone = np.concatenate([run(sessions[0], row[None]) for row in rows])
        for size in (2, 3, 7, 16, 17, 40):
            chosen = rng.integers(0, 40, size)
            got = sessions[0].run(encoded([rows[i] for i in chosen]).batch(np.arange(size)))[0]
            np.testing.assert_array_equal(got, alone[chosen])
        got, _ = sessions[1].start(encoded(rows), Batching(int(rng.integers(1, 4000))))()
        np.testing.assert_array_equal(got, alone)


def test_padding_on_either_side_adds_nothing_and_what_stands_there_never_matters():
    branch = random_branch(num_labels=16, max_order=3)
    session = GraphSession(part_graph(add_branch(stub_graph(16)[0], branch), BRANCH_LOGITS), device="cpu", threads=1)
    rows = random_rows([24, 1, 7, 16, 2])
    alone = np.concatenate([run(session, row[None]) for row in rows])
    rng = np.random.default_rng(0)
    for left in (False, True):
        outputs = []
        for _ in range(2):
            ids, mask = rng.integers(0, VOCABULARY, (5, 32)), np.zeros((5, 32), np.int64)
            for i, row in enumerate(rows):
                place = slice(32 - len(row), 32) if left else slice(0, len(row))
                ids[i, place], mask[i, place] = row, 1
            outputs.append(run(session, ids, mask))
        np.testing.assert_array_equal(*outputs)
        np.testing.assert_allclose(outputs[0], alone, atol=1e-6)


def test_texts_of_unseen_tokens_alone_get_the_bias_exactly():
    branch = random_branch(num_labels=16, max_order=2)
    graph = add_branch(stub_graph(16)[0], branch)
    session = GraphSession(part_graph(graph, BRANCH_LOGITS), device="cpu", threads=1)
    unseen = np.full((2, 30), VOCABULARY - 1)
    np.testing.assert_array_equal(run(session, unseen), np.tile(branch.bias, (2, 1)))


@pytest.mark.parametrize("precision", ["fp32", "int8", "int8-dynamic", "fp16"])
def test_every_precision_blends_its_encoder_with_the_same_branch(precision, model, branch, trained, items):
    options = {"precision": precision, "encoder": trained.encoder, "calibration_items": items}
    plain, both = (export_graph(model, branch=x, **options).graph for x in (None, branch))
    own = branch.logits(trained.encoder.encode(items))
    # In batches of one text, since the dynamic form and fp16 on a CPU depend on the batch.
    encoded_items = trained.encoder.encode(items)

    def logits(graph):
        return GraphSession(graph, device="cpu", threads=1).start(encoded_items, Batching(1))()[0]

    encoder = logits(plain)
    np.testing.assert_allclose(logits(part_graph(both, BRANCH_LOGITS)), own, atol=1e-5)
    np.testing.assert_array_equal(logits(part_graph(both, ENCODER_LOGITS)), encoder)
    np.testing.assert_allclose(logits(both), 0.75 * encoder + 1.25 * own, atol=1e-5)
    names = {tensor.name: tensor.data_type for tensor in onnx.load_from_string(both).graph.initializer}
    added = {kind for name, kind in names.items() if name.startswith("ngram.")}
    assert added == {TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64}


def test_a_generic_graph_takes_a_branch_of_standard_operators(trained, branch, items):
    graph = add_branch(trained.graph, branch)
    assert {node.domain for node in onnx.load_from_string(graph).graph.node} == {""}
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    parity = check_parity(trained.model, graph, trained.encoder, items, branch=branch)
    assert parity.max_abs_logit <= 2e-5


def test_nothing_else_of_the_graph_changes(model, branch, trained, items):
    for precision in ("fp32", "int8", "fp16"):
        options = {"precision": precision, "encoder": trained.encoder, "calibration_items": items}
        plain, both = (onnx.load_from_string(export_graph(model, branch=x, **options).graph) for x in (None, branch))
        for node in plain.graph.node:
            node.output[:] = ["encoder.logits" if name == "logits" else name for name in node.output]
        assert both.graph.node[: len(plain.graph.node)] == plain.graph.node[:]
        assert both.graph.initializer[: len(plain.graph.initializer)] == plain.graph.initializer[:]
        assert (both.graph.input, both.graph.output) == (plain.graph.input, plain.graph.output)
        assert both.opset_import == plain.opset_import


def test_the_census_of_the_branch(model, branch):
    nodes = onnx.load_from_string(export_graph(model, branch=branch).graph).graph.node
    census = Counter(node.op_type for node in nodes if node.output[0].startswith("ngram."))
    # Unigrams need one look-up, pairs three; two tables of shares, one of rows.
    assert census == {
        "Cast": 4,
        "Where": 2,
        "Gather": 7,
        "Slice": 4,
        "Add": 4,
        "Equal": 3,
        "Unsqueeze": 4,
        "ReduceSum": 2,
        "Concat": 2,
        "MatMul": 1,
        "Max": 1,
        "Sqrt": 1,
        "Div": 1,
        "Squeeze": 1,
        "Mul": 1,
    }


def test_without_a_branch_graphs_are_what_they_were(model):
    assert export_graph(model).graph == build_fused_graph(model, FloatLinear())


def test_a_graph_takes_one_branch(model, branch):
    with pytest.raises(ValueError, match="holds these names already"):
        add_branch(export_graph(model, branch=branch).graph, branch)


def test_the_parity_gate_holds_the_branch_too(model, branch, trained, items):
    graph = export_graph(model, branch=branch).graph
    parity = check_parity(model, graph, trained.encoder, items, branch=branch)
    assert 0 < parity.max_abs_logit <= 2e-5
    moved = replace(branch, coefficients=np.roll(branch.coefficients, 1, axis=0))
    wrong = [
        export_graph(model).graph,
        export_graph(model, branch=replace(branch, weights=BlendWeights(0.75, 1.2501))).graph,
        export_graph(model, branch=moved).graph,
        export_graph(model, branch=replace(branch, bias=branch.bias * np.float32(np.nan))).graph,
    ]
    for other in wrong:
        with pytest.raises(GateError, match="parity gate"):
            check_parity(model, other, trained.encoder, items, branch=branch)
    with pytest.raises(GateError, match="parity gate"):
        check_parity(model, graph, trained.encoder, items)


def test_a_weight_of_zero_leaves_the_other_part_alone(model, branch, trained, items):
    only = export_graph(model, branch=replace(branch, weights=BlendWeights(1.0, 0.0))).graph
    np.testing.assert_array_equal(
        graph_outputs(only, trained.encoder, items)[0],
        graph_outputs(export_graph(model).graph, trained.encoder, items)[0],
    )


def test_windows_of_a_long_text_are_scored_each_and_pooled(model, branch, trained, make_bundle, tmp_path):
    bundle = make_bundle(tmp_path / "bundle", graph=export_graph(model, branch=branch).graph)
    long = [Comment("加我微信 demo_0000 发你链接，今天的晚霞好温柔" * 5), Comment("求链接"), Comment("")]
    scorer = Scorer.from_bundle(bundle, "cpu", 1, max_windows=4)
    windows = trained.encoder.encode(long, max_windows=4)
    assert windows.windows.tolist()[0] == 4
    # The same rows as items of one window each.
    single = replace(windows, windows=np.ones(len(windows.first), np.int64))
    session = GraphSession(export_graph(model).graph, device="cpu", threads=1)
    encoder, hidden = session.start(single, Batching(64))()
    rows = 0.75 * encoder + 1.25 * branch.logits(windows)
    expected = pool_windows(windows, (rows.astype(np.float32), hidden))
    got = scorer.run(long)
    np.testing.assert_allclose(got.logits, expected[0], atol=2e-5)
    assert scorer.score(long)[2].error == "no text to score"
    torch_logits, _ = predict_logits(model, trained.encoder, long[1:2])
    np.testing.assert_allclose(encoder[windows.first_rows[1]], torch_logits[0], atol=2e-5)
