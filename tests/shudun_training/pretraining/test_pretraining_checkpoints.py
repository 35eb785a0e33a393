"""Checkpoints: whole or not at all, verified before anything goes on from them."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from shudun.errors import ShudunError
from shudun_training.pretraining.checkpointing import (
    CheckpointError,
    Checkpoints,
    Progress,
    digest,
    read_optimizers,
    read_progress,
    verify,
)


def write(number):
    def save_model(folder):
        (folder / "model.safetensors").write_bytes(bytes([number]) * 1000)

    return save_model


def save(checkpoints, step):
    checkpoints.save(Progress(step, 10 * step, 1.5, "v"), write(step), [{"step": torch.tensor(step)}])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def steps(folder):
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_what_is_saved_is_read_back(folder):
    checkpoints = Checkpoints(folder, keep=2)
    assert checkpoints.newest() is None
    save(checkpoints, 3)
    newest = checkpoints.newest()
    assert newest is not None
    assert read_progress(newest) == Progress(3, 30, 1.5, "v")
    assert read_optimizers(newest) == [{"step": torch.tensor(3)}]
    assert len(digest(newest)) == 64


def test_the_newest_and_the_marked_ones_are_kept(folder):
    checkpoints = Checkpoints(folder, keep=2, keep_steps=[20])
    for step in (10, 20, 30, 100, 110):
        save(checkpoints, step)
    assert steps(folder) == [20, 100, 110]
    assert {path.suffix for path in folder.iterdir()} == {""}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json", "manifest.json"])
def test_a_truncated_checkpoint_is_refused_and_the_last_whole_one_is_named(folder, name):
    checkpoints = Checkpoints(folder, keep=3)
    save(checkpoints, 1)
    save(checkpoints, 2)
    path = folder / "step-00000002" / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError) as refused:
        checkpoints.newest()
    assert "step-00000002" in str(refused.value)
    assert ("bytes, got" in str(refused.value)) == (name != "manifest.json")
    assert f"The last whole checkpoint is {folder / 'step-00000001'}" in str(refused.value)
    assert checkpoints.last_good() == folder / "step-00000001"


def test_an_altered_checkpoint_is_refused(folder):
    checkpoints = Checkpoints(folder, keep=3)
    save(checkpoints, 1)
    path = folder / "step-00000001" / "model.safetensors"
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    with pytest.raises(CheckpointError, match=r"altered since it was written\. There is no whole checkpoint"):
        checkpoints.newest()
    (folder / "step-00000001" / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError):
        verify(folder / "step-00000001")


def test_a_save_that_was_cut_off_leaves_no_trace_in_what_is_read(folder):
    checkpoints = Checkpoints(folder, keep=3)
    save(checkpoints, 1)

    def cut_off(part):
        (part / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(Progress(2), cut_off, [])
    assert checkpoints.newest() == folder / "step-00000001"
    save(checkpoints, 2)
    assert checkpoints.newest() == folder / "step-00000002"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of file sizes")
def test_a_full_disk_keeps_the_last_checkpoint_and_names_it(folder):
    import resource

    checkpoints = Checkpoints(folder, keep=3)
    save(checkpoints, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit, size in ((500, 1000), (5000, 100_000)):
        # First the weights do not fit, then the optimiser's states.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(ShudunError) as refused:
                checkpoints.save(Progress(2), write(2), [{"state": torch.zeros(size)}])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "is the disk full? The last whole checkpoint is" in str(refused.value)
        assert "step-00000001" in str(refused.value)
        assert [path.name for path in folder.iterdir()] == ["step-00000001"]


def test_states_are_loaded_without_running_code(folder):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    checkpoints = Checkpoints(folder, keep=3)
    checkpoints.save(Progress(1), write(1), [{"a": Evil()}])
    with pytest.raises(Exception, match="Weights only load failed"):
        read_optimizers(folder / "step-00000001")


def test_progress_of_another_form_is_refused(folder):
    save(Checkpoints(folder, keep=1), 1)
    (folder / "step-00000001" / "state.json").write_text(json.dumps({"steps": 1}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"state\.json: cannot be read"):
        read_progress(folder / "step-00000001")
