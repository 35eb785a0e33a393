"""Rows: what counts as an item, where a bad row goes, and counts that add up."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shudun import Comment, Note, RowError, ShudunError
from shudun.records import Record
from shudun.rows import Row, RowReader, parse_item


def parse(**values):
    return parse_item(Row("rows.jsonl", Record(7, values, "raw")))


@pytest.fixture
def read(tmp_path):
    """Read rows from bytes; returns the items, the reader and what the side file holds (`None`: no such file)."""

    def read_bytes(data, name="rows.jsonl", **options):
        path = tmp_path / name
        path.write_bytes(data)
        reader = RowReader(
            path, parse_item, on_bad_row="skip", rejected_path=tmp_path / "bad" / "side.jsonl", **options
        )
        items = list(reader)
        assert reader.read == reader.good + reader.rejected
        assert reader.good == len(items)
        side = None
        if reader.rejected_path.exists():
            side = [json.loads(line) for line in reader.rejected_path.read_text(encoding="ascii").splitlines()]
        assert reader.rejected == len(side or [])
        return items, reader, side

    return read_bytes


def lines(*rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


# --- one row ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "item"),
    [
        ({"text": "好吃"}, Comment("好吃", id="row-7")),
        ({"text": "好吃", "id": None, "kind": None, "title": None, "parent_text": None}, Comment("好吃", id="row-7")),
        ({"text": "好吃", "id": "", "kind": "", "title": "", "parent_text": ""}, Comment("好吃", id="row-7")),
        ({"text": "好吃", "kind": "comment", "id": "x"}, Comment("好吃", id="x")),
        ({"text": "好吃", "id": 12}, Comment("好吃", id="12")),
        ({"text": "好吃", "id": "a", "parent_text": "上文"}, Comment("好吃", parent_text="上文", id="a")),
        ({"text": "正文", "kind": "note", "id": "a"}, Note("", "正文", id="a")),
        ({"text": "正文", "kind": "note", "title": "标题", "id": "a"}, Note("标题", "正文", id="a")),
        ({"kind": "note", "title": "标题", "id": "a"}, Note("标题", "", id="a")),
        ({"text": "", "id": "a"}, Comment("", id="a")),
        ({"text": "\ud800", "id": "a"}, Comment("\ud800", id="a")),
        ({"text": "x", "id": "a", "likes": 3, "labels": ["b"]}, Comment("x", id="a")),
    ],
)
def test_what_a_row_means(values, item):
    assert parse(**values) == item


@pytest.mark.parametrize(
    ("values", "field", "got"),
    [
        ({}, "text", "nothing"),
        ({"text": None}, "text", "nothing"),
        ({"kind": "note"}, "text", "nothing"),
        ({"kind": "comment", "parent_text": "上文"}, "text", "nothing"),
        ({"text": 5}, "text", "int 5"),
        ({"text": ["a"]}, "text", "list ['a']"),
        ({"text": b"a"}, "text", "bytes b'a'"),
        ({"text": "x", "kind": "video"}, "kind", "str 'video'"),
        ({"text": "x", "kind": "Note"}, "kind", "str 'Note'"),
        ({"text": "x", "kind": ["note"]}, "kind", "list ['note']"),
        ({"text": "x", "title": "标题"}, "title", "str '标题'"),
        ({"text": "x", "kind": "comment", "title": "标题"}, "title", "str '标题'"),
        ({"text": "x", "title": 1}, "title", "int 1"),
        ({"text": "x", "kind": "note", "parent_text": "上文"}, "parent_text", "str '上文'"),
        ({"text": "x", "parent_text": {}}, "parent_text", "dict {}"),
        ({"text": "x", "id": 1.5}, "id", "float 1.5"),
        ({"text": "x", "id": True}, "id", "bool True"),
        ({"text": "x", "id": ["a"]}, "id", "list ['a']"),
        ({"text": "x", "id": "a\ud800"}, "id", r"str 'a\ud800'"),
    ],
)
def test_a_bad_field_is_named_with_place_and_value(values, field, got):
    with pytest.raises(RowError) as caught:
        parse(**values)
    problem = caught.value.problem
    assert (problem.file, problem.line, problem.field, problem.got) == ("rows.jsonl", 7, field, got)
    assert str(caught.value) == f"rows.jsonl:7: field '{field}': expected {problem.expected}, got {got}. {problem.hint}"


def test_a_long_value_is_clipped_in_the_message():
    with pytest.raises(RowError) as caught:
        parse(text="x", kind="v" * 10_000)
    assert len(str(caught.value)) < 300


@given(value=st.text(st.characters()))
def test_any_id_that_is_taken_can_be_written_again(value):
    try:
        item = parse(text="x", id=value)
    except RowError:
        with pytest.raises(UnicodeEncodeError):
            value.encode("utf-8")
    else:
        assert item.id == (value or "row-7")
        assert json.loads(json.dumps(item.id, ensure_ascii=False).encode("utf-8")) == item.id


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ([], []),
        (["a", "b"], ["a", "b"]),
        ("[]", []),
        ('["a", "b"]', ["a", "b"]),
        ("null", None),
    ],
)
def test_lists_are_read_from_json_and_from_csv_cells(value, expected):
    assert Row("f", Record(1, {"labels": value}, "")).string_list("labels") == expected


@pytest.mark.parametrize("value", ["a", "a, b", "{}", '["a"', "[1]", [1], ["a", None], 5, {"a": 1}])
def test_what_is_no_list_of_strings_is_refused(value):
    with pytest.raises(RowError, match="field 'labels': expected a list of strings"):
        Row("f", Record(1, {"labels": value}, "")).string_list("labels")


# --- many rows --------------------------------------------------------------------------------------------------

MIXED = (
    lines({"id": "a", "text": "一"}, {"id": "b"})
    + b"not json\n\n"
    + lines({"id": "a", "text": "again"}, {"id": "c", "text": 3}, {"id": 5, "text": "五"}, {"id": "5", "text": "five"})
    + b'{"text": "\xba\xc3"}\n'
    + lines({"id": "d", "text": "末"})
)


def test_bad_rows_go_to_the_side_file_with_place_reason_and_raw_text(read):
    items, reader, side = read(MIXED)
    assert [item.id for item in items] == ["a", "5", "d"]
    assert (reader.read, reader.good, reader.rejected) == (9, 3, 6)
    assert [(row["line"], row["field"]) for row in side] == [
        (2, "text"),
        (3, "(row)"),
        (5, "id"),
        (6, "text"),
        (8, "id"),
        (9, "(row)"),
    ]
    assert [row["raw"] for row in side[:2]] == ['{"id": "b"}', "not json"]
    assert side[5]["raw"] == r'{"text": "\xba\xc3"}'
    for row in side:
        assert set(row) == {"file", "line", "field", "expected", "got", "hint", "raw"}
        assert row["file"] == str(reader.path)
        assert all(row[key] for key in ("expected", "got", "hint"))


def test_fail_stops_at_the_first_bad_row_with_its_place(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(MIXED)
    reader, items = RowReader(path, parse_item), []
    with pytest.raises(RowError, match=r"rows\.jsonl:2: field 'text'"):
        items.extend(reader)
    assert [item.id for item in items] == ["a"]


def test_without_bad_rows_there_is_no_side_file_and_a_stale_one_is_removed(read, tmp_path):
    assert read(lines({"text": "x"}))[2] is None
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "side.jsonl").write_text("of an earlier run", encoding="utf-8")
    assert read(lines({"text": "x"}))[2] is None


def test_skipping_needs_a_side_file(tmp_path):
    with pytest.raises(ShudunError, match="needs a side file"):
        RowReader(tmp_path / "rows.jsonl", parse_item, on_bad_row="skip")


def test_a_rejected_row_does_not_use_up_its_id(read):
    items, _, side = read(lines({"id": "a", "text": 3}, {"id": "a", "text": "x"}))
    assert [item.id for item in items] == ["a"]
    assert [row["line"] for row in side] == [1]


def test_rows_without_ids_are_named_by_their_line(read):
    items, _, _ = read(b'{"text": "x"}\n\n{"text": "y"}\n')
    assert [item.id for item in items] == ["row-1", "row-3"]


def test_csv_rows_mean_the_same_as_json_rows(read):
    data = "id,kind,title,text,parent_text\na,note,标题,正文,\nb,comment,,评论,上文\n,,,评论,\nc,comment,,,\n".encode()
    items, _, side = read(data, "rows.csv")
    assert items == [
        Note("标题", "正文", id="a"),
        Comment("评论", parent_text="上文", id="b"),
        Comment("评论", id="row-4"),
        Comment("", id="c"),
    ]
    assert side is None


def test_parquet_rows_mean_the_same_as_json_rows(tmp_path):
    rows = [
        {"id": 1, "text": "一", "kind": "comment"},
        {"id": None, "text": None, "kind": "note"},
        {"id": 3, "text": "三"},
    ]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    reader = RowReader(path, parse_item, on_bad_row="skip", rejected_path=tmp_path / "side.jsonl")
    assert list(reader) == [Comment("一", id="1"), Comment("三", id="3")]
    (rejected,) = (json.loads(line) for line in reader.rejected_path.read_text(encoding="utf-8").splitlines())
    assert (rejected["line"], rejected["field"]) == (2, "text")
    assert json.loads(rejected["raw"])["kind"] == "note"


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "id": st.sampled_from(["a", "b", "", 1, 2.5, None, "\ud800"]),
                "kind": st.sampled_from(["note", "comment", "video", None]),
                "title": st.sampled_from(["t", "", 3]),
                "text": st.sampled_from(["x", "", None, [], "\ud800"]),
            },
        )
        | st.sampled_from([None, 3, "x"]),
        max_size=8,
    )
)
def test_counts_add_up_and_every_row_is_somewhere(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    (folder / "rows.jsonl").write_bytes(lines(*rows))
    side = folder / "side.jsonl"
    reader = RowReader(folder / "rows.jsonl", parse_item, on_bad_row="skip", rejected_path=side)
    items = list(reader)
    rejected = side.read_text(encoding="utf-8").splitlines() if side.exists() else []
    assert (reader.read, reader.good, reader.rejected) == (len(rows), len(items), len(rejected))
    assert len(items) + len(rejected) == len(rows)
    assert len({item.id for item in items}) == len(items)
    assert [json.loads(json.loads(row)["raw"]) for row in rejected] == [
        rows[json.loads(row)["line"] - 1] for row in rejected
    ]


# --- other column names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.jsonl", lines({"review": "评论", "no": 4, "title": "x"})),
        ("rows.csv", "review,no,title\n评论,4,x\n".encode()),
    ],
)
def test_columns_can_be_mapped(read, name, data):
    columns = {"text": "review", "id": "no", "parent_text": "title"}
    assert read(data, name, columns=columns)[0] == [Comment("评论", parent_text="x", id="4")]


def test_a_mapped_field_wins_over_a_column_of_its_name(read):
    assert read(lines({"text": "old", "review": "new", "id": "a"}), columns={"text": "review"})[0] == [
        Comment("new", id="a")
    ]


def test_two_columns_can_be_swapped(read):
    columns = {"text": "parent_text", "parent_text": "text"}
    assert read(lines({"text": "a", "parent_text": "b", "id": "1"}), columns=columns)[0] == [
        Comment("b", parent_text="a", id="1")
    ]


def test_a_mapped_column_that_is_not_there_ends_the_job(read):
    with pytest.raises(ShudunError, match=r"rows\.csv: no column review; it has id, text"):
        read(b"id,text\n1,x\n", "rows.csv", columns={"text": "review"})


def test_an_optional_mapped_key_may_be_absent_from_a_jsonl_row(write_jsonl):
    path = write_jsonl([{"review": "好吃", "to": "求推荐"}, {"review": "一般"}])
    rows = list(RowReader(path, parse_item, columns={"text": "review", "parent_text": "to"}))
    assert [(row.text, row.parent_text) for row in rows] == [("好吃", "求推荐"), ("一般", "")]
