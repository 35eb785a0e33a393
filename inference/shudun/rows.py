"""From records to items: the public row format, its checks, and what happens to bad rows.

Row fields: `id`, `kind` (`note` | `comment`, default `comment`), `title` (notes), `text`, `parent_text`
(comments). Other columns are left alone. A bad row either ends the job with its place and reason
(`on_bad_row="fail"`) or goes to a side file (`"skip"`); the counts always add up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from shudun.errors import RowError, RowProblem, ShudunError
from shudun.items import KINDS, Comment, Item, Note
from shudun.records import BadRecord, Record, RecordOrBad, read_records
from shudun.seen import SeenIds

OnBadRow: TypeAlias = Literal["fail", "skip"]


class HasId(Protocol):
    """Anything with an id that must be unique within one job."""

    @property
    def id(self) -> str | None:
        """The row's id."""


T = TypeVar("T", bound=HasId)


@dataclass(frozen=True, slots=True)
class Row:
    """One record at its place, with typed access to its fields.

    Each accessor raises `RowError` with file, line and field when the value is not what is expected.
    """

    file: str
    record: Record

    def problem(self, field: str, expected: str, got: Any, hint: str) -> RowError:
        """A `RowError` at this row."""
        shown = "nothing" if got is None else f"{type(got).__name__} {_clip(got)}"
        return RowError(RowProblem(self.file, self.record.line, field, expected, shown, hint))

    def get(self, field: str) -> Any:
        """The raw value, `None` when absent or null."""
        return self.record.values.get(field)

    def get_optional(self, field: str) -> Any:
        """The raw value, `None` when absent, null or the empty string (which is all that CSV can say)."""
        value = self.get(field)
        return None if value == "" else value

    def text(self, field: str) -> str:
        """A string, empty when absent or null."""
        value = self.get(field)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.problem(field, "a string", value, "Write the value as text.")
        return value

    def string_list(self, field: str) -> list[str] | None:
        """A list of strings, `None` when absent or null; in CSV the cell holds a JSON list such as `["a"]`."""
        value = self.get_optional(field)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                hint = 'In CSV write a JSON list, e.g. ["a", "b"], [] for none, or an empty cell for not labelled.'
                raise self.problem(field, "a list of strings", value, hint) from None
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise self.problem(field, "a list of strings", value, 'Write e.g. ["a", "b"], or [] for none.')
        return value


def parse_item(row: Row) -> Item:
    """Parse the item fields of a row; a row without an id is named `row-<line>`.

    Raises:
        RowError: unknown kind, wrong types, missing text, or a field that its kind does not have.
    """
    kind, item_id = row.get_optional("kind"), _parse_id(row)
    title, text, parent_text = row.text("title"), row.text("text"), row.text("parent_text")
    if kind is not None and kind not in KINDS:
        raise row.problem("kind", "note or comment", kind, "Use one of the two, or leave it out for comment.")
    if row.get("text") is None and not (kind == "note" and title):
        hint = "Give the text (a note may have a title alone), or leave the row out."
        raise row.problem("text", "a string", None, hint)
    if kind == "note":
        if parent_text:
            raise row.problem("parent_text", "nothing for a note", parent_text, "Only comments have a parent.")
        return Note(title=title, text=text, id=item_id)
    if title:
        hint = 'Set "kind": "note", or put the note\'s title into parent_text.'
        raise row.problem("title", "nothing for a comment", title, hint)
    return Comment(text=text, parent_text=parent_text, id=item_id)


class RowReader(Generic[T]):
    """Iterates over the good rows of a file and accounts for every other one.

    After iteration `read == good + rejected`. Duplicate ids are bad rows from the second one on.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[Row], T],
        *,
        on_bad_row: OnBadRow = "fail",
        rejected_path: Path | None = None,
        columns: Mapping[str, str] | None = None,
        records: Iterator[RecordOrBad] | None = None,
    ) -> None:
        """`columns` maps a field to the column that holds it; `records` replaces reading `path` from disk.

        Raises:
            ShudunError: `on_bad_row="skip"` without a `rejected_path` for the rows that are left out.
        """
        if on_bad_row == "skip" and rejected_path is None:
            raise ShudunError("on_bad_row='skip' needs a side file for the rejected rows")
        self.path = path
        self.rejected_path = rejected_path
        self.read = self.good = self.rejected = 0
        self._parse = parse
        self._on_bad_row = on_bad_row
        self._columns = dict(columns or {})
        self._records = records

    def __iter__(self) -> Iterator[T]:
        with ExitStack() as stack:
            seen = stack.enter_context(SeenIds())
            side = stack.enter_context(_SideFile(self.rejected_path))
            for record in read_records(self.path) if self._records is None else self._records:
                self.read += 1
                try:
                    parsed = self._checked(record, seen)
                except RowError as error:
                    if self._on_bad_row == "fail":
                        raise
                    self.rejected += 1
                    side.write(error.problem, record.raw)
                else:
                    self.good += 1
                    yield parsed

    def _checked(self, record: RecordOrBad, seen: SeenIds) -> T:
        if isinstance(record, BadRecord):
            raise RowError(record.problem)
        row = Row(str(self.path), self._rename(record))
        parsed = self._parse(row)
        if parsed.id is not None and not seen.add(parsed.id):
            raise row.problem("id", "an id that stands once", parsed.id, "Remove the repeated row or rename it.")
        return parsed

    def _rename(self, record: Record) -> Record:
        if not self._columns:
            return record
        # A JSONL row may leave out what it has no value for; the columns of the other formats are fixed.
        needed = self._columns.values() if ".jsonl" not in self.path.name else [self._columns.get("text", "text")]
        missing = sorted(set(needed) - set(record.values))
        if missing:
            raise ShudunError(f"{self.path}: no column {', '.join(missing)}; it has {', '.join(record.values)}")
        renamed = {field: record.values.get(column) for field, column in self._columns.items()}
        kept = {key: value for key, value in record.values.items() if key not in self._columns.values()}
        return Record(record.line, {**kept, **renamed}, record.raw)


class _SideFile:
    """The rejected rows as JSONL; the file exists only when there are any."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stack = ExitStack()
        self._file: Any = None

    def __enter__(self) -> _SideFile:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def write(self, problem: RowProblem, raw: str) -> None:
        if self._path is None:
            raise ValueError("no side file for rejected rows")
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._stack.enter_context(self._path.open("w", encoding="utf-8"))
        self._file.write(json.dumps(problem.to_dict() | {"raw": raw}, ensure_ascii=True) + "\n")


def _parse_id(row: Row) -> str:
    value = row.get_optional("id")
    if value is None:
        return f"row-{row.record.line}"
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise row.problem("id", "a non-empty string or a whole number", value, "Give each row an id of its own.")
    if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
        # Such an id could not be written into any output file.
        raise row.problem("id", "valid Unicode", value, "Remove the lone surrogate from this id.")
    return str(value)


def _clip(value: Any, limit: int = 80) -> str:
    text = repr(value) if not isinstance(value, str) else repr(value[: limit + 1])
    return text if len(text) <= limit else text[:limit] + "…"
