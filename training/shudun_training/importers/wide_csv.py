"""Wide CSV: one column a label, cells 1 and 0, an empty cell where the label was not judged.

Columns are labels when the taxonomy or the label map has their name; the rest are item fields and columns to keep.
A row whose label cells are all empty is not labelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from shudun.errors import ShudunError
from shudun.records import Record, RecordOrBad
from shudun.rows import Row
from shudun_training.importers.contract import ImportOptions, Part, Plan, only_file
from shudun_training.importers.fields import item_fields, other_columns
from shudun_training.importers.reading import records

CELLS = {"1": True, "1.0": True, "0": False, "0.0": False, "": None}
"""Meaning of a cell; a column with an empty cell becomes 1.0 and 0.0 when pandas writes it."""


def plan(path: Path, options: ImportOptions) -> Plan:
    """Read one CSV file."""
    only_file(path, ".csv", ".csv.gz")
    part = Part(path, partial(_records, path, options), partial(_convert, options=options))
    return Plan([part], options.checked(unused=["label_separator"]), options.annotated_labels)


def _records(path: Path, options: ImportOptions) -> Iterator[RecordOrBad]:
    for record in records(path, options.encoding):
        if isinstance(record, Record) and not _label_columns(record.values, options):
            known = ", ".join(options.checked().label_ids)
            raise ShudunError(
                f"{path}:1: no column is named as a label ({known}); it has {', '.join(record.values)}. "
                "Map column names with --label-map COLUMN=LABEL"
            )
        yield record


def _label_columns(values: Mapping[str, Any], options: ImportOptions) -> dict[str, str]:
    """Column → label."""
    known = options.checked().index
    named = {column: options.label_map.get(column, column) for column in values}
    return {column: label for column, label in named.items() if label in known}


def _convert(row: Row, *, options: ImportOptions) -> dict[str, Any]:
    values, columns = row.record.values, _label_columns(row.record.values, options)
    cells: dict[str, list[bool | None]] = {}
    for column, label in columns.items():
        cells.setdefault(label, []).append(_cell(row, column))
    # Of several columns that mean one label, any positive decides, and an empty one leaves the rest open.
    judged = {label: True if True in found else (None if None in found else False) for label, found in cells.items()}
    dropped = [column for column, label in options.label_map.items() if not label]
    fields = {**item_fields(row, values, options), **other_columns(values, options, {*columns, *dropped})}
    if all(value is None for value in judged.values()):
        return {**fields, "labels": None}
    unknown = [label for label in options.checked().label_ids if judged.get(label) is None]
    return {**fields, "labels": [label for label, value in judged.items() if value], "unknown_labels": unknown}


def _cell(row: Row, column: str) -> bool | None:
    value = row.text(column).strip()
    if value not in CELLS:
        raise row.problem(column, "1, 0 or nothing", value, "Write 1 for yes, 0 for no, nothing for not judged.")
    return CELLS[value]
