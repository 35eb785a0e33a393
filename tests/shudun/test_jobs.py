"""File jobs: rows in order, output whole or absent, every input row accounted for, nothing of the user's destroyed."""

from __future__ import annotations

import csv
import gzip
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shudun import Comment, Note, RowError, ShudunError
from shudun import scorer as scorer_module
from shudun.jobs import rejected_path, score_file

BAD = {"id": "bad", "kind": "video", "text": "x"}


def as_row(item, row_id):
    if isinstance(item, Note):
        return {"id": row_id, "kind": "note", "title": item.title, "text": item.text}
    return {"id": row_id, "kind": "comment", "text": item.text, "parent_text": item.parent_text}


@pytest.fixture
def many(items, tmp_path):
    """A source of every fixture item, lone surrogates escaped, and those items under their ids."""
    rows = [as_row(item, f"id {i}") for i, item in enumerate(items)]
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")
    return path, [replace(item, id=row["id"]) for item, row in zip(items, rows, strict=True)]


def load(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def as_written(scored):
    """What a JSONL file holds of a scored row."""
    row = asdict(scored)
    scores = {label: round(score, 6) for label, score in row["scores"].items()}
    return row | {"labels": list(row["labels"]), "scores": scores}


# --- what comes out ---------------------------------------------------------------------------------------------


def test_the_file_holds_what_the_scorer_says_in_order(scorer, many, tmp_path):
    source, items = many
    counts = score_file(source, tmp_path / "deep" / "out.jsonl", scorer)
    assert load(tmp_path / "deep" / "out.jsonl") == [as_written(row) for row in scorer.score(items)]
    assert names(tmp_path / "deep") == ["out.jsonl"]
    assert counts.read == len(items)


def test_every_input_format_gives_the_same_output(scorer, items, write_jsonl, tmp_path):
    rows = [as_row(item, f"id {i}") for i, item in enumerate(items) if "\ud800" not in item.text]
    sources = [write_jsonl(rows), tmp_path / "rows.jsonl.gz", tmp_path / "rows.csv", tmp_path / "rows.parquet"]
    sources[1].write_bytes(gzip.compress(sources[0].read_bytes()))
    with sources[2].open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "kind", "title", "text", "parent_text"], restval="")
        writer.writeheader()
        writer.writerows(rows)
    columns = [(name, pa.string()) for name in ("id", "kind", "title", "text", "parent_text")]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(columns)), sources[3])
    outputs = []
    for i, source in enumerate(sources):
        score_file(source, tmp_path / f"out{i}.jsonl", scorer)
        outputs.append((tmp_path / f"out{i}.jsonl").read_bytes())
    assert len(set(outputs)) == 1


def test_parquet_output_equals_jsonl_output(scorer, many, tmp_path):
    source, _ = many
    counts = [score_file(source, tmp_path / name, scorer) for name in ("out.jsonl", "out.parquet")]
    table = pq.read_table(tmp_path / "out.parquet")
    for row, other in zip(load(tmp_path / "out.jsonl"), table.to_pylist(), strict=True):
        scores = other["scores"] or {}
        assert row == other | {"scores": {label: round(score, 6) for label, score in scores.items()}}
    assert asdict(counts[0]) | {"seconds": 0} == asdict(counts[1]) | {"seconds": 0}
    assert [field.name for field in table.schema.field("scores").type] == list(scorer.taxonomy.label_ids)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("rows", [[], [{"id": "a", "text": "好吃"}]], ids=["none", "one"])
def test_zero_rows_and_one_row(scorer, write_jsonl, tmp_path, rows, suffix):
    target = tmp_path / f"out.{suffix}"
    counts = score_file(write_jsonl(rows), target, scorer)
    written = load(target) if suffix == "jsonl" else pq.read_table(target).to_pylist()
    assert [row["id"] for row in written] == [row["id"] for row in rows]
    assert counts.read == counts.scored == sum(counts.suggestions.values()) == len(rows)


def test_many_rows_over_several_chunks_and_groups_keep_their_order(scorer, write_jsonl, tmp_path, monkeypatch):
    monkeypatch.setattr(scorer_module, "CHUNK_ITEMS", 50)
    monkeypatch.setattr("shudun.jobs.PARQUET_GROUP_ROWS", 64)
    rows = [{"id": i, "text": "好" * (i % 40)} for i in range(333)]
    source, seen = write_jsonl(rows), []
    score_file(source, tmp_path / "out.jsonl", scorer, progress=seen.append)
    score_file(source, tmp_path / "out.parquet", scorer)
    assert seen == list(range(1, 334))
    assert [row["id"] for row in load(tmp_path / "out.jsonl")] == [str(row["id"]) for row in rows]
    table = pq.ParquetFile(tmp_path / "out.parquet")
    assert table.read().column("id").to_pylist() == [str(row["id"]) for row in rows]
    assert table.num_row_groups == 6


# --- accounting -------------------------------------------------------------------------------------------------


def test_counts_add_up(scorer, write_jsonl, tmp_path):
    rows = [
        {"id": "a", "text": "加我微信 demo_0000"},
        BAD,
        {"id": "b", "text": "长" * 100},
        {"id": "a", "text": "again"},
        {"id": "c", "text": " "},
        {"id": "d", "kind": "note", "title": "标题"},
        {"id": "e"},
    ]
    target = tmp_path / "out.jsonl"
    counts = score_file(write_jsonl(rows), target, scorer, on_bad_row="skip")
    written, rejected = load(target), load(rejected_path(target))
    assert [row["id"] for row in written] == ["a", "b", "c", "d"]
    assert [row["line"] for row in rejected] == [2, 4, 7]
    assert [json.loads(row["raw"]) for row in rejected] == [rows[row["line"] - 1] for row in rejected]
    assert (counts.read, counts.scored, counts.failed, counts.rejected, counts.truncated) == (7, 3, 1, 3, 1)
    assert counts.read == counts.scored + counts.failed + counts.rejected
    assert counts.suggestions == {
        name: [row["suggestion"] for row in written].count(name) for name in counts.suggestions
    }
    assert set(counts.suggestions) == {"pass", "review", "block"}
    assert written[2]["error"] == "no text to score"
    assert written[2]["suggestion"] == "review"
    assert counts.seconds > 0
    assert counts.texts_per_second == pytest.approx(4 / counts.seconds)


