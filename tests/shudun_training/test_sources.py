"""Sources of rows: every road gives the same examples, the same errors and a checksum."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from shudun import Comment, Note, RowError, ShudunError, Taxonomy
from shudun_training.config import SourceConfig
from shudun_training.examples import Example
from shudun_training.sources import SourceRecord, load_examples, repeated, source_slices

datasets.disable_progress_bars()

ROWS: list[dict[str, Any]] = [
    {"id": "a", "kind": "comment", "title": None, "text": "加我, “微信”", "labels": ["diversion"], "group": "g"},
    {"id": "b", "kind": "note", "title": "标题", "text": "正文\n第二行", "labels": [], "group": "h"},
    {"id": "c", "kind": None, "title": None, "text": "没标过", "labels": None, "group": "i"},
]


def one(taxonomy: Taxonomy, path: Path | str, **fields: Any) -> tuple[list[Example], SourceRecord]:
    examples, (record,) = load_examples([SourceConfig(path=str(path), **fields)], taxonomy)
    return examples, record


def jsonl(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table(path: Path) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(ROWS[0])
        for row in ROWS:
            labels = "" if row["labels"] is None else json.dumps(row["labels"])
            writer.writerow((row | {"labels": labels}).values())
    return path


def parquet(path: Path) -> Path:
    datasets.Dataset.from_list(ROWS).to_parquet(path)
    return path


def saved(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


def split_folder(path: Path) -> Path:
    path.mkdir()
    jsonl(path / "train.jsonl")
    jsonl(path / "test.jsonl", ROWS[:1])
    return path


def saved_splits(path: Path) -> Path:
    splits = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(splits).save_to_disk(path)
    return path


ROADS = [
    pytest.param(jsonl, "rows.jsonl", None, id="jsonl"),
    pytest.param(jsonl, "rows.jsonl.gz", None, id="gzip"),
    pytest.param(table, "rows.csv", None, id="csv"),
    pytest.param(parquet, "rows.parquet", None, id="parquet"),
    pytest.param(split_folder, "folder", "train", id="folder-of-splits"),
    pytest.param(saved, "saved", None, id="save_to_disk"),
    pytest.param(saved_splits, "splits", "train", id="save_to_disk-splits"),
]


@pytest.mark.parametrize(("write", "name", "split"), ROADS)
def test_every_road_gives_the_same_examples(
    write: Callable[[Path], Path], name: str, split: str | None, taxonomy: Taxonomy, tmp_path: Path
) -> None:
    examples, record = one(taxonomy, write(tmp_path / name), split=split)
    everything = frozenset(taxonomy.label_ids)
    assert examples == [
        Example(Comment("加我, “微信”", id="a"), frozenset({"diversion"}), frozenset(), {"group": "g"}),
        Example(Note("标题", "正文\n第二行", id="b"), frozenset(), frozenset(), {"group": "h"}),
        Example(Comment("没标过", id="c"), frozenset(), everything, {"group": "i"}),
    ]
    assert (record.read, record.good, record.rejected) == (3, 3, 0)


@pytest.mark.parametrize(("write", "name", "split"), ROADS)
def test_a_record_is_enough_to_read_the_same_rows_again(
    write: Callable[[Path], Path], name: str, split: str | None, taxonomy: Taxonomy, tmp_path: Path
) -> None:
    examples, record = one(taxonomy, write(tmp_path / name), split=split, annotated_labels=["diversion", "shill"])
    stored = SourceRecord(**json.loads(json.dumps(record.to_dict())))
    again, (record_again,) = load_examples([stored.config()], taxonomy)
    assert (again, record_again) == (examples, record)
    assert examples[1].unknown_labels == {"note_only", "hard_sell"}


def test_the_checksum_of_a_file_is_over_its_bytes(taxonomy: Taxonomy, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl")
    assert one(taxonomy, path)[1].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_checksum_of_a_data_set_is_over_its_rows(taxonomy: Taxonomy, tmp_path: Path) -> None:
    changed = [ROWS[0] | {"labels": []}, *ROWS[1:]]
    sums = [
        one(taxonomy, saved(tmp_path / str(i), rows))[1].sha256
        for i, rows in enumerate([ROWS, ROWS, changed, ROWS[::-1]])
    ]
    assert sums[0] == sums[1]
    assert len(set(sums)) == 3


def test_other_column_names_are_mapped(taxonomy: Taxonomy, tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text('nr,评论,标签\n7,加我,"[""diversion""]"\n', encoding="utf-8")
    columns = {"id": "nr", "text": "评论", "labels": "标签"}
    examples, record = one(taxonomy, path, columns=columns)
    assert examples == [Example(Comment("加我", id="7"), frozenset({"diversion"}), frozenset(), {})]
    assert record.columns == columns


def test_sources_are_read_in_order_and_may_repeat_ids_among_each_other(taxonomy: Taxonomy, tmp_path: Path) -> None:
    paths = [jsonl(tmp_path / "1.jsonl"), jsonl(tmp_path / "2.jsonl", ROWS[:1])]
    examples, records = load_examples([SourceConfig(path=str(path)) for path in paths], taxonomy)
    assert [example.id for example in examples] == ["a", "b", "c", "a"]
    assert [record.good for record in records] == [3, 1]


@pytest.mark.parametrize(
    ("path", "fields", "reason"),
    [
        pytest.param("owner/data", {"split": "train"}, "neither a local file or folder, nor a hub data set", id="hub"),
        pytest.param("owner/data", {}, "a hub data set needs 'split'", id="hub-without-split"),
        pytest.param("{}/none.jsonl", {}, "no such file", id="missing-file"),
        pytest.param("none.jsonl", {}, "no such file", id="missing-relative-file"),
        pytest.param("{}/none", {}, "expected a file ending in", id="missing-folder"),
        pytest.param("{}/folder", {}, "a folder needs 'split'", id="folder-without-split"),
        pytest.param("{}/folder", {"split": "dev"}, r"exactly one of dev\.jsonl, .* found 0", id="no-such-split"),
        pytest.param("{}/folder", {"split": "both"}, r"exactly one of both\.jsonl, .* found 2", id="two-files"),
        pytest.param("{}/splits", {"split": "dev"}, "no split 'dev'; it has train, test", id="saved-no-such-split"),
        pytest.param("{}/splits", {}, "no split None; it has train, test", id="saved-without-split"),
        pytest.param("{}/damaged", {}, "cannot be read as a folder of datasets.save_to_disk", id="saved-damaged"),
        pytest.param("{}/empty.jsonl", {}, "no usable row", id="empty"),
        pytest.param("{}/rows.jsonl", {"annotated_labels": ["ad"]}, "annotated_labels: not in taxonomy", id="label"),
        pytest.param("{}/rows.jsonl", {"columns": {"text": "评论"}}, "no column 评论; it has id, kind", id="column"),
    ],
)
def test_an_unusable_source_is_named_with_the_reason(
    path: str, fields: dict[str, Any], reason: str, taxonomy: Taxonomy, tmp_path: Path
) -> None:
    split_folder(tmp_path / "folder")
    for ending in ("jsonl", "csv"):
        (tmp_path / "folder" / f"both.{ending}").touch()
    saved_splits(tmp_path / "splits")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "dataset_info.json").write_text("{}", encoding="utf-8")
    (tmp_path / "empty.jsonl").touch()
    jsonl(tmp_path / "rows.jsonl")
    path = path.format(tmp_path)
    with pytest.raises(ShudunError, match=reason) as caught:
        one(taxonomy, path, **fields)
    assert str(caught.value).startswith(path)


@pytest.mark.parametrize("write", [jsonl, saved], ids=["file", "save_to_disk"])
def test_bad_rows_are_reported_alike_on_every_road(
    write: Callable[..., Path], taxonomy: Taxonomy, tmp_path: Path
) -> None:
    bad = [ROWS[0], ROWS[1] | {"labels": ["ad"]}, ROWS[2] | {"text": ""}, ROWS[0] | {"text": "同号"}]
    source = SourceConfig(path=str(write(tmp_path / "bad.jsonl", bad)))
    with pytest.raises(RowError) as caught:
        load_examples([source], taxonomy)
    assert (caught.value.problem.line, caught.value.problem.field) == (2, "labels")

    examples, (record,) = load_examples([source], taxonomy, on_bad_row="skip", rejected_dir=tmp_path / "rejected")
    assert [example.id for example in examples] == ["a"]
    assert (record.read, record.good, record.rejected) == (4, 1, 3)
    (side,) = (tmp_path / "rejected").iterdir()
    lines = [json.loads(line) for line in side.read_text(encoding="utf-8").splitlines()]
    assert [(line["line"], line["field"]) for line in lines] == [(2, "labels"), (3, "text"), (4, "id")]
    assert [json.loads(line["raw"])["text"] for line in lines] == ["正文\n第二行", "", "同号"]


def test_a_source_whose_rows_are_all_bad_stops_the_run(taxonomy: Taxonomy, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "bad.jsonl", [ROWS[0] | {"text": ""}])
    with pytest.raises(ShudunError, match=r"no usable row \(1 read, 1 rejected\)"):
        load_examples([SourceConfig(path=str(path))], taxonomy, on_bad_row="skip", rejected_dir=tmp_path / "rejected")


def many(path: Path, count: int = 400) -> Path:
    return jsonl(path, [{"id": f"{path.stem}-{i}", "text": f"第{i}行", "labels": []} for i in range(count)])


def test_a_share_draws_the_same_rows_whatever_else_the_file_holds(taxonomy: Taxonomy, tmp_path: Path) -> None:
    path = many(tmp_path / "a.jsonl")
    shares = {share: [x.id for x in one(taxonomy, path, share=share)[0]] for share in (0.1, 0.5, 1.0)}
    assert set(shares[0.1]) < set(shares[0.5]) < set(shares[1.0])
    assert [len(ids) for ids in shares.values()] == pytest.approx([40, 200, 400], abs=40)
    assert shares[1.0] == [f"a-{i}" for i in range(400)]
    half = jsonl(tmp_path / "half.jsonl", [{"id": f"a-{i}", "text": "另", "labels": []} for i in range(0, 400, 2)])
    assert [x.id for x in one(taxonomy, half, share=0.5)[0]] == [x for x in shares[0.5] if int(str(x)[2:]) % 2 == 0]


def test_a_record_says_how_many_rows_a_share_used(taxonomy: Taxonomy, tmp_path: Path) -> None:
    examples, record = one(taxonomy, many(tmp_path / "a.jsonl"), share=0.25, repeat=3)
    assert (record.read, record.good, record.share, record.repeat) == (400, 400, 0.25, 3)
    assert record.used == len(examples) < 400
    stored = SourceRecord(**json.loads(json.dumps(record.to_dict())))
    assert load_examples([stored.config()], taxonomy) == (examples, [record])


def test_a_record_from_before_there_were_shares_is_still_read() -> None:
    old = {"path": "a.jsonl", "split": None, "columns": {}, "annotated_labels": None, "sha256": "", "read": 1}
    config = SourceRecord(**old, good=1, rejected=0).config()
    assert (config.share, config.repeat) == (1.0, 1)


def test_rows_are_found_again_by_source_and_repeated_by_source(taxonomy: Taxonomy, tmp_path: Path) -> None:
    split_folder(tmp_path / "rows")
    sources = [
        SourceConfig(path=str(many(tmp_path / "a.jsonl")), share=0.05, repeat=2),
        SourceConfig(path=str(tmp_path / "rows"), split="train"),
        SourceConfig(path=str(tmp_path / "rows"), split="train", repeat=3),
    ]
    drawn = [x.id for x in load_examples(sources[:1], taxonomy)[0]]
    assert 0 < len(drawn) < 100
    examples, records = load_examples(sources, taxonomy)
    slices = source_slices(records)
    assert {name: [x.id for x in examples[part]] for name, part in slices.items()} == {
        "a.jsonl": drawn,
        "rows/train": ["a", "b", "c"],
        "rows/train (3)": ["a", "b", "c"],
    }
    assert [x.id for x in repeated(examples, records)] == drawn * 2 + ["a", "b", "c"] * 4
