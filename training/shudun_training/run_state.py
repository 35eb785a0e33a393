"""Whether a run folder is being trained in, and every start that it has seen.

The state is the kernel's: a lock that a process holds as long as it lives, however it ends. Knows nothing of
configurations or rows; what may start or go on is decided by `run_folder`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from shudun.errors import ShudunError
from shudun_training.processes import is_main_process
from shudun_training.provenance import environment, hardware, now
from shudun_training.run_files import CURVES, CURVES_PICTURE, LOCK, REPORT, REPORT_JSON, REPORT_TEXT, SCORES, STARTS

WAIT_SECONDS = 5.0
"""Whoever lists runs holds the lock for a moment, too."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder against other training processes; of several processes of one run the first holds it.

    Raises:
        ShudunError: another process trains in this folder.
    """
    if not is_main_process():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        lock.acquire(timeout=WAIT_SECONDS)
    except Timeout as error:
        raise ShudunError(
            f"{folder}: another process trains here; wait for its end, or choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process trains in this folder now; OSError where that cannot be told (no right to open the lock)."""
    if not (folder / LOCK).exists():
        return False
    lock = _lock(folder)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False


def record_start(folder: Path, *, resume: bool) -> None:
    """Note a start with its versions; a fresh one drops curves and report of the run that it replaces."""
    path = folder / STARTS
    if not resume:
        replaced = [path, folder / CURVES, folder / CURVES_PICTURE]
        replaced += [folder / REPORT / name for name in (REPORT_JSON, REPORT_TEXT, SCORES)]
        for old in replaced:
            old.unlink(missing_ok=True)
    line = {"time": now(), "resume": resume, "environment": environment(), "hardware": hardware()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """Every start of the run, first to last; none where the run is from before they were noted.

    Raises:
        ShudunError: a line is damaged, other than the last one cut off by a kill.
    """
    path = folder / STARTS
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    except (OSError, ValueError) as error:
        raise ShudunError(f"{path}: cannot be read: {error}") from error
    if not all(isinstance(line, dict) and isinstance(line.get("time"), str) for line in lines):
        raise ShudunError(f"{path}: expected one object with a time in every line")
    return lines


def _lock(folder: Path) -> FileLock:
    # Everyone may open it, so that others can see whether a run is alive; it holds nothing.
    return FileLock(folder / LOCK, mode=0o666)
