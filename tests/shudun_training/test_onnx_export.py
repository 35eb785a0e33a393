"""Export: the graph computes what the checkpoint computes, and the gates refuse everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from shudun import Comment, Note, Taxonomy
from shudun.items import Item
from shudun.session import INPUTS, OUTPUTS
from shudun.tokenization import ItemTokenizer
from shudun_training.checkpoint import build_model, build_tokenizer, item_tokenizer
from shudun_training.config import CompactConfig, ModelConfig
from shudun_training.finetune import predict_logits
from shudun_training.onnx_export import (
    LOGIT_TOLERANCE,
    GateError,
    check_parity,
    check_tokenizer,
    export_stock_graph,
    graph_outputs,
)

if TYPE_CHECKING:
    from conftest import Trained

Edit = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def changed(graph: bytes, edits: dict[str, Edit]) -> bytes:
    """The graph with some of its weights replaced."""
    model = onnx.load_from_string(graph)
    names = []
    for tensor in model.graph.initializer:
        for ending, edit in edits.items():
            if tensor.name.endswith(ending):
                array = np.array(edit(numpy_helper.to_array(tensor)), dtype=np.float32)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
                names.append(ending)
    assert sorted(names) == sorted(edits)
    data: bytes = model.SerializeToString()
    return data


def session(graph: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def test_the_graph_reproduces_the_checkpoint_on_every_shape_of_text(trained: Trained, items: list[Item]) -> None:
    parity = check_parity(trained.model, trained.graph, trained.encoder, items)
    assert parity.texts == len(items) + 5
    assert 0 <= parity.max_abs_logit <= LOGIT_TOLERANCE
    assert 0 <= parity.max_abs_embedding <= LOGIT_TOLERANCE
    assert parity.to_dict() == {
        "texts": parity.texts,
        "max_abs_logit": parity.max_abs_logit,
        "max_abs_embedding": parity.max_abs_embedding,
    }
    # The logits of these texts differ by far more than the tolerance, so agreement means something.
    logits, _ = predict_logits(trained.model, trained.encoder, items)
    assert np.ptp(logits, axis=0).min() > 1000 * LOGIT_TOLERANCE


def test_the_graph_has_the_names_and_the_free_axes_that_scoring_expects(trained: Trained) -> None:
    opened = session(trained.graph)
    assert tuple(x.name for x in opened.get_inputs()) == INPUTS
    assert tuple(x.name for x in opened.get_outputs()) == OUTPUTS
    assert [x.shape for x in opened.get_outputs()] == [["batch", 4], ["batch", 32]]
    for rows, width in ((1, 1), (1, 32), (5, 3)):
        ids = np.full((rows, width), 7, dtype=np.int64)
        logits, embedding = opened.run(list(OUTPUTS), dict.fromkeys(INPUTS, ids) | {INPUTS[2]: 0 * ids})
        assert (logits.shape, embedding.shape) == ((rows, 4), (rows, 32))


def test_each_output_is_what_its_name_says(trained: Trained, texts: list[str]) -> None:
    expected, hidden = predict_logits(trained.model, trained.encoder, [Comment(texts[0])])
    logits, embedding = graph_outputs(trained.graph, trained.encoder, [Comment(texts[0])])
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(embedding, hidden, atol=1e-5)
    with torch.no_grad():
        batch = trained.encoder.encode([Comment(texts[0])]).batch(np.array([0]))
        states = trained.model.bert(**{name: torch.from_numpy(x) for name, x in batch.feeds().items()})
    np.testing.assert_allclose(embedding[0], states.last_hidden_state[0, 0].numpy(), atol=1e-5)


def _rolled(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.roll(array, 1, axis=0)


@pytest.mark.parametrize(
    "edits",
    [
        pytest.param({"classifier.weight": _rolled, "classifier.bias": _rolled}, id="permuted-labels"),
        pytest.param({"classifier.bias": lambda x: x + np.float32(2e-4)}, id="slightly-off"),
        pytest.param({"classifier.weight": lambda x: x * np.float32(np.nan)}, id="nan"),
        pytest.param({"classifier.bias": lambda x: x + np.float32(np.inf)}, id="infinite"),
        pytest.param({"word_embeddings.weight": lambda x: x[::-1]}, id="other-vocabulary"),
        pytest.param({"token_type_embeddings.weight": lambda x: x[::-1]}, id="swapped-segments"),
    ],
)
def test_a_graph_of_other_weights_is_refused(edits: dict[str, Edit], trained: Trained, items: list[Item]) -> None:
    with pytest.raises(GateError, match=r"parity gate: .* Nothing was written"):
        check_parity(trained.model, changed(trained.graph, edits), trained.encoder, items)


def test_the_gates_own_texts_find_what_the_given_ones_do_not_reach(trained: Trained, texts: list[str]) -> None:
    """Only the last position differs, which only texts of full length reach."""

    def last_position(array: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([array[:-1], array[-1:, ::-1]])

    graph = changed(trained.graph, {"position_embeddings.weight": last_position})
    short: Sequence[Item] = [Comment(text) for text in texts]
    expected, _ = predict_logits(trained.model, trained.encoder, short)
    np.testing.assert_allclose(graph_outputs(graph, trained.encoder, short)[0], expected, atol=LOGIT_TOLERANCE)
    with pytest.raises(GateError):
        check_parity(trained.model, graph, trained.encoder, short)


def test_the_tokenizer_gate_passes_the_checkpoints_own_tokenizer(trained: Trained, items: list[Item]) -> None:
    check_tokenizer(trained.tokenizer, trained.encoder, items)


def test_the_tokenizer_gate_refuses_another_vocabulary(trained: Trained) -> None:
    other = item_tokenizer(build_tokenizer(trained.config, ["完全不同的词表"] * 3), max_length=32)
    with pytest.raises(GateError, match="tokenizer gate: the ids of text 'n1' differ"):
        check_tokenizer(trained.tokenizer, other, [Note("晚霞", "今天", id="n1")])


def test_the_tokenizer_gate_refuses_other_normalisation(trained: Trained) -> None:
    definition = trained.encoder.to_json()
    assert '"lowercase": true' in definition or '"lowercase":true' in definition
    cased = definition.replace('"lowercase": true', '"lowercase": false').replace(
        '"lowercase":true', '"lowercase":false'
    )
    encoder = ItemTokenizer(cased, max_length=32)
    check_tokenizer(trained.tokenizer, encoder, [Comment("demo")])
    with pytest.raises(GateError, match="tokenizer gate"):
        check_tokenizer(trained.tokenizer, encoder, [Comment("DEMO")])


def test_the_smallest_vocabulary_can_be_exported(taxonomy: Taxonomy) -> None:
    compact = CompactConfig(
        vocab_size=64, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    config = ModelConfig(compact=compact, max_length=8)
    tokenizer = build_tokenizer(config, [])
    model = build_model(config, taxonomy, tokenizer)
    before = torch.get_rng_state()
    graph = export_stock_graph(model)
    assert torch.equal(torch.get_rng_state(), before)
    items: Sequence[Item] = [Comment("demo 123"), Note("a", "b c")]
    assert check_parity(model, graph, item_tokenizer(tokenizer, max_length=8), items).texts == 2 + 5
