"""Texts of all sources in order, one at a time, with an account of every row.

Rows are those of `shudun.rows`; an id is not looked at, since texts without labels need none. A `.txt` file has one
text a line. Knows nothing of tokens.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shudun.errors import ShudunError
from shudun.items import Item, is_blank
from shudun.records import Record, RecordOrBad, open_bytes, undecodable
from shudun.rows import OnBadRow, Row, RowReader, parse_item
from shudun_training.pretraining.config import TextSource, is_text_file
from shudun_training.sources import file_sha256


@dataclass(frozen=True, slots=True)
class TextRecord:
    """What a source is: where it stands, how its columns are read, and the digest of its bytes."""

    path: str
    columns: dict[str, str]
    repeat: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass
class TextCounts:
    """Rows of one source: `read == good + rejected`, and `good == trained + held_out`.

    `truncated` of the good ones were cut.
    """

    read: int = 0
    good: int = 0
    rejected: int = 0
    trained: int = 0
    held_out: int = 0
    truncated: int = 0


def describe(sources: Sequence[TextSource]) -> list[TextRecord]:
    """The record of each source.

    Raises:
        ShudunError: a file is missing.
    """
    for source in sources:
        if not source.path.is_file():
            raise ShudunError(f"{source.path}: no such file of texts")
    return [TextRecord(str(s.path), dict(s.columns), s.repeat, file_sha256(s.path)) for s in sources]


class TextReader:
    """Iterates over the items of one source; rows read, good and rejected are counted as in `RowReader`."""

    def __init__(self, source: TextSource, *, on_bad_row: OnBadRow, rejected_path: Path) -> None:
        self._rows = RowReader(
            source.path,
            _parse,
            on_bad_row=on_bad_row,
            rejected_path=rejected_path,
            columns=source.columns,
            records=_lines(source.path) if is_text_file(source.path) else None,
        )

    def __iter__(self) -> Iterator[Item]:
        return (text.item for text in self._rows)

    def count(self, counts: TextCounts) -> None:
        """Copy the counts of rows so far."""
        counts.read, counts.good, counts.rejected = self._rows.read, self._rows.good, self._rows.rejected


def readers(sources: Sequence[TextSource], *, on_bad_row: OnBadRow, rejected_dir: Path) -> Iterator[TextReader]:
    """A reader for each source in order; bad rows of the i-th go to `rejected_dir/i-NAME.rejected.jsonl`."""
    for number, source in enumerate(sources):
        rejected = rejected_dir / f"{number}-{source.path.name}.rejected.jsonl"
        yield TextReader(source, on_bad_row=on_bad_row, rejected_path=rejected)


@dataclass(frozen=True, slots=True)
class _Text:
    item: Item
    id: None = None


def _parse(row: Row) -> _Text:
    values = {name: value for name, value in row.record.values.items() if name != "id"}
    item = parse_item(Row(row.file, Record(row.record.line, values, row.record.raw)))
    if is_blank(item):
        raise row.problem("text", "some text", item.text, "Leave blank rows out, or set on_bad_row: skip.")
    return _Text(item)


def _lines(path: Path) -> Iterator[RecordOrBad]:
    try:
        with open_bytes(path) as file:
            for line, data in enumerate(file, start=1):
                content = (data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data).rstrip(b"\r\n")
                if content.strip():
                    yield _line_record(content, str(path), line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ShudunError(f"{path}: the compressed file is damaged or cut short: {error}") from error


def _line_record(content: bytes, name: str, line: int) -> RecordOrBad:
    raw = content.decode("utf-8", "backslashreplace")
    try:
        return Record(line, {"text": content.decode("utf-8")}, raw)
    except UnicodeDecodeError as error:
        got = f"byte {content[error.start]:#04x} at offset {error.start} of the line"
        return undecodable(name, line, got, raw, "utf-8")
