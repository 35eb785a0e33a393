"""Layer-wise learning rates: every parameter once, falling from the head to the embeddings, in several encoders."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    ErnieConfig,
    ErnieForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedModel,
    RoFormerConfig,
    RoFormerForSequenceClassification,
    Trainer,
)

from shudun import ShudunError
from shudun_training.layer_groups import layer_groups

SIZE = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}
MODELS: dict[str, Any] = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**SIZE)),
    "electra": lambda: ElectraForSequenceClassification(ElectraConfig(**SIZE, embedding_size=4)),
    "ernie": lambda: ErnieForSequenceClassification(ErnieConfig(**SIZE)),
    "roformer": lambda: RoFormerForSequenceClassification(RoFormerConfig(**SIZE, embedding_size=4)),
    "modernbert": lambda: ModernBertForSequenceClassification(
        ModernBertConfig(**SIZE, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
    ),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=20, dim=8, n_layers=3, n_heads=2, hidden_dim=8)
    ),
}


def groups_of(
    model: PreTrainedModel, names: dict[str, nn.Parameter] | None = None, **changes: Any
) -> list[dict[str, Any]]:
    named = dict(model.named_parameters()) if names is None else names
    options: dict[str, Any] = {
        "base_prefix": model.base_model_prefix,
        "num_layers": 3,
        "learning_rate": 0.5,
        "layer_decay": 0.5,
        "head_lr_factor": 1.0,
        "weight_decay": 0.1,
        "decayed": Trainer.get_decay_parameter_names(None, model),  # type: ignore[arg-type]
    }
    return layer_groups(named.items(), **(options | changes))


@pytest.mark.parametrize("kind", MODELS)
def test_every_trainable_parameter_stands_in_one_group_with_the_rate_of_its_depth(kind: str) -> None:
    model = MODELS[kind]()
    groups = groups_of(model)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == len(rates) == sum(len(group["params"]) for group in groups)
    depths = []
    for name, parameter in trainable.items():
        depth = next((i for i in range(3) if f".{i}." in name), -1 if "embeddings" in name else 3)
        depths.append(depth)
        rate, decay = rates[id(parameter)]
        assert rate == 0.5 * 0.5 ** (3 - depth), name
        assert decay == (0.0 if name.endswith("bias") or "norm" in name.lower() else 0.1), name
    assert set(depths) == {-1, 0, 1, 2, 3}
    assert groups[0]["lr"] == 0.5
    assert [group["lr"] for group in groups] == sorted((group["lr"] for group in groups), reverse=True)


def test_pooler_and_classifier_learn_at_the_configured_rate() -> None:
    model = MODELS["bert"]()
    head = {id(p) for group in groups_of(model) if group["lr"] == 0.5 for p in group["params"]}
    assert {name for name, p in model.named_parameters() if id(p) in head} == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    }


def test_the_head_alone_has_its_factor() -> None:
    model = MODELS["bert"]()
    groups = groups_of(model, layer_decay=1.0, head_lr_factor=10.0)
    fast = {id(p) for group in groups if group["lr"] == 5.0 for p in group["params"]}
    assert {name for name, p in model.named_parameters() if id(p) in fast} == {
        f"{part}.{kind}" for part in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")
    }
    assert {group["lr"] for group in groups} == {5.0, 0.5}


def test_frozen_parameters_are_left_out_and_wrappers_do_not_matter() -> None:
    model = MODELS["bert"]()
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    named = {f"module._orig_mod.{name}": p for name, p in model.named_parameters()}
    groups = groups_of(model, named, decayed=set())
    assert [len(group["params"]) for group in groups] == [4, 16, 16, 16, 4]


def test_shared_layers_are_refused() -> None:
    model = AlbertForSequenceClassification(AlbertConfig(**SIZE, embedding_size=4))
    with pytest.raises(ShudunError, match=r"this encoder cannot be told apart \(albert\.enc.*; set both to 1"):
        groups_of(model)


@pytest.mark.parametrize(
    ("layers", "reason"), [(4, "no parameters of layers 3"), (2, "bert.encoder.layer.2.*no layer")]
)
def test_layers_that_do_not_fit_the_configuration_are_refused(layers: int, reason: str) -> None:
    with pytest.raises(ShudunError, match=reason):
        groups_of(MODELS["bert"](), num_layers=layers)
