"""PaddleNLP multi-label text classification: lines of text, tab and labels joined with commas.

A folder holds `train.txt`, `dev.txt` and, optionally, `test.txt`, which are its official split. A line that ends in
its tab has no label. The text may hold tabs itself: the last one separates.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from shudun.errors import ShudunError
from shudun.rows import Row
from shudun_training.importers.contract import ImportOptions, Part, Plan
from shudun_training.importers.fields import item_fields, label_names, mapped_labels
from shudun_training.importers.reading import read_lines

SPLITS = {"train": "train.txt", "validation": "dev.txt", "test": "test.txt"}
SEPARATOR = ","


def plan(path: Path, options: ImportOptions) -> Plan:
    """Read one file, or a folder with its splits."""
    taxonomy = options.checked(unused=["columns"])
    if not path.is_dir():
        return Plan([_part(path, None, options)], taxonomy, options.annotated_labels)
    found = {split: path / name for split, name in SPLITS.items() if (path / name).is_file()}
    if not found:
        raise ShudunError(f"{path}: expected {', '.join(SPLITS.values())} in this folder, or give one file")
    parts = [_part(file, split, options) for split, file in found.items()]
    return Plan(parts, taxonomy, options.annotated_labels)


def _part(path: Path, split: str | None, options: ImportOptions) -> Part:
    reader = partial(read_lines, path, options.encoding, _split, "a text, a tab and labels joined with commas")
    return Part(path, reader, partial(_convert, options=options), split)


def _split(line: str) -> dict[str, Any] | None:
    text, tab, labels = line.rpartition("\t")
    return {"text": text, "labels": labels} if tab else None


def _convert(row: Row, *, options: ImportOptions) -> dict[str, Any]:
    values = row.record.values
    names = label_names(row, "labels", values["labels"], options.label_separator or SEPARATOR) or []
    return {**item_fields(row, values, ImportOptions()), "labels": mapped_labels(row, "labels", names, options)}
