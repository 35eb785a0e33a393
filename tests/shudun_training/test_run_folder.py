"""Run folders: a fresh start never mixes with unfinished checkpoints, a resumed run is the same run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from shudun.errors import ShudunError
from shudun.normalization import NORMALIZER_VERSION
from shudun_training.config import RunConfig
from shudun_training.provenance import environment
from shudun_training.run_folder import (
    RECORD,
    TRAINER,
    check_normalizer,
    resume_run,
    start_run,
)
from shudun_training.sources import SourceRecord
from shudun_training.trainer_checkpoints import seal, whole_checkpoints


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    values = {
        "name": "run",
        "output_dir": str(tmp_path),
        "taxonomy": "t.yaml",
        "policy": "p.yaml",
        "data": {"train": ["train.jsonl"], "validation": ["validation.jsonl"]},
        "model": {"compact": {}},
    }
    return RunConfig.model_validate(values)


@pytest.fixture
def sources() -> dict[str, list[SourceRecord]]:
    record = SourceRecord("train.jsonl", None, {}, None, "aa", read=3, good=3, rejected=0)
    return {"train": [record], "validation": [record], "test": []}


def test_an_unchanged_run_resumes(config, sources, tmp_path):
    start_run(tmp_path, config, sources)
    (tmp_path / TRAINER / "checkpoint-3").mkdir(parents=True)
    resume_run(tmp_path, config, sources)


def test_changed_settings_or_rows_are_named_and_refused(config, sources, tmp_path):
    start_run(tmp_path, config, sources)
    training = config.training.model_copy(update={"seed": 7})
    with pytest.raises(ShudunError, match=r"changed since the run started: config\.training\.seed\."):
        resume_run(tmp_path, config.model_copy(update={"training": training}), sources)
    changed = {**sources, "train": [dataclasses.replace(sources["train"][0], sha256="bb")]}
    with pytest.raises(ShudunError, match=r"sources\.train\[0\]\.sha256"):
        resume_run(tmp_path, config, changed)
    with pytest.raises(ShudunError, match=r"sources\.test"):
        resume_run(tmp_path, config, {**sources, "test": sources["train"]})


def test_another_text_normalisation_is_named_and_refused(config, sources, tmp_path, monkeypatch):
    start_run(tmp_path, config, sources)
    monkeypatch.setattr("shudun_training.run_folder.NORMALIZER_VERSION", "other")
    with pytest.raises(ShudunError, match=r"changed since the run started: normalizer\."):
        resume_run(tmp_path, config, sources)


@pytest.mark.parametrize("record", [{}, {"environment": {}}, {"environment": {"normalizer": "0"}}])
def test_a_run_of_another_normaliser_is_not_exported(tmp_path, record):
    check_normalizer(tmp_path, {"environment": environment()})
    with pytest.raises(ShudunError, match=f"this shudun has '{NORMALIZER_VERSION}'; train again"):
        check_normalizer(tmp_path, record)


def test_another_number_of_processes_is_named_and_refused(config, sources, tmp_path, monkeypatch):
    """The batches would be others, and a step would stand at another place of the epoch."""
    start_run(tmp_path, config, sources)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ShudunError, match=r"changed since the run started: processes\."):
        resume_run(tmp_path, config, sources)


def test_nothing_to_resume_is_an_error(config, sources, tmp_path):
    with pytest.raises(ShudunError, match="no run to resume"):
        resume_run(tmp_path / "other", config, sources)


def test_checkpoints_cut_off_inside_a_save_do_not_block_a_fresh_start(config, sources, tmp_path):
    start_run(tmp_path, config, sources)
    (tmp_path / TRAINER / "checkpoint-3").mkdir(parents=True)
    (tmp_path / TRAINER / "checkpoint-3" / "trainer_state.json").write_text("{}", encoding="utf-8")
    assert whole_checkpoints(tmp_path / TRAINER) == []
    start_run(tmp_path, config, sources)
    assert not (tmp_path / TRAINER).exists()


def test_unfinished_checkpoints_are_not_overwritten(config, sources, tmp_path):
    start_run(tmp_path, config, sources)
    (tmp_path / TRAINER / "checkpoint-3").mkdir(parents=True)
    (tmp_path / TRAINER / "checkpoint-3" / "trainer_state.json").write_text("{}", encoding="utf-8")
    seal(tmp_path / TRAINER / "checkpoint-3")
    with pytest.raises(ShudunError, match="go on with --resume"):
        start_run(tmp_path, config, sources)
    assert (tmp_path / TRAINER / "checkpoint-3").is_dir()


def test_a_finished_run_is_replaced_with_its_checkpoints(config, sources, tmp_path):
    start_run(tmp_path, config, sources)
    (tmp_path / TRAINER / "checkpoint-3").mkdir(parents=True)
    (tmp_path / RECORD).write_text("{}", encoding="utf-8")
    start_run(tmp_path, config, sources)
    assert not (tmp_path / TRAINER).exists()
    assert not (tmp_path / RECORD).exists()
