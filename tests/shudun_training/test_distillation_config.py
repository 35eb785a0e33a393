"""Configurations of `shudun distill`: what is refused before anything is read, and what a run is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from shudun_training.config import ConfigError, load_run_config, save_run_config
from shudun_training.distillation.config import load_distill_config

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "configs" / "distill").glob("*.yaml"))

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a valid configuration into `tmp_path/configs`; keyword arguments replace its sections."""

    def write(**changes: Any) -> Path:
        values = {
            "name": "small",
            "output_dir": "../runs/small",
            "taxonomy": "taxonomy.yaml",
            "policy": "policy.yaml",
            "data": {"train": ["../rows/train.jsonl"], "validation": ["../rows/validation.jsonl"]},
            "model": {"compact": {"hidden_size": 64}, "max_length": 64},
            "teachers": [{"checkpoint": "../runs/big"}, {"linear": True}],
        }
        path = tmp_path / "configs" / "distill.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_load_and_show_their_command(path: Path) -> None:
    config = load_distill_config(path)
    assert config.output_dir.parent == ROOT / "runs"
    assert config.taxonomy.is_file()
    assert config.policy.is_file()
    assert f"shudun distill --config configs/distill/{path.name}" in path.read_text(encoding="utf-8")


def test_paths_are_relative_to_the_file_and_survive_a_round_trip(write: Write, tmp_path: Path) -> None:
    path = write(unlabelled=["../texts.txt", {"path": "n.csv", "columns": {"text": "body"}}])
    config = load_distill_config(path)
    assert config.teachers[0].checkpoint == tmp_path / "runs" / "big"
    assert [source.path for source in config.unlabelled] == [tmp_path / "texts.txt", tmp_path / "configs" / "n.csv"]
    assert config.distillation.cache_dir == tmp_path / "runs" / "small" / "distillation" / "scores"
    assert [teacher.shown_name for teacher in config.teachers] == ["big", "linear"]
    copy = tmp_path / "copy.yaml"
    save_run_config(config, copy)
    assert load_distill_config(copy) == config
    elsewhere = load_distill_config(path, output_dir=tmp_path / "x")
    assert elsewhere.distillation.cache_dir == tmp_path / "x" / "distillation" / "scores"


def test_the_student_of_the_run_lies_in_its_folder_unless_it_is_an_encoder(write: Write, tmp_path: Path) -> None:
    run = load_distill_config(write()).run_config()
    assert (run.model.encoder, run.model.max_length) == (str(tmp_path / "runs" / "small" / "student"), 64)
    save_run_config(run, tmp_path / "run.yaml")
    assert load_run_config(tmp_path / "run.yaml") == run
    own = load_distill_config(write(model={"encoder": "some/encoder", "revision": "v1"})).run_config()
    assert (own.model.encoder, own.model.revision) == ("some/encoder", "v1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": []}, "teachers: List should have at least 1 item"),
        ({"teachers": [{}]}, "give exactly one of 'checkpoint: FOLDER' and 'linear: true'"),
        ({"teachers": [{"checkpoint": "a", "linear": True}]}, "give exactly one of"),
        ({"teachers": [{"linear": True, "max_length": 64}]}, "leave out 'max_length'"),
        ({"teachers": [{"checkpoint": "a/x"}, {"checkpoint": "b/x"}]}, "several are called 'x'"),
        ({"teachers": [{"checkpoint": "a", "weight": 0}]}, "greater than 0"),
        ({"unlabelled": ["notes.docx"]}, "expected a file ending in .txt"),
        ({"unlabelled": [{"path": "a.txt", "columns": {"text": "b"}}]}, "a text file has no columns"),
        ({"model": {"compact": {}, "teacher_layers": 2}}, "give exactly one of 'encoder', 'compact' and"),
        ({"model": {"max_length": 64}}, "give exactly one of 'encoder', 'compact' and"),
        ({"model": {"teacher_layers": [2, 2]}}, "in rising order"),
        ({"model": {"teacher_layers": 0}}, "counted from 1"),
        ({"model": {"encoder": "a/b", "teacher_tokenizer": True}}, "'teacher_tokenizer' is for a compact student"),
        ({"distillation": {"alpha": 1.5}}, "less than or equal to 1"),
        ({"distillation": {"temperature": 0}}, "greater than 0"),
        ({"distillation": {"warmth": 1}}, "Extra inputs are not permitted"),
        ({"distillation": {"hidden_weight": 1}}, "set model.teacher_tokenizer: true"),
        ({"teachers": [{"linear": True}], "model": {"teacher_layers": 1}}, "no teacher is one"),
        (
            {"teachers": [{"checkpoint": "a"}, {"checkpoint": "b"}], "model": {"teacher_layers": 1}},
            "inner_teacher: expected one of a, b, got None",
        ),
        (
            {"model": {"teacher_layers": 1}, "distillation": {"inner_teacher": "linear"}},
            "inner_teacher: expected one of big, got linear",
        ),
    ],
)
def test_mistakes_are_refused_with_their_place(changes: dict[str, Any], message: str, write: Write) -> None:
    with pytest.raises(ConfigError) as error:
        load_distill_config(write(**changes))
    assert message in str(error.value)


def test_a_checkpoint_folder_is_called_as_its_run(write: Write) -> None:
    config = load_distill_config(write(teachers=[{"checkpoint": "runs/big/checkpoint"}]))
    assert config.teachers[0].shown_name == "big"
