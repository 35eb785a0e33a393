"""The resumable checkpoints of a run: which are whole, which are damaged, which one a resumed run goes on from.

A checkpoint is whole from the moment its manifest stands in it: sizes and sha256 of its files, written last and at
once. The manifest shows accidents (a cut-off save, a flipped bit), not intent: who can write the folder can write both.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from shudun.errors import ShudunError
from shudun_training.processes import is_main_process

MANIFEST = "checkpoint_manifest.json"
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DivergedError(ShudunError):
    """A loss, a logit or a weight is NaN or infinite: what is trained from here on is worth nothing."""


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Where Trainer saves the state after `step` optimiser steps."""
    return folder / f"checkpoint-{step}"


def whole_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in order of their steps, without those that were cut off inside a save."""
    return [path for path in _checkpoints(folder) if (path / MANIFEST).is_file()]


def seal(checkpoint: Path) -> None:
    """Write the manifest of a checkpoint whose files are all there; its bytes are on the disk afterwards."""
    # Trainer pickles its arguments beside the weights; nothing reads them, and pickle is for nobody else to load.
    (checkpoint / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    draft = checkpoint / f"{MANIFEST}.tmp"
    draft.write_text(json.dumps({"files": _contents(checkpoint, to_disk=True)}, indent=2) + "\n", encoding="utf-8")
    _to_disk(draft)
    draft.replace(checkpoint / MANIFEST)


def damage(checkpoint: Path) -> list[str]:
    """What differs from the checkpoint's manifest, one phrase for each file; empty when it is good."""
    try:
        recorded = dict(json.loads((checkpoint / MANIFEST).read_bytes())["files"])
        found = _contents(checkpoint)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"cannot be read ({error})"]
    names = sorted(name for name in recorded | found if found.get(name) != recorded.get(name))
    return [f"{name}: {_difference(recorded.get(name), found.get(name))}" for name in names]


def check_best(folder: Path, step: int) -> None:
    """Raise `ShudunError` unless the checkpoint of the best step is good."""
    if problems := damage(checkpoint_folder(folder, step)):
        raise ShudunError(_damaged(folder, {checkpoint_folder(folder, step): problems}))


def resume_point(folder: Path) -> Path:
    """The newest checkpoint, after a look at every byte of it and of the best one.

    Raises:
        ShudunError: there is none, or a damaged one stands in the way; the message names the last good one.
    """
    whole = whole_checkpoints(folder)
    if not whole:
        raise ShudunError(f"{folder}: no checkpoint to resume from; start without --resume")
    needed = {whole[-1], checkpoint_folder(folder, _best_step(whole[-1]) or _step(whole[-1]))}
    damaged = {path: problems for path in sorted(needed, key=_step) if (problems := damage(path))}
    if damaged:
        raise ShudunError(_damaged(folder, damaged))
    return whole[-1]


def last_good(folder: Path) -> Path | None:
    """The newest checkpoint that a run can go on from: it and the best one it needs are undamaged."""
    for path in reversed(whole_checkpoints(folder)):
        best = _best_step(path)
        if not damage(path) and not (best and damage(checkpoint_folder(folder, best))):
            return path
    return None


def rotate(folder: Path, *, limit: int, best: int | None) -> None:
    """Keep `limit` checkpoints, among them always the newest and the best."""
    whole = whole_checkpoints(folder)
    kept = {whole[-1]} | ({checkpoint_folder(folder, best)} & set(whole) if best else set())
    spare = [path for path in whole if path not in kept]
    for path in spare[: max(len(whole) - max(limit, len(kept)), 0)]:
        _discard(path)


def discard_unfinished(folder: Path) -> list[Path]:
    """Remove checkpoints that were cut off inside a save; returns their folders."""
    unfinished = [path for path in _checkpoints(folder) if not (path / MANIFEST).is_file()]
    for path in unfinished:
        _discard(path)
    return unfinished


@contextmanager
def naming_last_good(folder: Path) -> Iterator[None]:
    """Around training: a divergence and a save that fails become errors that say which checkpoint is good.

    Raises:
        ShudunError: with the cause, the last good checkpoint and how to go on.
    """
    try:
        yield
    except DivergedError as error:
        good = last_good(folder)
        weights = f"; {good} is the last good checkpoint, and can be the model.encoder of another run" if good else ""
        raise ShudunError(
            f"{error}, and start again in another folder: --resume repeats the same steps{weights}"
        ) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        # Other processes fail because the main one did. Only inside a save a checkpoint without a manifest exists.
        unfinished = discard_unfinished(folder) if is_main_process() else []
        full = isinstance(error, SafetensorError) or (isinstance(error, OSError) and error.errno in DISK_FULL)
        if not (unfinished or full):
            raise
        what = unfinished[-1] if unfinished else folder.parent
        raise ShudunError(
            f"{what}: cannot be written ({error}), most often for want of disk space. "
            f"Make room; then: {_way_on(last_good(folder))}"
        ) from error


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("checkpoint-*") if path.is_dir()), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _best_step(checkpoint: Path) -> int | None:
    try:
        best = json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes()).get("best_global_step")
    except (OSError, ValueError, AttributeError):
        return None
    return best if isinstance(best, int) else None


def _discard(checkpoint: Path) -> None:
    # The manifest goes first: a removal that is cut off leaves an unfinished checkpoint, not a damaged one.
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def _contents(checkpoint: Path, *, to_disk: bool = False) -> dict[str, dict[str, Any]]:
    contents = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and not path.name.startswith(MANIFEST):
            if to_disk:
                _to_disk(path)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            contents[path.relative_to(checkpoint).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return contents


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _difference(recorded: dict[str, Any] | None, found: dict[str, Any] | None) -> str:
    if recorded is None or found is None:
        return "missing" if found is None else "not in the manifest"
    if found["bytes"] != recorded["bytes"]:
        return f"{found['bytes']:,} bytes instead of {recorded['bytes']:,}"
    return "its sha256 is not that of the manifest"


def _damaged(folder: Path, damaged: dict[Path, list[str]]) -> str:
    problems = "; ".join(f"{path.name}: {', '.join(found)}" for path, found in damaged.items())
    good = last_good(folder)
    if good is None:
        return f"{folder}: damaged checkpoint ({problems}). {_way_on(good)}"
    newer = ", ".join(path.name for path in whole_checkpoints(folder) if _step(path) > _step(good))
    return f"{folder}: damaged checkpoint ({problems}). Remove {newer} there, then {_way_on(good)}"


def _way_on(good: Path | None) -> str:
    if good is None:
        return "No checkpoint is good: remove the folder and start again without --resume"
    return f"--resume goes on from {good.name}, the last good one"
