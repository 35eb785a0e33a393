"""doccano: text classification exports, JSONL, JSON or CSV.

Labels stand in `label` (in some versions and project types `labels` or `cats`); the other columns are doccano's
metadata and are kept. A label `?x` leaves label `x` open: that is how `shudun data export doccano` carries unknown
labels. doccano writes `[]` for a text that nobody has looked at as for one without labels: export confirmed texts only.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from shudun.rows import Row
from shudun_training.importers.contract import ImportOptions, Part, Plan, only_file
from shudun_training.importers.fields import item_fields, label_names, mapped_labels, other_columns
from shudun_training.importers.reading import records

LABEL_COLUMNS = ("label", "labels", "cats")
OPEN = "?"
"""Prefix of a label that is left open."""

CSV_SEPARATOR = "#"


def plan(path: Path, options: ImportOptions) -> Plan:
    """Read one exported file."""
    only_file(path, ".jsonl", ".json", ".csv", ".jsonl.gz", ".json.gz", ".csv.gz")
    separator = CSV_SEPARATOR if ".csv" in path.name.lower() else None
    convert = partial(_convert, options=options, separator=options.label_separator or separator)
    part = Part(path, partial(records, path, options.encoding), convert)
    return Plan([part], options.checked(), options.annotated_labels)


def _convert(row: Row, *, options: ImportOptions, separator: str | None) -> dict[str, Any]:
    values = row.record.values
    column = _label_column(row, options)
    names = None if column is None else label_names(row, column, values.get(column), separator)
    if names is None or column is None:
        labels: dict[str, Any] = {"labels": None}
    else:
        if any(isinstance(name, list) for name in names):
            hint = "This is a sequence labelling export; export a text classification project."
            raise row.problem(column, "a list of label names", names, hint)
        given = [name for name in names if not _is_open(name)]
        left_open = [name[len(OPEN) :] for name in names if _is_open(name)]
        positive = mapped_labels(row, column, given, options)
        unknown = mapped_labels(row, column, left_open, options)
        labels = {"labels": positive, "unknown_labels": [label for label in unknown if label not in positive]}
    return {**item_fields(row, values, options), **labels, **other_columns(values, options, (column or "",))}


def _is_open(name: Any) -> bool:
    return isinstance(name, str) and name.startswith(OPEN)


def _label_column(row: Row, options: ImportOptions) -> str | None:
    if "labels" in options.columns:
        return options.column("labels")
    found = [column for column in LABEL_COLUMNS if column in row.record.values]
    if len(found) > 1:
        hint = "Name the one to read with --column labels=NAME."
        raise row.problem("labels", "one column of labels", found, hint)
    return found[0] if found else None