def test_a_clean_job_leaves_no_side_file_not_even_an_old_one(scorer, write_jsonl, tmp_path):
    target = tmp_path / "out.jsonl"
    score_file(write_jsonl([BAD]), target, scorer, on_bad_row="skip")
    assert rejected_path(target).exists()
    score_file(write_jsonl([{"text": "x"}]), target, scorer, on_bad_row="skip")
    assert names(tmp_path) == ["out.jsonl", "rows.jsonl"]


def test_columns_can_be_mapped(scorer, tmp_path):
    (tmp_path / "rows.csv").write_text("no,review\n7,好吃\n", encoding="utf-8")
    score_file(tmp_path / "rows.csv", tmp_path / "out.jsonl", scorer, columns={"id": "no", "text": "review"})
    assert load(tmp_path / "out.jsonl") == [as_written(scorer.score([Comment("好吃", id="7")])[0])]


# --- failure ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_failed_job_leaves_a_partial_file_and_the_earlier_output(scorer, write_jsonl, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(scorer_module, "CHUNK_ITEMS", 4)
    target = tmp_path / f"out.{suffix}"
    target.write_bytes(b"of an earlier run")
    rows = [{"id": i, "text": "好吃"} for i in range(10)]
    with pytest.raises(RowError, match=r"rows\.jsonl:10: field 'kind'"):
        score_file(write_jsonl([*rows[:9], BAD]), target, scorer)
    assert target.read_bytes() == b"of an earlier run"
    assert names(tmp_path) == sorted([target.name, f"{target.name}.partial", "rows.jsonl"])
    if suffix == "jsonl":
        partial = load(tmp_path / f"{target.name}.partial")
        # The chunk that was running when the next one could not be read is not written.
        assert [row["id"] for row in partial] == [str(row["id"]) for row in rows[:4]]
    score_file(write_jsonl(rows), target, scorer)
    assert names(tmp_path) == sorted([target.name, "rows.jsonl"])


def test_a_source_that_breaks_off_gives_no_output(scorer, tmp_path):
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 100)[:-9])
    with pytest.raises(ShudunError, match="damaged or cut short"):
        score_file(tmp_path / "rows.jsonl.gz", tmp_path / "out.jsonl", scorer, on_bad_row="skip")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_gives_no_output(scorer, write_jsonl, tmp_path):
    (tmp_path / "out.jsonl.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        score_file(write_jsonl([{"text": "x"}] * 3), tmp_path / "out.jsonl", scorer)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("same", ["name", "relative", "symlink", "hardlink"])
def test_input_and_output_may_not_be_the_same_file(scorer, write_jsonl, tmp_path, monkeypatch, same):
    source = write_jsonl([{"text": "x"}])
    content = source.read_bytes()
    target = tmp_path / "out.jsonl"
    if same == "name":
        target = source
    elif same == "relative":
        monkeypatch.chdir(tmp_path)
        target = Path("rows.jsonl")
    elif same == "symlink":
        target.symlink_to(source)
    else:
        os.link(source, target)
    with pytest.raises(ShudunError, match="input and output are the same file"):
        score_file(source, target, scorer)
    assert source.read_bytes() == content


def test_the_file_of_rejected_rows_may_not_be_the_input(scorer, write_jsonl, tmp_path):
    source = write_jsonl([{"text": "x"}], "out.jsonl.rejected.jsonl")
    with pytest.raises(ShudunError, match="input and file for rejected rows are the same file"):
        score_file(source, tmp_path / "out.jsonl", scorer, on_bad_row="skip")
    assert load(source) == [{"text": "x"}]


@pytest.mark.parametrize("earlier", [True, False], ids=["over an earlier output", "first"])
def test_a_missing_input_destroys_nothing(scorer, tmp_path, earlier):
    kept = ["out.jsonl", "out.jsonl.rejected.jsonl"] if earlier else []
    for name in kept:
        (tmp_path / name).write_text("of an earlier run", encoding="utf-8")
    with pytest.raises(ShudunError, match=r"nowhere\.jsonl: no such file"):
        score_file(tmp_path / "nowhere.jsonl", tmp_path / "out.jsonl", scorer, on_bad_row="skip")
    assert names(tmp_path) == kept


@pytest.mark.parametrize("name", ["out.csv", "out", "out.jsonl.gz", "out.txt"])
def test_an_unknown_output_type_is_refused(scorer, write_jsonl, tmp_path, name):
    with pytest.raises(ShudunError, match=r"expected an output file ending in \.jsonl or \.parquet"):
        score_file(write_jsonl([{"text": "x"}]), tmp_path / name, scorer)
    assert names(tmp_path) == ["rows.jsonl"]


def test_a_folder_is_no_output(scorer, write_jsonl, tmp_path):
    (tmp_path / "out.jsonl").mkdir()
    with pytest.raises(ShudunError, match="is a folder"):
        score_file(write_jsonl([{"text": "x"}]), tmp_path / "out.jsonl", scorer)
