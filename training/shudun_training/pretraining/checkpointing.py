"""Checkpoints of a pre-training run: written whole or not at all, and verified before anything goes on from them.

A checkpoint is a folder `step-N`: the model as a stock `transformers` folder, the states of the optimisers, the
progress, and a manifest with the size and digest of every file, written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from shudun.errors import ShudunError
from shudun_training.sources import file_sha256

OPTIMIZERS, PROGRESS, MANIFEST, PREFIX = "optimizer.pt", "state.json", "manifest.json", "step-"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Steps done, tokens seen (repeated ones again), seconds of computing, and the digest of its vocabulary.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    vocabulary: str = ""


class CheckpointError(ShudunError):
    """A checkpoint is incomplete or altered."""


class Checkpoints:
    """The checkpoints of a run folder: the newest `keep` ones, and those at the steps that are kept for good."""

    def __init__(self, folder: Path, *, keep: int, keep_steps: Sequence[int] = ()) -> None:
        self._folder, self._keep, self._keep_steps = folder, keep, frozenset(keep_steps)

    def __len__(self) -> int:
        return len(self._all())

    def save(self, progress: Progress, save_model: Callable[[Path], None], optimizers: list[dict[str, Any]]) -> None:
        """Write a checkpoint, then drop those that are no longer kept.

        Raises:
            ShudunError: it could not be written whole (disk full?); the last whole one is kept and named.
        """
        target = self._folder / f"{PREFIX}{progress.step:08d}"
        part = target.with_suffix(".part")
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            save_model(part)
            torch.save(optimizers, part / OPTIMIZERS)
            (part / PROGRESS).write_text(json.dumps(asdict(progress)) + "\n", encoding="utf-8")
            seal(part)
            replace_folder(part, target)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors do not raise OSError
            with suppress(OSError):
                shutil.rmtree(part)
            raise ShudunError(
                f"{target}: the checkpoint could not be written ({error}); is the disk full? {self._last_words()}"
            ) from error
        self._prune()

    def newest(self) -> Path | None:
        """The newest checkpoint, verified; `None` where there is none.

        Raises:
            CheckpointError: it is damaged; the newest whole one is named.
        """
        found = self._all()
        if not found:
            return None
        try:
            verify(found[-1])
        except CheckpointError as error:
            raise CheckpointError(f"{error}. {self._last_words()}") from error
        return found[-1]

    def last_good(self) -> Path | None:
        """The newest checkpoint that is whole."""
        for path in reversed(self._all()):
            with suppress(CheckpointError):
                verify(path)
                return path
        return None

    def clear(self) -> None:
        """Remove all checkpoints."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _last_words(self) -> str:
        good = self.last_good()
        if good is None:
            return "There is no whole checkpoint"
        return f"The last whole checkpoint is {good}: remove what is newer and go on with --resume"

    def _all(self) -> list[Path]:
        found = [path for path in self._folder.glob(f"{PREFIX}*") if path.suffix == "" and path.is_dir()]
        return sorted(found, key=_step)

    def _prune(self) -> None:
        for path in self._all()[: -self._keep]:
            if _step(path) not in self._keep_steps:
                _remove(path)


def seal(folder: Path) -> None:
    """Flush the files of a folder to disk and write their sizes and digests beside them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    for path in files:
        _flush(path)
    entries = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in files
    }
    (folder / MANIFEST).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    _flush(folder / MANIFEST)


def verify(folder: Path) -> None:
    """Check every file of a checkpoint against its manifest.

    Raises:
        CheckpointError: one is missing, cut short or altered.
    """
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, entry in entries.items():
            size = (folder / name).stat().st_size
            if size != entry["bytes"]:
                raise CheckpointError(f"{folder / name}: expected {entry['bytes']:,} bytes, got {size:,}")
            if file_sha256(folder / name) != entry["sha256"]:
                raise CheckpointError(f"{folder / name}: altered since it was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}: no whole checkpoint ({error})") from error


def read_progress(folder: Path) -> Progress:
    """How far a checkpoint is.

    Raises:
        CheckpointError: it does not say so.
    """
    try:
        return Progress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / PROGRESS}: cannot be read: {error}") from error


def read_optimizers(folder: Path) -> list[dict[str, Any]]:
    """The states of the optimisers, on the CPU; nothing but plain values and tensors is loaded."""
    states: list[dict[str, Any]] = torch.load(folder / OPTIMIZERS, map_location="cpu", weights_only=True)
    return states


def digest(folder: Path) -> str:
    """One digest of everything in a checkpoint."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def replace_folder(new: Path, target: Path) -> None:
    """Put a folder in the place of another one, which may not exist."""
    if target.exists():
        _remove(target)
    new.replace(target)
    _flush(target.parent)


def _remove(folder: Path) -> None:
    # Renamed first: a folder that is half removed must not pass for a checkpoint.
    waste = folder.with_suffix(".removed")
    shutil.rmtree(waste, ignore_errors=True)
    folder.replace(waste)
    shutil.rmtree(waste)


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _step(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))
