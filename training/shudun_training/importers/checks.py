"""Checks on the cells of published data sets, whose values are documented."""

from __future__ import annotations

from shudun.rows import Row

ORIGINAL = "Use the data set's original file."


def required(row: Row, field: str) -> str:
    """A text that is not blank.

    Raises:
        RowError: it is.
    """
    text = row.text(field)
    if not text.strip():
        raise row.problem(field, "a non-blank text", text, ORIGINAL)
    return text


def choice(row: Row, field: str, choices: tuple[str, ...]) -> str:
    """One of the documented values, without spaces around it.

    Raises:
        RowError: another value.
    """
    value = row.text(field).strip()
    if value not in choices:
        shown = " or ".join(option or "nothing" for option in choices)
        raise row.problem(field, shown, value, ORIGINAL)
    return value
