"""Reading files of records: JSONL, CSV and Parquet, plain or gzip-compressed, one record at a time.

Text is UTF-8 unless the caller says GB18030; the encoding is never guessed. Knows bytes, lines and columns, not what
they mean (see `rows`). A record that cannot be read is yielded as a `BadRecord` with its place and raw text, and
reading goes on; a file that cannot be read further raises.
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
from typing import IO, Any, Literal, TypeAlias, cast

from shudun.errors import MissingExtraError, RowProblem, ShudunError

CSV_FIELD_CHARS = 1 << 24
"""Longest CSV cell that is read, in characters; a longer one is a bad record."""

PARQUET_BATCH_ROWS = 4096

UTF8_HINT = "Save the file as UTF-8 (for GB18030: iconv -f GB18030 -t UTF-8)."

Encoding: TypeAlias = Literal["utf-8", "gb18030"]

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


def read_records(path: Path, *, encoding: Encoding = "utf-8") -> Iterator[RecordOrBad]:
    """Yield the records of a file in order, in flat memory; Parquet has no use for `encoding`.

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
    with open_bytes(path) as file:
        reader = _read_csv if ".csv" in name else _read_jsonl
        try:
            yield from reader(file, str(path), encoding)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ShudunError(f"{path}: the compressed file is damaged or cut short: {error}") from error


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading; one whose name ends in `.gz` is decompressed on the way."""
    if path.name.lower().endswith(".gz"):
        with gzip.open(path, "rb") as compressed:
            yield cast("IO[bytes]", compressed)
    else:
        with path.open("rb") as file:
            yield file


def _read_jsonl(file: IO[bytes], name: str, encoding: Encoding) -> Iterator[RecordOrBad]:
    # Neither encoding has the byte of a line break inside another character.
    for line, data in enumerate(file, start=1):
        content = data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data
        if content.strip():
            yield _json_record(content, name, line, encoding)


def _json_record(data: bytes, name: str, line: int, encoding: Encoding) -> RecordOrBad:
    raw = data.decode(encoding, "backslashreplace").rstrip("\r\n")
    try:
        values = json.loads(data.decode(encoding))
    except UnicodeDecodeError as error:
        got = f"byte {data[error.start]:#04x} at offset {error.start} of the line"
        return undecodable(name, line, got, raw, encoding)
    except (ValueError, RecursionError) as error:
        problem = RowProblem(name, line, "(row)", "one JSON object", str(error), "Fix the JSON of this line.")
        return BadRecord(problem, raw)
    if not isinstance(values, dict):
        got = type(values).__name__
        return BadRecord(RowProblem(name, line, "(row)", "a JSON object", got, "Write {...} per line."), raw)
    return Record(line, values, raw)


def _read_csv(file: IO[bytes], name: str, encoding: Encoding) -> Iterator[RecordOrBad]:
    # surrogateescape keeps invalid bytes recognisable, so that only their own record is refused.
    codec = "utf-8-sig" if encoding == "utf-8" else encoding
    text = io.TextIOWrapper(file, encoding=codec, errors="surrogateescape", newline="")
    try:
        yield from _csv_records(text, name, encoding)
    finally:
        # The caller closes the file; a wrapper that is still attached would warn when it is collected.
        text.detach()


def _csv_records(text: IO[str], name: str, encoding: Encoding) -> Iterator[RecordOrBad]:
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
            header = _header(cells, name, encoding)
        else:
            yield _csv_record(header, cells, name, line, encoding)


def _header(cells: list[str], name: str, encoding: Encoding) -> list[str]:
    if any(map(has_invalid_bytes, cells)):
        raise ShudunError(f"{name}:1: the CSV header is not valid {encoding.upper()}. {_hint(encoding)}")
    header = [cell.strip() for cell in cells]
    if len(set(header)) != len(header):
        raise ShudunError(f"{name}:1: the CSV header names a column twice: {header}")
    return header


def _csv_record(header: list[str], cells: list[str], name: str, line: int, encoding: Encoding) -> RecordOrBad:
    raw = json.dumps(cells, ensure_ascii=True)
    for column, cell in zip(header, cells, strict=False):
        if has_invalid_bytes(cell):
            return undecodable(name, line, f"an invalid byte in column '{column}'", raw, encoding)
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


def undecodable(name: str, line: int, got: str, raw: str, encoding: Encoding) -> BadRecord:
    """The bad record of bytes that are not in the encoding they were read in."""
    problem = RowProblem(name, line, "(row)", f"valid {encoding.upper()}", got, _hint(encoding))
    return BadRecord(problem, raw)


def has_invalid_bytes(text: str) -> bool:
    """Whether text that was decoded with `errors="surrogateescape"` held bytes outside its encoding."""
    return any("\udc80" <= char <= "\udcff" for char in text)


def _hint(encoding: Encoding) -> str:
    return UTF8_HINT if encoding == "utf-8" else "Read the file in the encoding it was saved in."
