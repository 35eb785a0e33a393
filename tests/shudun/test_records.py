"""Reading records: every format alike, each bad record at its own place, and nothing lost after it."""

from __future__ import annotations

import datetime as dt
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shudun import ShudunError
from shudun.records import CSV_FIELD_CHARS, BadRecord, Record, read_records

ROWS = [
    {"id": "a", "text": '逗号, "引号" 和\n换行'},
    {"id": "b", "text": "😀\u200b\u202e"},
    {"id": "c", "text": "尾"},
]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
CSV = 'id,text\r\na,"逗号, ""引号"" 和\n换行"\r\nb,😀\u200b\u202e\r\nc,尾\r\n'.encode()


@pytest.fixture
def read(tmp_path):
    """Read bytes as a file of the given name."""

    def read_bytes(name, data):
        path = tmp_path / name
        path.write_bytes(data)
        return list(read_records(path))

    return read_bytes


@pytest.fixture
def read_table(tmp_path):
    def read(table, **options):
        pq.write_table(table, tmp_path / "rows.parquet", **options)
        return list(read_records(tmp_path / "rows.parquet"))

    return read


def values(records):
    return [dict(record.values) for record in records]


def places(records):
    return [
        (record.line if isinstance(record, Record) else record.problem.line, isinstance(record, Record))
        for record in records
    ]


# --- every format -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.jsonl", JSONL),
        ("ROWS.JSONL", JSONL),
        ("rows.jsonl.gz", gzip.compress(JSONL)),
        ("rows.jsonl", b"\xef\xbb\xbf" + JSONL),
        ("rows.jsonl", JSONL.replace(b"}\n", b"}\r\n")),
        ("rows.jsonl", JSONL.rstrip()),
        ("rows.jsonl.gz", gzip.compress(JSONL[:40]) + gzip.compress(JSONL[40:])),
        ("rows.csv", CSV),
        ("rows.csv.gz", gzip.compress(CSV)),
        ("rows.csv", b"\xef\xbb\xbf" + CSV),
        ("rows.csv", CSV.replace(b"\r\n", b"\n")),
        ("rows.csv", CSV.rstrip()),
        ("rows.csv", CSV.replace(b"id,text", b" id , text ")),
    ],
)
def test_the_same_rows_come_out_of_every_text_format(read, name, data):
    assert values(read(name, data)) == ROWS


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
def test_the_same_rows_come_out_of_parquet(read_table, compression):
    records = read_table(pa.Table.from_pylist(ROWS), compression=compression, row_group_size=2)
    assert values(records) == ROWS
    assert [record.line for record in records] == [1, 2, 3]


def test_parquet_keeps_types_and_nulls(read_table):
    when = dt.datetime(2026, 11, 20, 12, 0, 0, 5)
    rows = [{"id": 1, "labels": ["a"], "when": when}, {"id": None, "labels": [], "when": None}]
    records = read_table(pa.Table.from_pylist(rows))
    assert values(records) == rows
    assert all(json.loads(record.raw) for record in records)


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.csv"])
@pytest.mark.parametrize("data", [b"", b"\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n\r\n"])
def test_an_empty_file_has_no_records(read, name, data):
    assert read(name, data) == []


def test_a_header_alone_has_no_records(read, read_table):
    assert read("rows.csv", b"id,text\n") == []
    assert read_table(pa.table({"id": pa.array([], pa.string())})) == []


def test_blank_lines_are_no_records_but_count_as_lines(read):
    records = read("rows.jsonl", b'\n{"id": "a"}\r\n\r\n  \t\n{"id": "b"}\n\n')
    assert [(record.line, record.values["id"]) for record in records] == [(2, "a"), (5, "b")]
    records = read("rows.csv", b"\nid\n\na\n\r\n\nb\n\n")
    assert [(record.line, record.values["id"]) for record in records] == [(4, "a"), (7, "b")]


