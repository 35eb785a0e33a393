"""tg-spam: `train.csv`, chat comments that are spam (off-site diversion, porn and job offers) or not; label `spam`.

The file is no quoted CSV: a line is `0` or `1`, a comma, and the text as it is, commas and quotes included.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from shudun.rows import Row
from shudun_training.importers.checks import choice
from shudun_training.importers.contract import SHARES, Dropped, ImportOptions, Part, Plan, published_taxonomy
from shudun_training.importers.reading import read_lines


def plan(folder: Path, options: ImportOptions) -> Plan:  # noqa: ARG001  its own columns and labels
    """Read the one file; it has no official split."""
    path = folder / "train.csv"
    expected = "0 or 1, a comma and a text"
    part = Part(path, partial(read_lines, path, "utf-8", _split, expected, header=1), _convert)
    return Plan([part], published_taxonomy("tg_spam", ["spam"]), shares=SHARES)


def _split(line: str) -> dict[str, Any] | None:
    target, comma, text = line.partition(",")
    return {"target": target, "input": text} if comma else None


def _convert(row: Row) -> dict[str, Any] | Dropped:
    spam = choice(row, "target", ("0", "1")) == "1"
    text = row.text("input")
    if not text.strip():
        return Dropped("no text")
    return {"id": f"tg_spam-{row.record.line}", "text": text, "labels": ["spam"] if spam else []}
