"""From one record to one checked line of output.

The row that a format's conversion gives is parsed as training parses it, so that what is written can be trained on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from shudun.items import Item, Note
from shudun.records import Record
from shudun.rows import Row
from shudun_training.evidence import TEXT_FIELDS
from shudun_training.examples import Example, ExampleParser
from shudun_training.importers.contract import Dropped, Part, Plan

MAX_TEXT_CHARS = 1 << 20
"""Longest text of a row. What is longer is no comment or note, but a quote or line break that is missing."""


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """One row, checked and ready to be written; `dropped` names why it is to be left out instead.

    `line` is its JSON; `text` what is judged (without the parent text) and `group` its group, both for splitting;
    `labels` its positive labels, `None` for a row that is not labelled.
    """

    id: str | None
    line: str = ""
    text: str = ""
    group: str | None = None
    labels: tuple[str, ...] | None = None
    dropped: str = ""


class RowImporter:
    """Parses the records of one part; raises `RowError` for what is not a row."""

    def __init__(self, part: Part, plan: Plan) -> None:
        self._convert = part.convert
        self._order = plan.taxonomy.label_ids
        self._parse = ExampleParser(plan.taxonomy, plan.annotated_labels)

    def __call__(self, row: Row) -> ImportedRow:
        """Convert, check and serialise one record."""
        converted = self._convert(row)
        if isinstance(converted, Dropped):
            return ImportedRow(None, dropped=converted.reason)
        place = Row(row.file, Record(row.record.line, converted, row.record.raw))
        _check_texts(place)
        example = self._parse(place)
        labels = None if converted.get("labels") is None else self._ordered(example.labels)
        group, columns = example.meta.get("group"), item_columns(example.item)
        return ImportedRow(
            id=example.id,
            line=_serialised(place, {**columns, **self._label_columns(example, labels), **example.meta}),
            text=f"{columns['title']}\n{columns['text']}".strip(),
            group=None if group is None else str(group),
            labels=labels,
        )

    def _ordered(self, labels: frozenset[str]) -> tuple[str, ...]:
        return tuple(label for label in self._order if label in labels)

    def _label_columns(self, example: Example, labels: tuple[str, ...] | None) -> dict[str, Any]:
        unknown = () if labels is None else self._ordered(example.unknown_labels)
        return {"labels": None if labels is None else list(labels), "unknown_labels": list(unknown)}


def item_columns(item: Item) -> dict[str, str]:
    """The item fields of a row, in the order in which they are written."""
    title, parent = (item.title, "") if isinstance(item, Note) else ("", item.parent_text)
    return {"id": item.id or "", "kind": item.kind, "title": title, "text": item.text, "parent_text": parent}


def _check_texts(row: Row) -> None:
    for name in TEXT_FIELDS:
        value = row.text(name)
        if len(value) > MAX_TEXT_CHARS:
            hint = "Look for a quote or line break that is missing before it."
            got = f"{len(value):,} characters: {value[:20]}…"
            raise row.problem(name, f"at most {MAX_TEXT_CHARS:,} characters", got, hint)
        if "\0" in value:
            hint = "Is the file damaged, or UTF-16? Save it as UTF-8, without NUL."
            raise row.problem(name, "a text without NUL characters", value, hint)


def _serialised(row: Row, columns: dict[str, Any]) -> str:
    line = json.dumps(columns, ensure_ascii=False, default=str) + "\n"
    try:
        line.encode("utf-8")
    except UnicodeEncodeError as error:
        hint = "Remove the lone surrogate (half of a character) from this row."
        raise row.problem("(row)", "valid Unicode", f"{line[error.start]!r}", hint) from None
    return line
