"""Checkpoints are stock `transformers` folders: what we save, others load, with the same figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from shudun import Comment, Note, ShudunError, Taxonomy
from shudun.items import Item
from shudun.rendering import render
from shudun_training.checkpoint import build_model, build_tokenizer, item_tokenizer, load_checkpoint, save_checkpoint
from shudun_training.config import ModelConfig
from shudun_training.finetune import predict_logits

if TYPE_CHECKING:
    from conftest import Trained


@pytest.fixture(scope="module")
def uncut(texts: list[str]) -> list[Item]:
    """Items that fit into the model whole, so that no rule of truncation matters."""
    items: list[Item] = [Comment(text) for text in texts]
    items += [Comment(text, parent_text="请问") for text in texts]
    return items + [Note(title=text[:4], text=text) for text in texts]


@pytest.fixture(scope="module")
def folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "checkpoint"
    save_checkpoint(trained.model, trained.tokenizer, path)
    return path


def test_stock_transformers_gives_our_logits(folder: Path, trained: Trained, uncut: list[Item]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected, _ = predict_logits(trained.model, trained.encoder, uncut)
    for item, row in zip(uncut, expected, strict=True):
        with torch.no_grad():
            logits = model(**tokenizer(*render(item).segments, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(logits.numpy(), row, atol=1e-5)


def test_a_stock_pipeline_applies_a_sigmoid_and_names_the_labels(
    folder: Path, trained: Trained, taxonomy: Taxonomy, texts: list[str]
) -> None:
    classify = pipeline("text-classification", model=str(folder), top_k=None, device="cpu")
    logits, _ = predict_logits(trained.model, trained.encoder, [Comment(texts[0])])
    expected = dict(zip(taxonomy.label_ids, 1 / (1 + np.exp(-logits[0])), strict=True))
    assert {entry["label"]: entry["score"] for entry in classify(texts[:1])[0]} == pytest.approx(expected, abs=1e-5)


def test_the_saved_configuration_names_problem_and_labels(folder: Path, taxonomy: Taxonomy) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {str(i): label for i, label in enumerate(taxonomy.label_ids)}
    assert config["label2id"] == dict(taxonomy.index)
    assert config["architectures"] == ["BertForSequenceClassification"]


def test_weights_are_safetensors_and_nothing_is_pickled(folder: Path) -> None:
    assert {path.suffix for path in folder.rglob("*")} == {".json", ".safetensors"}
    assert (folder / "model.safetensors").is_file()


def test_a_loaded_checkpoint_predicts_as_before(folder: Path, trained: Trained, items: list[Item]) -> None:
    model, tokenizer = load_checkpoint(folder)
    assert not model.training
    encoder = item_tokenizer(tokenizer, max_length=trained.config.max_length)
    got, expected = (predict_logits(x, y, items) for x, y in ((model, encoder), (trained.model, trained.encoder)))
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _drop_classifier(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _pickle_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_cut_weights, id="weights-cut-short"),
        pytest.param(lambda folder: (folder / "model.safetensors").write_bytes(b"junk"), id="weights-overwritten"),
        pytest.param(lambda folder: (folder / "model.safetensors").write_bytes(b""), id="weights-empty"),
        pytest.param(lambda folder: (folder / "model.safetensors").unlink(), id="weights-missing"),
        pytest.param(_drop_classifier, id="classifier-missing"),
        pytest.param(_pickle_weights, id="weights-pickled"),
        pytest.param(lambda folder: (folder / "config.json").write_text("{"), id="configuration-cut-short"),
        pytest.param(lambda folder: (folder / "config.json").unlink(), id="configuration-missing"),
        pytest.param(lambda folder: (folder / "tokenizer.json").unlink(), id="tokenizer-missing"),
    ],
)
def test_a_damaged_checkpoint_is_refused(damage: Callable[[Path], object], folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "damaged")
    damage(copy)
    with pytest.raises(ShudunError, match="damaged"):
        load_checkpoint(copy)


def test_a_missing_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ShudunError, match="run `shudun train` first"):
        load_checkpoint(tmp_path / "none")


def test_a_local_encoder_keeps_its_weights_and_gets_a_head_for_the_taxonomy(folder: Path, trained: Trained) -> None:
    other = Taxonomy.from_dict(
        {
            "id": "other",
            "version": "1",
            "labels": [
                {"id": name, "name_zh": name, "family": "f", "tier": "T1", "applies_to": ["note", "comment"]}
                for name in ("one", "two")
            ],
        }
    )
    config = ModelConfig(encoder=str(folder), max_length=32)
    tokenizer = build_tokenizer(config, [])
    model = build_model(config, other, tokenizer)
    assert tokenizer("加我微信 demo_0000")["input_ids"] == trained.tokenizer("加我微信 demo_0000")["input_ids"]
    assert model.config.id2label == {0: "one", 1: "two"}
    assert model.classifier.weight.shape == (2, 32)
    weights, before = model.bert.state_dict(), trained.model.bert.state_dict()
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_texts_longer_than_the_encoder_has_positions_for_are_refused(folder: Path, taxonomy: Taxonomy) -> None:
    config = ModelConfig(encoder=str(folder), max_length=64)
    with pytest.raises(ShudunError, match=r"max_length is 64, but .* has positions for 32 tokens"):
        build_model(config, taxonomy, build_tokenizer(config, []))


def test_an_unreachable_encoder_is_named_with_what_to_do() -> None:
    with pytest.raises(ShudunError, match=r"nobody/nothing: cannot be loaded .*offline\? give a local folder"):
        build_tokenizer(ModelConfig(encoder="nobody/nothing"), [])


def test_a_tokenizer_without_a_definition_to_ship_is_refused() -> None:
    with pytest.raises(ShudunError, match=r"SimpleNamespace: expected a tokenizer with a tokenizer\.json"):
        item_tokenizer(SimpleNamespace(), max_length=32)  # type: ignore[arg-type]


def test_weights_stored_in_fp16_are_loaded_in_fp32(
    folder: Path, trained: Trained, taxonomy: Taxonomy, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight.half() for name, weight in weights.items()}, half / "model.safetensors", {"format": "pt"})
    config = json.loads((half / "config.json").read_text(encoding="utf-8")) | {"dtype": "float16"}
    (half / "config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded, _ = load_checkpoint(half)
    tuned = build_model(ModelConfig(encoder=str(half), max_length=32), taxonomy, trained.tokenizer)
    assert {p.dtype for model in (loaded, tuned) for p in model.parameters()} == {torch.float32}
