"""Public data sets turned into the item format, split without leakage.

Each importer reads the original files from a folder the user gives and yields rows per split; nothing of them
is shipped. A row that cannot be read is reported with its file and line.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from shudun import terminal
from shudun.errors import RowError, ShudunError
from shudun.records import BadRecord, read_records
from shudun.rows import Row as SourceRow
from shudun_training.splitting import grouped_split, near_duplicate_clusters

Rows: TypeAlias = list[dict[str, Any]]
Splits: TypeAlias = dict[str, Rows]
"""Split name → rows in the item format."""

TOXICN_LABELS = ("lgbtq", "region", "sexism", "racism", "other_target")
TOXICN_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def import_dataset(name: str, folder: Path, output: Path, *, seed: int) -> None:
    """Import data set `name` from `folder` into `output/<split>.jsonl`, and print what became of the rows.

    Raises:
        ShudunError: unknown name, missing files, or a row that is not what the data set documents.
    """
    if name not in IMPORTERS:
        raise ShudunError(f"unknown data set {name!r}; known: {', '.join(IMPORTERS)}")
    splits, notes = IMPORTERS[name](folder, seed)
    output.mkdir(parents=True, exist_ok=True)
    console = terminal.console()
    for split, rows in splits.items():
        path = output / f"{split}.jsonl"
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
        console.print(f"{path}: {len(rows):,} rows")
    for note in notes:
        console.print(note)


def import_cold(folder: Path, seed: int) -> tuple[Splits, list[str]]:  # noqa: ARG001  official split
    """COLD (Deng et al. 2022), official split: `train.csv`, `dev.csv`, `test.csv`; label `offensive`.

    Test rows whose text also stands in train are dropped, and dev rows whose text stands in train or test.
    """
    files = {"train": "train.csv", "validation": "dev.csv", "test": "test.csv"}
    rows = {split: [_cold_row(row, split) for row in _csv_rows(folder / file)] for split, file in files.items()}
    notes = []
    for split, others in (("test", ("train",)), ("validation", ("train", "test"))):
        leaked = {row["text"] for other in others for row in rows[other]}
        kept = [row for row in rows[split] if row["text"] not in leaked]
        dropped = len(rows[split]) - len(kept)
        notes.append(f"{files[split]}: {dropped} of {len(rows[split]):,} rows dropped, their text stands in {others}")
        rows[split] = kept
    return rows, notes


def import_toxicn(folder: Path, seed: int) -> tuple[Splits, list[str]]:
    """ToxiCN (Lu et al. 2023): `ToxiCN_1.0.csv`; label `toxic` and its targets, split 80 / 10 / 10 by cluster."""
    rows = [_toxicn_row(row) for row in _csv_rows(folder / "ToxiCN_1.0.csv")]
    clusters = near_duplicate_clusters([row["text"] for row in rows])
    labels = np.array([[label in row["labels"] for label in ("toxic", *TOXICN_LABELS)] for row in rows], dtype=np.int64)
    names = grouped_split(labels, clusters, TOXICN_SHARES, seed=seed)
    splits = {split: [row for row, name in zip(rows, names, strict=True) if name == split] for split in TOXICN_SHARES}
    grouped = len(rows) - len(np.unique(clusters))
    return splits, [f"{len(rows):,} rows; {grouped:,} near-duplicates kept with the text they repeat"]


IMPORTERS: Mapping[str, Callable[[Path, int], tuple[Splits, list[str]]]] = {
    "cold": import_cold,
    "toxicn": import_toxicn,
}


def _csv_rows(path: Path) -> Iterator[SourceRow]:
    for record in read_records(path):
        if isinstance(record, BadRecord):
            raise RowError(record.problem)
        yield SourceRow(str(path), record)


def _cold_row(row: SourceRow, split: str) -> dict[str, Any]:
    label = _choice(row, "label", ("0", "1"))
    fine = {"fine_grained": row.text("fine-grained-label")} if row.get("fine-grained-label") else {}
    return {
        "id": f"cold-{split}-{row.record.line}",
        "kind": "comment",
        "text": _required(row, "TEXT"),
        "labels": ["offensive"] if label == "1" else [],
        "topic": row.text("topic"),
        **fine,
    }


def _toxicn_row(row: SourceRow) -> dict[str, Any]:
    toxic = _choice(row, "toxic", ("0", "1")) == "1"
    target = row.text("target")
    try:
        hot = ast.literal_eval(target)
    except (ValueError, SyntaxError):
        hot = None
    if not isinstance(hot, list) or len(hot) != len(TOXICN_LABELS) + 1 or not all(value in (0, 1) for value in hot):
        raise row.problem("target", "a list of six 0 or 1", target, "Use the original ToxiCN_1.0.csv.")
    targets = [label for label, is_target in zip(TOXICN_LABELS, hot[:-1], strict=True) if is_target]
    return {
        "id": f"toxicn-{row.record.line}",
        "kind": "comment",
        "text": _required(row, "content"),
        "labels": (["toxic"] if toxic else []) + targets,
        "topic": row.text("topic"),
        "platform": row.text("platform"),
    }


def _required(row: SourceRow, field: str) -> str:
    text = row.text(field)
    if not text.strip():
        raise row.problem(field, "a non-blank text", text, "Use the data set's original file.")
    return text


def _choice(row: SourceRow, field: str, choices: tuple[str, ...]) -> str:
    value = row.text(field).strip()
    if value not in choices:
        raise row.problem(field, " or ".join(choices), value, "Use the data set's original file.")
    return value
