"""Sealed checkpoints: whole or not, good or damaged, and which one a run goes on from."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shudun import ShudunError
from shudun_training import trainer_checkpoints
from shudun_training.trainer_checkpoints import (
    MANIFEST,
    DivergedError,
    damage,
    discard_unfinished,
    last_good,
    naming_last_good,
    resume_point,
    rotate,
    seal,
    whole_checkpoints,
)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint as Trainer does."""

    def save(step: int, *, best: int | None = None, whole: bool = True) -> Path:
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "shards").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(bytes(range(256)) * step)
        (folder / "shards" / "0.bin").write_bytes(b"shard")
        (folder / "training_args.bin").write_bytes(b"pickle")
        (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": best}), encoding="utf-8")
        if whole:
            seal(folder)
        return folder

    return save


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_sealed_checkpoint_is_good_and_holds_no_pickled_arguments(save, tmp_path):
    folder = save(3)
    assert damage(folder) == []
    assert not (folder / "training_args.bin").exists()
    assert set(json.loads((folder / MANIFEST).read_text())["files"]) == {
        "model.safetensors",
        "shards/0.bin",
        "trainer_state.json",
    }


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (flip, "its sha256 is not that of the manifest"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"767 bytes instead of 768"),
        (Path.unlink, "missing"),
        (lambda path: path.with_name("optimizer.pt").write_bytes(b""), "not in the manifest"),
    ],
    ids=["flipped", "cut", "gone", "foreign"],
)
def test_every_kind_of_damage_is_found(change, problem, save):
    folder = save(3)
    change(folder / "model.safetensors")
    assert damage(folder) == [f"{'optimizer.pt' if problem.startswith('not') else 'model.safetensors'}: {problem}"]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"files": []}', '{"files": 1}', "\x00"])
def test_a_broken_manifest_is_damage(content, save):
    folder = save(3)
    (folder / MANIFEST).write_text(content)
    assert damage(folder)


def test_checkpoints_count_by_their_steps_once_they_are_sealed(save, tmp_path):
    for step in (20, 100, 3):
        save(step)
    save(200, whole=False)
    (tmp_path / "checkpoint-300").write_text("a file")
    assert [path.name for path in whole_checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-20", "checkpoint-100"]
    assert resume_point(tmp_path).name == "checkpoint-100"


def test_a_seal_that_is_cut_off_leaves_the_checkpoint_unfinished(save, tmp_path, monkeypatch):
    folder = save(3, whole=False)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        seal(folder)
    assert whole_checkpoints(tmp_path) == []
    monkeypatch.undo()
    seal(folder)
    assert damage(folder) == []


def test_a_damaged_newest_checkpoint_stops_and_names_the_last_good_one(save, tmp_path):
    for step in (1, 2, 3):
        save(step, best=1)
    flip(tmp_path / "checkpoint-2" / "model.safetensors")
    flip(tmp_path / "checkpoint-3" / "shards" / "0.bin")
    remedy = r"Remove checkpoint-2, checkpoint-3 there, then --resume goes on from checkpoint-1, the last good one"
    message = rf"checkpoint-3: shards/0\.bin: .*{remedy}"
    with pytest.raises(ShudunError, match=message):
        resume_point(tmp_path)
    for step in (2, 3):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    assert resume_point(tmp_path).name == "checkpoint-1"


def test_damage_of_what_is_not_needed_does_not_stop_a_run(save, tmp_path):
    for step in (1, 2, 3):
        save(step, best=1)
    flip(tmp_path / "checkpoint-2" / "model.safetensors")
    assert resume_point(tmp_path).name == "checkpoint-3"


@pytest.mark.parametrize("change", [lambda path: flip(path / "model.safetensors"), shutil.rmtree], ids=["bad", "gone"])
def test_a_run_does_not_go_on_without_its_best_checkpoint(change, save, tmp_path):
    save(1)
    save(2, best=2)
    save(3, best=2)
    change(tmp_path / "checkpoint-2")
    with pytest.raises(ShudunError, match=r"checkpoint-2: .* --resume goes on from checkpoint-1"):
        resume_point(tmp_path)
    flip(tmp_path / "checkpoint-1" / "model.safetensors")
    assert last_good(tmp_path) is None
    with pytest.raises(ShudunError, match="No checkpoint is good: remove the folder and start again without --resume"):
        resume_point(tmp_path)


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [
        (1, None, [4]),
        (1, 4, [4]),
        (1, 2, [2, 4]),
        (2, 1, [1, 4]),
        (3, 1, [1, 3, 4]),
        (2, None, [3, 4]),
        (9, 1, [1, 2, 3, 4]),
    ],
)
def test_rotation_keeps_the_newest_and_the_best(limit, best, kept, save, tmp_path):
    for step in (1, 2, 3, 4):
        save(step)
    rotate(tmp_path, limit=limit, best=best)
    assert [path.name for path in whole_checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in kept]


def test_a_removal_that_is_cut_off_leaves_an_unfinished_checkpoint_and_not_a_damaged_one(save, tmp_path, monkeypatch):
    for step in (1, 2):
        save(step)
    with monkeypatch.context() as patch:
        patch.setattr(trainer_checkpoints.shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rotate(tmp_path, limit=1, best=None)
    assert [path.name for path in whole_checkpoints(tmp_path)] == ["checkpoint-2"]
    assert [path.name for path in discard_unfinished(tmp_path)] == ["checkpoint-1"]
    assert not (tmp_path / "checkpoint-1").exists()


def fail(error, folder):
    with naming_last_good(folder):
        raise error


def test_a_save_that_fails_names_the_last_good_checkpoint_and_makes_room(save, tmp_path):
    save(1)
    save(2, whole=False)
    message = r"checkpoint-2: cannot be written \(unexpected pos.*Make room; then: --resume goes on from checkpoint-1"
    with pytest.raises(ShudunError, match=message):
        fail(RuntimeError("unexpected pos 576 vs 534"), tmp_path)
    assert not (tmp_path / "checkpoint-2").exists()


def test_a_full_disk_outside_a_save_is_named_and_other_errors_pass(save, tmp_path):
    with pytest.raises(ShudunError, match=r"No space.*No checkpoint is good: remove the folder and start again"):
        fail(OSError(errno.ENOSPC, "No space left on device"), tmp_path)
    for error in (RuntimeError("CUDA out of memory"), OSError(errno.ENOENT, "No such file"), KeyError("bug")):
        with pytest.raises(type(error)):
            fail(error, tmp_path)


def test_another_process_leaves_the_cut_off_save_to_the_main_one(save, tmp_path, monkeypatch):
    save(2, whole=False)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RuntimeError, match="peer"):
        fail(RuntimeError("connection closed by peer"), tmp_path)
    assert (tmp_path / "checkpoint-2").exists()


def test_a_divergence_says_that_resuming_does_not_help(save, tmp_path):
    save(1)
    message = (
        r"lower it, and start again in another folder: --resume repeats .*checkpoint-1 is the last good checkpoint"
    )
    with pytest.raises(ShudunError, match=message):
        fail(DivergedError("lower it"), tmp_path)
