"""`shudun runs`: every run below a folder in one table, also those that are unfinished, old or damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from shudun import terminal
from shudun.errors import ShudunError
from shudun_training.data_checksums import ALL
from shudun_training.run_files import BUNDLE, CHECKPOINT, CONFIG, INPUTS, RECORD, REPORT, TRAINER
from shudun_training.run_summary import RunSummary, summarise

STDOUT = Path("-")
SHORT = 8
"""Digits of a checksum in the table."""

_PARTS = {TRAINER, CHECKPOINT, REPORT, "rejected"}
_ORDERS: dict[str, tuple[Callable[[RunSummary], Any], bool]] = {
    "when": (lambda run: run.when, True),
    "name": (lambda run: (run.name or "", run.folder), False),
    "macro-f1": (lambda run: _ranked(run.metrics.get("macro_f1")), True),
    "macro-ap": (lambda run: _ranked(run.metrics.get("macro_ap")), True),
    "duration": (lambda run: _ranked(run.seconds), True),
}
ORDERS = tuple(_ORDERS)


def list_runs(folder: Path, *, order: str = "when", json_path: Path | None = None) -> None:
    """Print the runs below a folder; `json_path` takes all that is known of them ("-": standard output alone).

    Raises:
        ShudunError: no such folder.
    """
    if not folder.is_dir():
        raise ShudunError(f"{folder}: no such folder")
    key, falling = _ORDERS[order]
    runs = sorted(summaries(folder), key=key, reverse=falling)
    if json_path is not None:
        write_json({"folder": str(folder.resolve()), "runs": [run.to_dict() for run in runs]}, json_path)
    if json_path != STDOUT:
        _print(runs, folder)


def summaries(folder: Path) -> list[RunSummary]:
    """A summary of each run in or below a folder, in order of their paths."""
    found = []
    for path, problem in _run_folders(folder):
        shown = path.relative_to(folder).as_posix()
        shown = path.resolve().name if shown == "." else shown
        found.append(summarise(path, name=shown) if problem is None else RunSummary(shown, "damaged", problem))
    return sorted(found, key=lambda run: run.folder)


def write_json(content: object, path: Path) -> None:
    """Write JSON to a file, or to standard output for "-"."""
    text = json.dumps(content, ensure_ascii=False, indent=2)
    if path == STDOUT:
        print(text)
    else:
        path.write_text(text + "\n", encoding="utf-8")


def _run_folders(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Run folders, and folders that cannot be read with the reason; runs inside runs are found, parts are skipped."""
    unreadable: list[OSError] = []
    for path, folders, files in os.walk(folder, onerror=unreadable.append):
        is_run = RECORD in files or {INPUTS, CONFIG} <= set(files)
        folders[:] = [name for name in folders if not (name.startswith(".") or (is_run and _is_part(name)))]
        if is_run:
            yield Path(path), None
    for error in unreadable:
        yield Path(error.filename), f"{error.strerror}"


def _is_part(name: str) -> bool:
    return name in _PARTS or name.startswith(BUNDLE)


def _print(runs: Sequence[RunSummary], folder: Path) -> None:
    console = terminal.console()
    if not runs:
        console.print(f"{folder}: no runs")
        return
    figures = ("rows", "epochs", "steps", "macro-F1", "macro-AP")
    table = Table(
        *(Column(name, overflow="fold", min_width=16) for name in ("run", "name")),
        *(Column(name, no_wrap=True) for name in ("when (UTC)", "state")),
        Column("encoder", overflow="fold"),
        "data",
        *(Column(name, justify="right", no_wrap=True) for name in figures),
        "on",
        Column("duration", justify="right"),
    )
    for run in runs:
        table.add_row(*_cells(run))
    console.print(table)
    for run in runs:
        if run.state == "damaged":
            console.print(f"{run.folder}: {run.problem}", soft_wrap=True)
    if any(run.difference_to_baseline for run in runs):
        console.print("in brackets: model minus linear baseline on the same rows; * its 95 % interval excludes 0")


def _cells(run: RunSummary) -> list[str]:
    epochs = [figure for figure in (run.epochs, run.planned_epochs) if figure is not None]
    return [
        run.folder,
        run.name or "-",
        run.when[:16].replace("T", " ") or "-",
        run.state,
        run.encoder or "-",
        run.data.get(ALL, "-")[:SHORT],
        f"{run.rows['train']:,}" if "train" in run.rows else "-",
        "/".join(f"{figure:.4g}" for figure in epochs) or "-",
        "-" if run.steps is None else f"{run.steps:,}",
        *(_measured(run, name) for name in ("macro_f1", "macro_ap")),
        run.measured_on or "-",
        "-" if run.seconds is None else str(timedelta(seconds=round(run.seconds))),
    ]


def _measured(run: RunSummary, name: str) -> str:
    """A figure and, in brackets, model minus baseline."""
    value, difference = run.metrics.get(name), run.difference_to_baseline.get(name)
    if value is None:
        return "-"
    if not difference or "delta" not in difference:
        return f"{value:.3f}"
    clear = difference.get("low", 0) > 0 or difference.get("high", 0) < 0
    return f"{value:.3f} ({difference['delta']:+.3f}{'*' if clear else ''})"


def _ranked(value: float | None) -> float:
    return float("-inf") if value is None else value
