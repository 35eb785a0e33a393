"""The head under mixed precision: logits that bfloat16 would make equal stay apart, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from shudun.errors import ShudunError
from shudun_training.fp32_head import keep_head_fp32


@pytest.fixture(scope="module")
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=500, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=4
    )
    made = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        made.classifier.bias.fill_(-3.0)  # as of rare labels: all logits lie close together
    return made


def test_close_logits_stay_apart_under_autocast(model: BertForSequenceClassification) -> None:
    ids = torch.randint(5, 500, (64, 12), generator=torch.Generator().manual_seed(1))
    kept = copy.deepcopy(model)
    keep_head_fp32(kept)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded, exact = model(ids).logits, kept(ids).logits
    with torch.no_grad():
        expected, outside = model(ids).logits, kept(ids).logits
    assert exact.dtype == torch.float32
    assert all(len(column.unique()) > 60 for column in exact.T)
    assert all(len(column.unique()) < 50 for column in rounded.T)
    torch.testing.assert_close(exact, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(outside, expected, atol=0, rtol=0)


def test_gradients_flow_and_weights_are_saved_as_before(model: BertForSequenceClassification) -> None:
    kept = copy.deepcopy(model)
    keep_head_fp32(kept)
    assert kept.state_dict().keys() == model.state_dict().keys()
    with torch.autocast("cpu", torch.bfloat16):
        kept(torch.full((2, 5), 7)).logits.sum().backward()
    assert all(parameter.grad is not None for name, parameter in kept.named_parameters() if "classifier" in name)
    assert kept.bert.embeddings.word_embeddings.weight.grad is not None


def test_a_copy_uses_its_own_weights(model: BertForSequenceClassification) -> None:
    kept = copy.deepcopy(model)
    keep_head_fp32(kept)
    other = copy.deepcopy(kept)
    with torch.no_grad():
        other.classifier.bias.add_(1.0)
        ids = torch.full((2, 5), 7)
        torch.testing.assert_close(other(ids).logits, kept(ids).logits + 1.0)


def test_a_model_without_such_a_layer_is_refused(model: BertForSequenceClassification) -> None:
    with pytest.raises(ShudunError, match="no linear layer with 4 outputs"):
        keep_head_fp32(type("Odd", (), {"config": model.config, "modules": lambda self: iter(())})())
