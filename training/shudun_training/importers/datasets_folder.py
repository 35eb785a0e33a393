"""Any hub data set, `datasets` folder or table, with a column map.

Splits of a data set are kept as they are. Integer labels are named by the data set's own features; without names they
are refused. The hub is asked only when the input is neither a file nor a folder, and no remote code is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from shudun.errors import ShudunError
from shudun.records import Record
from shudun.rows import Row
from shudun_training.importers.contract import Convert, ImportOptions, Part, Plan
from shudun_training.importers.fields import item_fields, label_names, mapped_labels, other_columns
from shudun_training.importers.reading import ARRAY_FORMATS, records

FORMATS = (".jsonl", ".csv", ".parquet", ".jsonl.gz", ".csv.gz", *ARRAY_FORMATS)


def plan(path: Path, options: ImportOptions) -> Plan:
    """Read a file, a folder written by `datasets`, or a hub data set."""
    convert = partial(_convert, options=options)
    if path.is_file() or path.name.lower().endswith(FORMATS):
        parts = [Part(path, partial(records, path, options.encoding), convert)]
    else:
        parts = dataset_parts(path, convert)
    return Plan(parts, options.checked(), options.annotated_labels)


def dataset_parts(path: Path, convert: Convert) -> list[Part]:
    """One part for each split of a data set; a data set without splits is one part without a split.

    Raises:
        ShudunError: it cannot be loaded.
    """
    loaded = _load(path)
    if not isinstance(loaded, Mapping):
        return [Part(path, _reader(loaded), convert)]
    return [Part(Path(f"{path}[{split}]"), _reader(rows), convert, str(split)) for split, rows in loaded.items()]


def _load(path: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(str(path)) if path.is_dir() else datasets.load_dataset(path.as_posix())
    except Exception as error:  # datasets, pyarrow and the hub client raise unrelated types
        raise ShudunError(
            f"{path}: neither a file, a folder of datasets.save_to_disk, nor a hub data set that can be loaded: {error}"
        ) from error


def _reader(rows: Any) -> Callable[[], Iterator[Record]]:
    return partial(_records, rows)


def _records(rows: Any) -> Iterator[Record]:
    names = {column: namer for column, feature in rows.features.items() if (namer := _namer(feature))}
    for line, values in enumerate(rows, start=1):
        named = {column: names[column](value) if column in names else value for column, value in values.items()}
        yield Record(line, named, json.dumps(named, ensure_ascii=False, default=str))


def _namer(feature: Any) -> Callable[[Any], Any] | None:
    """How to name the integers of a column of class labels, or of a list of them."""
    inner = getattr(feature, "feature", None)
    if inner is not None and hasattr(inner, "int2str"):
        return lambda value: None if value is None else [_name(inner, one) for one in value]
    return (lambda value: _name(feature, value)) if hasattr(feature, "int2str") else None


def _name(feature: Any, value: Any) -> Any:
    # -1 stands for "no label" in data sets whose test split is not labelled.
    return None if value is None or value < 0 else feature.int2str(value)


def _convert(row: Row, *, options: ImportOptions) -> dict[str, Any]:
    values = row.record.values
    column, unknown = options.column("labels"), options.column("unknown_labels")
    fields = {
        **item_fields(row, values, options),
        **other_columns(values, options, (column, unknown)),
        "labels": _labels(row, column, options),
    }
    return (
        {**fields, "unknown_labels": _labels(row, unknown, options) or []} if fields["labels"] is not None else fields
    )


def _labels(row: Row, column: str, options: ImportOptions) -> list[str] | None:
    value = row.get(column)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = row.string_list(column)
    names = label_names(row, column, value, options.label_separator)
    return None if names is None else mapped_labels(row, column, names, options)