def test_a_record_of_several_lines_is_at_its_first(read):
    data = b'id,text\na,"one\ntwo\r\nthree"\nb,x\nc,"\n\n"\nd,y\n'
    records = read("rows.csv", data)
    assert [(record.line, record.values["id"]) for record in records] == [(2, "a"), (5, "b"), (6, "c"), (9, "d")]
    assert records[0].values["text"] == "one\ntwo\r\nthree"


def test_raw_text_can_be_parsed_again(read):
    assert [json.loads(record.raw) for record in read("rows.jsonl", JSONL)] == ROWS
    assert [json.loads(record.raw) for record in read("rows.csv", CSV)] == [list(row.values()) for row in ROWS]


@given(
    rows=st.lists(
        st.dictionaries(st.text(), st.none() | st.integers(-(2**60), 2**60) | st.text(st.characters())), max_size=5
    )
)
def test_any_json_object_survives(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")
    assert values(read_records(path)) == rows


# --- bad records ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected", "got"),
    [
        (b'{"text": "x"', "one JSON object", "Expecting ',' delimiter"),
        (b"text", "one JSON object", "Expecting value"),
        (b'{"a": 1} {"a": 2}', "one JSON object", "Extra data"),
        (b'{"text": "a\x01b"}', "one JSON object", "Invalid control character"),
        (b"[" * 100_000, "one JSON object", "recursion"),
        (b'{"n": ' + b"9" * 5000 + b"}", "one JSON object", "limit"),
        (b"\xef\xbb\xbf{}", "one JSON object", "BOM"),
        (b"[1, 2]", "a JSON object", "list"),
        (b'"text"', "a JSON object", "str"),
        (b"null", "a JSON object", "NoneType"),
        ('{"text": "好"}'.encode("gb18030"), "valid UTF-8", "byte 0xba at offset 10 of the line"),
        (b'{"text": "\xed\xa0\x80"}', "valid UTF-8", "byte 0xed"),
        (b'\xff\xfe{\x00"\x00', "valid UTF-8", "byte 0xff at offset 0"),
    ],
)
def test_a_broken_line_7_is_refused_alone(read, line, expected, got):
    good = [json.dumps({"n": n}).encode() for n in range(1, 11)]
    records = read("rows.jsonl", b"\n".join([*good[:6], line, *good[7:]]))
    assert places(records) == [(n, n != 7) for n in range(1, 11)]
    assert [record.values["n"] for record in records if isinstance(record, Record)] == [1, 2, 3, 4, 5, 6, 8, 9, 10]
    problem = records[6].problem
    assert (problem.field, problem.expected) == ("(row)", expected)
    assert got in problem.got
    assert problem.file.endswith("rows.jsonl")
    assert problem.hint
    records[6].raw.encode("utf-8")


@pytest.mark.parametrize(
    ("line", "expected", "got"),
    [
        (b"only", "2 cells as in the header", "1"),
        (b"a,b,c", "2 cells as in the header", "3"),
        (b'a,"b"c', "a CSV record", "expected after"),
        (b"\xba\xc3,x", "valid UTF-8", "column 'id'"),
        (b"a,\xff", "valid UTF-8", "column 'text'"),
        (b"a," + b"x" * (CSV_FIELD_CHARS + 1), "a CSV record", "field larger than field limit"),
    ],
    ids=["short", "long", "quote", "gb18030", "byte", "oversized"],
)
def test_a_broken_csv_line_is_refused_alone(read, line, expected, got):
    records = read("rows.csv", b'id,text\n1,"two\nlines"\n' + line + b"\n2,next\n3,last\n")
    assert places(records) == [(2, True), (4, False), (5, True), (6, True)]
    assert [record.values["id"] for record in records if isinstance(record, Record)] == ["1", "2", "3"]
    assert records[1].problem.expected == expected
    assert got in records[1].problem.got
    records[1].raw.encode("utf-8")


