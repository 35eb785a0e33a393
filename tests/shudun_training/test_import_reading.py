"""Readers behind the importers: JSON arrays piece by piece, lines, and encodings that are told and never guessed."""

from __future__ import annotations

import codecs
import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shudun import ShudunError
from shudun.records import BadRecord, Record, RecordOrBad
from shudun_training.importers import reading
from shudun_training.importers.json_array import array_elements
from shudun_training.importers.reading import read_array, read_lines, records

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(['"', "\\", '\\"', "[{", "}]", ",", "\n"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def pieces(text: str, sizes: list[int]) -> Iterator[str]:
    """The text cut into pieces of these sizes, then one character at a time."""
    at = 0
    for size in [*sizes, *[1] * len(text)]:
        yield text[at : at + size]
        at += size


def good(found: RecordOrBad) -> Record:
    assert isinstance(found, Record), found
    return found


def bad(found: RecordOrBad) -> BadRecord:
    assert isinstance(found, BadRecord), found
    return found


@settings(max_examples=60)
@given(st.lists(JSON), st.lists(st.integers(1, 40)), st.sampled_from([None, 2]), st.booleans())
def test_an_array_gives_its_elements_wherever_it_is_cut(
    values: list[Any], sizes: list[int], indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    elements = list(array_elements(pieces(text, sizes), "f"))
    assert [json.loads(element) for _, element in elements] == values
    lines = text.split("\n")
    for line, element in elements:
        assert element.split("\n")[0].rstrip(",") in lines[line - 1]


def test_an_escape_may_be_cut_from_what_it_escapes() -> None:
    values = ["a", 'b"]', "\\", {"c": '\\"'}, "d"]
    text = json.dumps(values)
    for first in range(1, len(text)):
        elements = [element for _, element in array_elements(pieces(text, [first, len(text)]), "f")]
        assert [json.loads(element) for element in elements] == values


@settings(max_examples=200)
@given(st.text(alphabet='[]{}",\\:1a \n', max_size=30), st.lists(st.integers(1, 5)))
def test_anything_else_is_refused_or_read_as_elements_that_hold_all_of_it(text: str, sizes: list[int]) -> None:
    whole = _outcome(text, [len(text) or 1])
    assert whole == _outcome(text, sizes)
    try:
        value = json.loads(text)
    except ValueError:
        return
    if isinstance(value, list):
        assert [json.loads(element) for element in whole] == value


def _outcome(text: str, sizes: list[int]) -> list[str]:
    try:
        return [element for _, element in array_elements(pieces(text, sizes), "f")]
    except ShudunError as error:
        return ["error", str(error)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a JSON array"),
        ('{"a": 1}', "expected a JSON array"),
        ('junk [{"a": 1}]', "expected a JSON array"),
        ('[{"a": 1},\n{"a": 2}', r":2: the array does not close"),
        ('[{"a": 1},\n{"a": "2}]', r":2: the array does not close"),
        ('[{"a": 1}]\n[{"a": 2}]', "something stands after the end of the array"),
        ('[{"a": 1}] tail', "something stands after the end of the array"),
    ],
)
def test_what_is_no_whole_array_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ShudunError, match=message):
        list(read_array(path, "utf-8"))


def test_a_broken_element_is_reported_with_number_and_line_and_the_next_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text('[\n{"a": 1},\n{"a": ,},\n[1],\n{"a": 4}\n]', encoding="utf-8")
    found = list(read_array(path, "utf-8"))
    assert [good(one).values for one in (found[0], found[3])] == [{"a": 1}, {"a": 4}]
    broken, wrong = bad(found[1]), bad(found[2])
    assert (broken.problem.line, broken.problem.expected, broken.raw) == (2, "one JSON object", '{"a": ,}')
    assert "begins in line 3" in broken.problem.got
    assert (wrong.problem.line, wrong.problem.got) == (3, "list in the element that begins in line 4")


def test_bytes_outside_the_encoding_spoil_their_own_element_only(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_bytes(codecs.BOM_UTF8 + b'[{"a": "' + "好".encode("gb18030") + '"}, {"a": "好"}]'.encode())
    first, second = records(path, "utf-8")
    assert "--encoding gb18030" in bad(first).problem.hint
    assert good(second).values == {"a": "好"}


def test_an_array_may_be_gb18030_with_brackets_inside_its_characters(tmp_path: Path) -> None:
    # The second byte of these characters is that of a bracket, a quote's neighbour or a backslash.
    text = "".join(bytes([lead, trail]).decode("gb18030") for lead in (0x81, 0xB0, 0xFD) for trail in b"[\\]{|}")
    path = tmp_path / "tasks.json"
    path.write_bytes(json.dumps([{"a": text}, {"a": "好"}], ensure_ascii=False).encode("gb18030"))
    assert [good(one).values["a"] for one in records(path, "gb18030")] == [text, "好"]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "json", "txt", "jsonl.gz"])
def test_a_utf8_file_is_not_read_as_gb18030(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{ending}"
    data = "text\n加微信\n".encode()
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    with pytest.raises(ShudunError, match="is valid UTF-8, so it is not gb18030"):
        list(records(path, "gb18030") if ending != "txt" else read_lines(path, "gb18030", lambda x: {"a": x}, "x"))


def test_gb18030_is_read_where_it_is_told(tmp_path: Path) -> None:
    rows = [{"text": "加微信𠮷"}, {"text": "好"}]
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("gb18030"))
    table = tmp_path / "rows.csv"
    table.write_bytes("text\r\n加微信𠮷\r\n好\r\n".encode("gb18030"))
    for path in (lines, table):
        assert [good(one).values for one in records(path, "gb18030")] == rows
        assert all(isinstance(one, BadRecord) for one in records(path, "utf-8"))


def test_lines_keep_their_numbers_past_header_blank_lines_and_what_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes("﻿head\r\n一\t1\r\n\r\n二\r\n三\t3".encode())

    def split(line: str) -> dict[str, Any] | None:
        left, tab, right = line.partition("\t")
        return {"left": left, "right": right} if tab else None

    found = list(read_lines(path, "utf-8", split, "two parts", header=1))
    assert [(good(one).line, good(one).values["right"]) for one in (found[0], found[2])] == [(2, "1"), (5, "3")]
    assert (bad(found[1]).problem.line, bad(found[1]).problem.expected) == (4, "two parts")


def test_a_large_array_is_read_in_the_memory_of_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_CHARS", 1 << 16)
    path = tmp_path / "tasks.json"
    with path.open("w", encoding="utf-8") as file:
        file.write("[" + ",\n".join(json.dumps({"n": i, "text": "x" * 200}) for i in range(30_000)) + "]")
    assert path.stat().st_size > 6_000_000
    tracemalloc.start()
    count = sum(good(one).values["n"] == i for i, one in enumerate(read_array(path, "utf-8")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 30_000
    assert peak < 1_500_000
