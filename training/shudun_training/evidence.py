"""Evidence of a row: the spans of text that its positive labels rest on.

`evidence` is a list of `{"label", "field", "start", "end"}`; `start` and `end` count code points of the raw field,
`end` excluded. It is optional, and so is a span for each label; what stands there must fit the row.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from shudun.rows import Row

TEXT_FIELDS = ("title", "text", "parent_text")


@dataclass(frozen=True, slots=True)
class Span:
    """Code points `start` to `end` (excluded) of a field, and the label they are evidence for."""

    label: str
    field: str
    start: int
    end: int


def parse_evidence(row: Row, positive: Collection[str], known: Collection[str]) -> list[Span] | None:
    """The evidence of a row, `None` where it has no `evidence`; in CSV the cell holds the JSON list.

    Args:
        row: the row.
        positive: labels that hold for the row.
        known: labels of the taxonomy.

    Raises:
        RowError: not a list of spans, a label that is not positive, an unknown field, or limits outside the field.
    """
    value = row.get_optional("evidence")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            hint = 'In CSV write a JSON list, e.g. [{"label": "x", "field": "text", "start": 0, "end": 4}].'
            raise row.problem("evidence", "a list of spans", value, hint) from None
    if value is None:
        return None
    if not isinstance(value, list):
        raise row.problem("evidence", "a list of spans", value, "Write [] where there is no evidence.")
    return [_span(row, f"evidence[{i}]", entry, positive, known) for i, entry in enumerate(value)]


def _span(row: Row, place: str, entry: Any, positive: Collection[str], known: Collection[str]) -> Span:
    if not isinstance(entry, dict):
        raise row.problem(place, 'an object with "label", "field", "start", "end"', entry, "Write one object per span.")
    label, field, start, end = (entry.get(key) for key in ("label", "field", "start", "end"))
    if not isinstance(label, str) or label not in known:
        raise row.problem(f"{place}.label", "a label of the taxonomy", label, "Correct the label name.")
    if label not in positive:
        hint = "Add the label to labels, or remove the span."
        raise row.problem(f"{place}.label", "a label that holds for the row", label, hint)
    if not isinstance(field, str) or field not in TEXT_FIELDS:
        raise row.problem(f"{place}.field", f"one of {', '.join(TEXT_FIELDS)}", field, "Name the field of the span.")
    length = len(row.text(field))
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= length:
        expected = f"0 <= start < end <= {length}, the code points of {field}"
        raise row.problem(place, expected, [start, end], "Mark the span anew in the raw text.")
    return Span(label, field, start, end)