def test_the_longest_cell_that_is_allowed_is_read(read):
    text = "x" * CSV_FIELD_CHARS
    (record,) = read("rows.csv", b"text\n" + text.encode() + b"\n")
    assert record.values["text"] == text


def test_a_quote_that_is_never_closed_is_one_bad_record(read):
    records = read("rows.csv", b'id,text\n1,x\n2,"open\n3,y\n')
    assert places(records) == [(2, True), (3, False)]
    assert "unexpected end of data" in records[1].problem.got


# --- files that cannot be read ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("rows.txt", b"x", r"expected a file ending in \.jsonl, \.csv, \.parquet"),
        ("rows.json", b"[]", "expected a file ending in"),
        ("rows.parquet.gz", b"", "expected a file ending in"),
        ("rows.csv", b"id,text,id\n1,2,3\n", "the CSV header names a column twice"),
        ("rows.csv", b'"id"x,text\n1,2\n', "the CSV header cannot be read"),
        ("rows.csv", "编号,评论\n1,x\n".encode("gb18030"), "the CSV header is not valid UTF-8.*iconv"),
        ("rows.csv", "id,text\n1,x\n".encode("utf-16"), "the CSV header is not valid UTF-8"),
        ("rows.jsonl.gz", JSONL, "damaged or cut short"),
        ("rows.jsonl.gz", gzip.compress(JSONL)[:-9], "damaged or cut short"),
        ("rows.jsonl.gz", gzip.compress(JSONL) + b"more", "damaged or cut short"),
        ("rows.csv.gz", gzip.compress(CSV)[:-9], "damaged or cut short"),
        ("rows.csv.gz", gzip.compress(CSV)[:-8] + bytes(8), "damaged or cut short"),
        ("rows.parquet", b"", "cannot be read as Parquet"),
        ("rows.parquet", JSONL, "cannot be read as Parquet"),
        ("rows.parquet", b"PAR1" + bytes(100) + b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_an_unusable_file_is_refused_with_its_name(read, name, data, message):
    with pytest.raises(ShudunError, match=message) as caught:
        read(name, data)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**31 - 1], pa.date32()),
        pa.array([2**61], pa.timestamp("ms")),
        pa.array([b"\xff"], pa.binary()).view(pa.string()),
    ],
    ids=["date", "timestamp", "text"],
)
def test_a_parquet_value_that_python_cannot_hold_is_refused(read_table, column):
    with pytest.raises(ShudunError, match=r"rows\.parquet: cannot be read as Parquet"):
        read_table(pa.table({"x": column}))


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("nowhere.jsonl", "nowhere.parquet", "folder.jsonl"):
        with pytest.raises(ShudunError, match=f"{name}: no such file"):
            list(read_records(tmp_path / name))


def test_rows_before_the_damage_are_still_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 10**15, 20_000)
    lines = b"".join(b'{"id": "%d", "x": "%d"}\n' % pair for pair in enumerate(noise))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines)[:-5000])
    read = []
    with pytest.raises(ShudunError, match="damaged or cut short"):
        read.extend(int(record.values["id"]) for record in read_records(tmp_path / "rows.jsonl.gz"))
    assert read == list(range(len(read)))
    assert len(read) > 1000


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "jsonl.gz", "csv.gz", "parquet"])
def test_a_mutated_file_gives_records_or_one_clear_error(tmp_path, suffix):
    """Every 7th byte flipped, one at a time: no other exception, no endless loop, lines that never go back."""
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
        sound = path.read_bytes()
    else:
        sound = JSONL if "jsonl" in suffix else CSV
        sound = gzip.compress(sound, mtime=0) if suffix.endswith("gz") else sound
    for place in range(0, len(sound), 7):
        data = bytearray(sound)
        data[place] ^= 0x55
        path.write_bytes(data)
        try:
            records = list(read_records(path))
        except ShudunError:
            continue
        lines = [line for line, _ in places(records)]
        assert lines == sorted(set(lines))
        assert all(isinstance(record, Record | BadRecord) for record in records)
