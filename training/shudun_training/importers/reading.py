"""Readers of what `shudun.records` does not know: lines with a separator, and JSON files that hold one array.

Places are line numbers, or the element's number in an array. Memory is that of the longest record.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, TypeAlias

from shudun.errors import RowProblem, ShudunError
from shudun.records import (
    FORMATS,
    BadRecord,
    Encoding,
    Record,
    RecordOrBad,
    has_invalid_bytes,
    open_bytes,
    read_records,
    undecodable,
)
from shudun_training.importers.json_array import array_elements

CHUNK_CHARS = 1 << 20
ENCODING_HINT = "Give the file's encoding with --encoding gb18030, or save it as UTF-8."

ARRAY_FORMATS = (".json", ".json.gz")

SplitLine: TypeAlias = Callable[[str], dict[str, Any] | None]
"""Values of one line, or `None` when the line is not of the format."""


def records(path: Path, encoding: Encoding) -> Iterator[RecordOrBad]:
    """Records of a JSONL, CSV, Parquet or JSON-array file, with a hint at `--encoding` where bytes do not fit.

    Raises:
        ShudunError: unknown file type, missing file, or a file that is UTF-8 when GB18030 was asked for.
    """
    if not path.name.lower().endswith((*FORMATS, *ARRAY_FORMATS)):
        raise ShudunError(f"{path}: expected a file ending in {', '.join((*FORMATS, *ARRAY_FORMATS))}")
    if not path.is_file():
        raise ShudunError(f"{path}: no such file")
    is_array = path.name.lower().endswith(ARRAY_FORMATS)
    if not path.name.lower().endswith(".parquet"):
        refuse_utf8(path, encoding)
    found = read_array(path, encoding) if is_array else read_records(path, encoding=encoding)
    return (_with_encoding_hint(record) for record in found)


def read_lines(
    path: Path, encoding: Encoding, split: SplitLine, expected: str, *, header: int = 0
) -> Iterator[RecordOrBad]:
    """Records of a file that holds one per line; `header` lines are passed over, blank lines are no records.

    Args:
        path: a file, plain or `.gz`.
        encoding: of the file.
        split: see `SplitLine`.
        expected: what a line should be, for reports.
        header: number of lines before the first record.
    """
    if not path.is_file():
        raise ShudunError(f"{path}: no such file")
    refuse_utf8(path, encoding)
    with open_bytes(path) as file:
        for line, data in enumerate(file, start=1):
            content = data.removeprefix(codecs.BOM_UTF8) if line == 1 else data
            if line > header and content.strip():
                yield _with_encoding_hint(_line_record(content, str(path), line, encoding, split, expected))


def read_array(path: Path, encoding: Encoding) -> Iterator[RecordOrBad]:
    """Elements of a JSON file that is one array, read piece by piece; their place is the element's number.

    An element that is broken but whole in its brackets is a bad record, and reading goes on after it.

    Raises:
        ShudunError: the file is no array, or brackets or quotes do not close.
    """
    with open_bytes(path) as file:
        for number, (line, text) in enumerate(array_elements(_decoded(file, encoding), str(path)), start=1):
            yield _element_record(text, str(path), number, line, encoding)


def refuse_utf8(path: Path, encoding: Encoding) -> None:
    """Refuse a UTF-8 file that is to be read as GB18030, which would turn it into other characters silently.

    Raises:
        ShudunError: the beginning of the file is valid UTF-8 with characters outside ASCII.
    """
    if encoding == "utf-8":
        return
    with open_bytes(path) as file:
        sample = file.read(CHUNK_CHARS)
    try:
        text, _ = codecs.utf_8_decode(sample, "strict", False)
    except UnicodeDecodeError:
        return
    if not text.isascii():
        raise ShudunError(f"{path}: is valid UTF-8, so it is not {encoding}; leave out --encoding {encoding}")


def _with_encoding_hint(record: RecordOrBad) -> RecordOrBad:
    if isinstance(record, BadRecord) and record.problem.expected == "valid UTF-8":
        return replace(record, problem=replace(record.problem, hint=ENCODING_HINT))
    return record


def _line_record(data: bytes, name: str, line: int, encoding: Encoding, split: SplitLine, expected: str) -> RecordOrBad:
    raw = data.decode(encoding, "backslashreplace").rstrip("\r\n")
    try:
        text = data.decode(encoding).rstrip("\r\n")
    except UnicodeDecodeError as error:
        got = f"byte {data[error.start]:#04x} at offset {error.start} of the line"
        return undecodable(name, line, got, raw, encoding)
    values = split(text)
    if values is None:
        shown = repr(text if len(text) <= 80 else text[:80] + "…")
        return BadRecord(RowProblem(name, line, "(row)", expected, shown, "Add the missing part of this line."), raw)
    return Record(line, values, raw)


def _decoded(file: IO[bytes], encoding: Encoding) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)("surrogateescape")
    while data := file.read(CHUNK_CHARS):
        yield decoder.decode(data)
    yield decoder.decode(b"", final=True)


def _element_record(text: str, name: str, number: int, line: int, encoding: Encoding) -> RecordOrBad:
    where = f"in the element that begins in line {line}"
    if has_invalid_bytes(text):
        raw = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return undecodable(name, number, f"an invalid byte {where}", raw, encoding)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = RowProblem(name, number, "(row)", "one JSON object", f"{error}, {where}", "Fix this element.")
        return BadRecord(problem, text)
    if not isinstance(values, dict):
        got = f"{type(values).__name__} {where}"
        return BadRecord(RowProblem(name, number, "(row)", "a JSON object", got, "Write [{...}, {...}]."), text)
    return Record(number, values, text)
