"""Reading files of records: JSONL, CSV and Parquet, plain or gzip-compressed, one record at a time.

Knows bytes, lines and columns, not what they mean (see `rows`). A record that cannot be read is yielded as a
`BadRecord` with its place and raw text, and reading goes on; a file that cannot be read further raises.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

from shudun.errors import MissingExtraError, RowProblem, ShudunError

CSV_FIELD_CHARS = 1 << 24
"""Longest CSV cell that is read, in characters; a longer one is a bad record."""

PARQUET_BATCH_ROWS = 4096

UTF8_HINT = "Save the file as UTF-8 (for GB18030: iconv -f GB18030 -t UTF-8)."

FORMATS = (".jsonl", ".csv", ".parquet", ".jsonl.gz", ".csv.gz")


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its 1-based line (row number in Parquet), its values by column and its raw text."""

    line: int
    values: Mapping[str, Any]
    raw: str


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that could not be read, with the reason."""

    problem: RowProblem
    raw: str


RecordOrBad: TypeAlias = Record | BadRecord


def read_records(path: Path) -> Iterator[RecordOrBad]:
    """Yield the records of a file in order, in flat memory.

    Blank lines of JSONL and CSV files are no records.

    Raises:
        ShudunError: unknown file type, missing file, damaged compression, or a Parquet file that is none.
    """
    name = path.name.lower()
    if not name.endswith(FORMATS):
        raise ShudunError(f"{path}: expected a file ending in {', '.join(FORMATS)}")
    if not path.is_file():
        raise ShudunError(f"{path}: no such file")
    if name.endswith(".parquet"):
        yield from _read_parquet(path)
        return
    with _open_bytes(path) as file:
        reader = _read_csv if ".csv" in name else _read_jsonl
        try:
            yield from reader(file, str(path))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ShudunError(f"{path}: the compressed file is damaged or cut short: {error}") from error


@contextmanager
def _open_bytes(path: Path) -> Iterator[IO[bytes]]:
    if path.name.lower().endswith(".gz"):
        with gzip.open(path, "rb") as compressed:
            yield cast("IO[bytes]", compressed)
    else:
        with path.open("rb") as file:
            yield file


def _read_jsonl(file: IO[bytes], name: str) -> Iterator[RecordOrBad]:
    for line, data in enumerate(file, start=1):
        content = data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data
        if content.strip():
            yield _json_record(content, name, line)


def _json_record(data: bytes, name: str, line: int) -> RecordOrBad:
    raw = data.decode("utf-8", "backslashreplace").rstrip("\r\n")
    try:
        values = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _not_utf8(name, line, f"byte {data[error.start]:#04x} at offset {error.start} of the line", raw)
    except (ValueError, RecursionError) as error:
        problem = RowProblem(name, line, "(row)", "one JSON object", str(error), "Fix the JSON of this line.")
        return BadRecord(problem, raw)
    if not isinstance(values, dict):
        got = type(values).__name__
        return BadRecord(RowProblem(name, line, "(row)", "a JSON object", got, "Write {...} per line."), raw)
    return Record(line, values, raw)


def _read_csv(file: IO[bytes], name: str) -> Iterator[RecordOrBad]:
    # surrogateescape keeps invalid bytes recognisable, so that only their own record is refused.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _csv_records(text, name)
    finally:
        # The caller closes the file; a wrapper that is still attached would warn when it is collected.
        text.detach()


def _csv_records(text: IO[str], name: str) -> Iterator[RecordOrBad]:
    csv.field_size_limit(CSV_FIELD_CHARS)
    reader = csv.reader(text, strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise ShudunError(f"{name}:{line}: the CSV header cannot be read: {error}") from error
            hint = "Quote cells that hold commas, quotes or line breaks."
            yield BadRecord(RowProblem(name, line, "(row)", "a CSV record", str(error), hint), "")
            continue
        if not cells:
            continue
        if header is None:
            header = _header(cells, name)
        else:
            yield _csv_record(header, cells, name, line)


def _header(cells: list[str], name: str) -> list[str]:
    if any(map(_has_invalid_bytes, cells)):
        raise ShudunError(f"{name}:1: the CSV header is not valid UTF-8. {UTF8_HINT}")
    header = [cell.strip() for cell in cells]
    if len(set(header)) != len(header):
        raise ShudunError(f"{name}:1: the CSV header names a column twice: {header}")
    return header


def _csv_record(header: list[str], cells: list[str], name: str, line: int) -> RecordOrBad:
    raw = json.dumps(cells, ensure_ascii=True)
    for column, cell in zip(header, cells, strict=False):
        if _has_invalid_bytes(cell):
            return _not_utf8(name, line, f"an invalid byte in column '{column}'", raw)
    if len(cells) != len(header):
        hint = "Quote cells that hold commas, or add the missing cells."
        problem = RowProblem(name, line, "(row)", f"{len(header)} cells as in the header", str(len(cells)), hint)
        return BadRecord(problem, raw)
    return Record(line, dict(zip(header, cells, strict=True)), raw)


def _read_parquet(path: Path) -> Iterator[RecordOrBad]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("reading Parquet", "parquet", error) from error
    try:
        with pq.ParquetFile(path) as file:
            line = 0
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                for values in batch.to_pylist():
                    line += 1
                    yield Record(line, values, json.dumps(values, ensure_ascii=False, default=str))
    except (pa.ArrowException, OSError, OverflowError, ValueError) as error:  # the last two: values Python cannot hold
        raise ShudunError(f"{path}: cannot be read as Parquet: {error}") from error


def _not_utf8(name: str, line: int, got: str, raw: str) -> BadRecord:
    return BadRecord(RowProblem(name, line, "(row)", "valid UTF-8", got, UTF8_HINT), raw)


def _has_invalid_bytes(cell: str) -> bool:
    return any("\udc80" <= char <= "\udcff" for char in cell)
