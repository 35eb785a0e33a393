"""`shudun distill` through the command line: a student that learns what no label told it, and what a run keeps."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_train_to_score import read_json, shudun

from shudun import Comment, Scorer
from shudun.taxonomy import Taxonomy
from shudun_training.checkpoint import build_model, build_tokenizer, save_checkpoint
from shudun_training.config import BceConfig, CompactConfig, ModelConfig, TrainingConfig
from shudun_training.distillation.packed_rows import PackedRows
from shudun_training.examples import Example
from shudun_training.finetune import fit
from shudun_training.sources import file_sha256

ROOT = Path(__file__).parents[2]
LABELS = ("diversion", "hard_sell")
TRAINING = {
    "per_device_train_batch_size": 16,
    "learning_rate": 6e-3,
    "early_stopping_patience": 30,
    "report_to": "none",
}


def row(dice: random.Random, number: int, cues: int) -> dict[str, Any]:
    """A few fillers, and for each label one of its first `cues` characters."""
    text = [chr(0x4E00 + 7 * dice.randrange(12)) for _ in range(dice.randint(2, 5))]
    labels = [label for label in LABELS if dice.random() < 0.4]
    for label in labels:
        cue = chr(0x6000 + 0x1000 * LABELS.index(label) + 11 * dice.randrange(cues))
        text.insert(dice.randrange(len(text)), cue)
    return {"id": str(number), "text": "".join(text), "labels": labels}


def example(values: dict[str, Any]) -> Example:
    return Example(Comment(values["text"], id=values["id"]), frozenset(values["labels"]), frozenset())


def write_initial(path: Path, taxonomy: Taxonomy, texts: list[str], seed: int) -> None:
    """An encoder with random weights large enough that a few hundred steps teach it something in every case."""
    shape = CompactConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    config = ModelConfig(max_length=16, compact=shape)
    tokenizer = build_tokenizer(config, texts)
    torch.manual_seed(seed)
    model = build_model(config, taxonomy, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.2)
    save_checkpoint(model, tokenizer, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled rows show two cues of each label; the texts without labels, and the test, show six."""
    folder = tmp_path_factory.mktemp("distill")
    dice = random.Random(0)  # noqa: S311
    rows = [row(dice, i, cues=2 if i < 60 else 6) for i in range(1050)]
    for name, part in (("train", rows[:60]), ("validation", rows[460:520]), ("test", rows[520:650])):
        lines = [json.dumps(values, ensure_ascii=False) + "\n" for values in part]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    texts = [values["text"] for values in (*rows[650:], rows[520])]
    (folder / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    with (folder / "texts.txt").open("ab") as file:
        file.write(b"\xff\xfe\n")
    labels = [
        {"id": label, "name_zh": label, "family": "a", "tier": "T2", "applies_to": ["comment"]} for label in LABELS
    ]
    labels.append(labels[0] | {"id": "note_only", "applies_to": ["note"]})
    taxonomy = {"id": "two", "version": "1", "labels": labels}
    (folder / "taxonomy.yaml").write_text(yaml.safe_dump(taxonomy), encoding="utf-8")
    for seed, name in enumerate(("initial", "other")):
        write_initial(folder / name, Taxonomy.from_dict(taxonomy), [values["text"] for values in rows], seed)
    write_initial(folder / "foreign", Taxonomy.from_dict(taxonomy), ["别的文字"] * 2, 0)
    fit(
        [example(values) for values in rows[60:460]],
        [example(values) for values in rows[460:520]],
        taxonomy=Taxonomy.from_dict(taxonomy),
        model_config=ModelConfig(max_length=16, encoder=str(folder / "other")),
        training_config=TrainingConfig(num_train_epochs=10, **TRAINING),
        loss_config=BceConfig(),
        output_dir=folder / "big",
    )
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> Callable[..., Path]:
    def write(name: str, **changes: Any) -> Path:
        values = {
            "name": name,
            "output_dir": f"runs/{name}",
            "taxonomy": "taxonomy.yaml",
            "policy": str(ROOT / "configs" / "policy" / "default.yaml"),
            "data": {split: [f"{split}.jsonl"] for split in ("train", "validation", "test")},
            "model": {"max_length": 16, "encoder": "initial"},
            "training": {"num_train_epochs": 15, **TRAINING},
            "teachers": [{"checkpoint": "big"}, {"linear": True, "weight": 0.1}],
            "unlabelled": ["texts.txt"],
            "distillation": {"cache_dir": "cache"},
        }
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def run(folder: Path, config: Callable[..., Path]) -> Path:
    result = shudun("distill", "--config", config("student"))
    assert result.code == 0, result.text
    texts = len((folder / "texts.txt").read_bytes().splitlines())
    assert f"texts.txt: {texts} rows read" in result.text
    assert "1 bad" in result.text
    assert "teacher big: " in result.text
    assert "model - teachers together, macro_ap" in result.text
    return folder / "runs" / "student"


def test_the_student_learns_from_texts_what_its_labels_do_not_show(
    run: Path, folder: Path, config: Callable[..., Path]
) -> None:
    """The same student without teachers and texts stays where its labelled rows leave it."""
    values = yaml.safe_load(config("plain").read_text(encoding="utf-8"))
    for section in ("teachers", "unlabelled", "distillation"):
        del values[section]
    values["training"] |= {"num_train_epochs": 40}  # more than it needs for its own rows
    (folder / "plain.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert shudun("train", "--config", folder / "plain.yaml").code == 0
    plain = read_json(folder / "runs" / "plain" / "report" / "report.json")
    report = read_json(run / "report" / "report.json")
    teacher = report["others"]["teacher big"]
    assert teacher["figures"]["macro_ap"] > 0.95
    assert report["model"]["macro_ap"] > plain["model"]["macro_ap"] + 0.15
    assert report["model"]["macro_ap"] > report["others"]["teacher linear"]["figures"]["macro_ap"] + 0.25
    assert (
        abs(teacher["difference"]["macro_ap"]["delta"] - (report["model"]["macro_ap"] - teacher["figures"]["macro_ap"]))
        < 1e-6
    )


def test_the_run_is_an_ordinary_one_and_says_who_taught_it(run: Path, folder: Path) -> None:
    record = read_json(run / "run.json")["distillation"]
    assert [teacher["name"] for teacher in record["teachers"]] == ["big", "linear"]
    (texts,) = record["unlabelled"]
    lines = (folder / "texts.txt").read_bytes().splitlines()
    assert texts["read"] == len(lines) == texts["used"] + texts["left_out"] + texts["rejected"]
    assert texts["rejected"] == 1
    assert texts["left_out"] >= 1
    assert len((run / "rejected" / "unlabelled" / "0-texts.txt.rejected.jsonl").read_text().splitlines()) == 1
    assert read_json(run / "bundle" / "manifest.json")["provenance"]["distillation"] == record
    (unlabelled,) = read_json(run / "distillation" / "inputs.json")["unlabelled"]
    assert unlabelled["sha256"] == file_sha256(folder / "texts.txt")
    bundle = folder / "again"
    assert shudun("export", "--run", run, "--output", bundle).code == 0
    assert (bundle / "model.onnx").read_bytes() == (run / "bundle" / "model.onnx").read_bytes()
    measured = shudun("evaluate", "--bundle", bundle, "--data", folder / "test.jsonl", "--report", folder / "measured")
    assert measured.code == 0, measured.text
    report = read_json(folder / "measured" / "report.json")
    assert report["model"] == read_json(run / "report" / "report.json")["model"]
    assert report["others"] == {}
    assert Scorer.from_bundle(bundle).predict_proba([Comment("好")]).shape == (1, 3)


def test_teachers_say_nothing_of_labels_that_do_not_apply(run: Path) -> None:
    packed = PackedRows(run / "distillation" / "packed")
    logits = np.stack([packed[i].logits for i in range(len(packed))])
    assert np.isfinite(logits[:, :2]).all()
    assert np.isnan(logits[:, 2]).all(), "all of these texts are comments"


def test_a_second_run_scores_nothing_again_and_ends_alike(run: Path, folder: Path, config: Callable[..., Path]) -> None:
    result = shudun("distill", "--config", config("student"), "--output-dir", folder / "runs" / "second")
    assert result.code == 0, result.text
    assert "teacher big: 0 rows scored" in result.text
    assert "teacher linear: 0 rows scored" in result.text
    first, second = (path / "checkpoint" / "model.safetensors" for path in (run, folder / "runs" / "second"))
    assert first.read_bytes() == second.read_bytes()


def test_resuming_after_a_change_is_refused(run: Path, config: Callable[..., Path]) -> None:
    changed = config("student", distillation={"cache_dir": "cache", "temperature": 3.0})
    result = shudun("distill", "--config", changed, "--resume")
    assert result.code == 1
    assert "cannot resume, changed since the run started: settings" in result.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unlabelled": ["gone.txt"]}, "gone.txt: no such file"),
        ({"teachers": [{"checkpoint": "gone"}]}, "no teacher here"),
        (
            {"model": {"max_length": 16, "encoder": "foreign"}, "distillation": {"hidden_weight": 1.0}},
            "they differ in model",
        ),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_scored(
    changes: dict[str, Any], message: str, run: Path, config: Callable[..., Path]
) -> None:
    result = shudun("distill", "--config", config("wrong", **changes))
    assert result.code == 1
    assert message in result.text
    assert "rows scored" not in result.text


def test_a_teacher_that_was_trained_on_the_test_rows_is_refused(
    folder: Path, config: Callable[..., Path], tmp_path: Path
) -> None:
    leaky = tmp_path / "leaky"
    leaky.mkdir()
    (leaky / "checkpoint").symlink_to(folder / "big" / "checkpoint")
    source = {"sha256": file_sha256(folder / "test.jsonl")}
    (leaky / "run.json").write_text(json.dumps({"sources": {"train": [source]}}), encoding="utf-8")
    result = shudun("distill", "--config", config("leak", teachers=[{"checkpoint": str(leaky)}]))
    assert result.code == 1
    assert "teacher leaky: was trained on test.jsonl" in result.text


def test_a_teacher_can_become_a_student_with_fewer_layers_and_hidden_states(
    folder: Path, config: Callable[..., Path]
) -> None:
    path = config(
        "inner",
        model={"max_length": 16, "teacher_layers": 1},
        training={"num_train_epochs": 1, **TRAINING},
        teachers=[{"checkpoint": "big"}],
        distillation={"cache_dir": "cache", "hidden_weight": 0.1, "hidden_loss": "cosine"},
    )
    result = shudun("distill", "--config", path)
    assert result.code == 0, result.text
    report = read_json(folder / "runs" / "inner" / "report" / "report.json")
    assert report["model"]["macro_ap"] > 0.9, "all layers of the teacher: it starts as good as the teacher"


def test_a_compact_student_can_have_the_teachers_tokens(folder: Path, config: Callable[..., Path]) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    path = config(
        "narrow",
        model={"max_length": 16, "compact": shape, "teacher_tokenizer": True},
        training={"num_train_epochs": 1, **TRAINING},
        distillation={"cache_dir": "cache", "hidden_weight": 0.1},
    )
    result = shudun("distill", "--config", path)
    assert result.code == 0, result.text
    ours, theirs = (
        read_json(folder / place / "tokenizer.json") for place in ("runs/narrow/checkpoint", "big/checkpoint")
    )
    assert ours["model"] == theirs["model"]
