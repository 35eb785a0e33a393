"""`shudun data augment`: whole rows with a new text, their evidence carried over, and nothing that spoils a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shudun import ShudunError
from shudun.cli import app
from shudun.errors import RowError
from shudun_training.augment_rows import augment_file
from shudun_training.validation import validate_files

ROOT = Path(__file__).parents[2]
TAXONOMY = ROOT / "configs" / "taxonomy" / "xhs.yaml"
ROW = {
    "id": "r1",
    "kind": "note",
    "title": "加微信看看",
    "text": "同款在这，加微信 demo_0138 拉你进群",
    "labels": ["off_platform_diversion"],
    "variant": ["V14"],
    "evidence": [{"label": "off_platform_diversion", "field": "text", "start": 5, "end": 18}],
    "vertical": "fashion",
    "group": "a-same-coat",
    "provenance": "written",
}
CLEAN = {
    "id": "c1",
    "text": "今天给孩子做饭，番茄加鸡蛋，谢谢妈妈",
    "parent_text": "吃什么",
    "labels": [],
    "group": "b-eggs",
}

Write = Callable[..., Path]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_copies_keep_their_columns_and_say_where_they_come_from(write_jsonl: Write, tmp_path: Path) -> None:
    target = tmp_path / "out" / "copies.jsonl"
    augment_file(write_jsonl([ROW, CLEAN]), target, TAXONOMY, copies=5, seed=3)
    copies = read(target)
    assert len(copies) >= 8
    assert len({row["text"] + row["title"] for row in copies}) == len(copies)
    for row in copies:
        origin = ROW if row["id"].startswith("r1~aug") else CLEAN
        assert row["id"].removeprefix(f"{origin['id']}~aug") in set("12345")
        assert (row["title"], row["text"]) != (origin.get("title", ""), origin["text"])
        assert {name: row[name] for name in ("labels", "group")} == {name: origin[name] for name in ("labels", "group")}
        assert row["parent_text"] == origin.get("parent_text", "")
        assert f"disguised from {origin['id']} by " in row["provenance"]
        assert row["provenance"].startswith("written; " if origin is ROW else "unknown; ")
        assert len(row["variant"]) > len(origin.get("variant", []))
        assert set(origin.get("variant", [])) <= set(row["variant"])
        for span in row["evidence"]:
            assert row["text"][span["end"] :].lstrip("\u200b\u200c\u200d\u2060\ufeff").startswith((" ", "\u3000"))
            assert row["text"][: span["start"]].count("，") + row["text"][: span["start"]].count("➕") <= 1
    validate_files([target], TAXONOMY)


def test_the_same_seed_gives_the_same_file(write_jsonl: Write, tmp_path: Path) -> None:
    source = write_jsonl([ROW, CLEAN])
    files = [tmp_path / f"{i}.jsonl" for i in range(3)]
    for path, seed in zip(files, (1, 1, 2), strict=True):
        augment_file(source, path, TAXONOMY, copies=3, seed=seed)
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_shipped_evidence_lies_inside_its_field_and_is_not_blank(tmp_path: Path) -> None:
    target = tmp_path / "copies.jsonl"
    augment_file(ROOT / "data_cards" / "shudun-xhs" / "validation.jsonl", target, TAXONOMY)
    rows = read(target)
    assert len(rows) > 250
    for row in rows:
        assert {span["label"] for span in row["evidence"]} == set(row["labels"])
        for span in row["evidence"]:
            assert row[span["field"]][span["start"] : span["end"]].strip()


def test_a_test_split_is_disguised_on_request_only(write_jsonl: Write, tmp_path: Path) -> None:
    source, target = write_jsonl([ROW], "test.jsonl"), tmp_path / "copies.jsonl"
    with pytest.raises(ShudunError, match="named as a test split"):
        augment_file(source, target, TAXONOMY)
    assert not target.exists()
    augment_file(source, target, TAXONOMY, test_split=True)
    assert read(target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evidence": [{"label": ROW["labels"][0], "field": "text", "start": 0, "end": 99}]}, "0 <= start < end <="),
        ({"evidence": [{"label": ROW["labels"][0], "field": "body", "start": 0, "end": 1}]}, "one of title, text"),
        ({"evidence": "somewhere"}, "a list of spans"),
        ({"evidence": {"start": 0}}, "a list of spans"),
        ({"variant": "V01"}, "a list of strings"),
        ({"labels": ["nonsense"]}, "labels of the taxonomy"),
    ],
)
def test_a_row_that_cannot_be_carried_over_is_refused_with_its_place(
    change: dict[str, Any], message: str, write_jsonl: Write, tmp_path: Path
) -> None:
    source, target = write_jsonl([CLEAN, ROW | change]), tmp_path / "copies.jsonl"
    with pytest.raises(RowError, match=rf"rows\.jsonl:2: .*{message}"):
        augment_file(source, target, TAXONOMY)
    assert not target.exists()
    augment_file(source, target, TAXONOMY, on_bad_row="skip")
    assert {row["id"].partition("~")[0] for row in read(target)} <= {"c1"}
    assert len(read(tmp_path / "rows.jsonl.rejected.jsonl")) == 1


def test_csv_rows_carry_lists_in_their_cells(tmp_path: Path) -> None:
    source, target = tmp_path / "rows.csv", tmp_path / "copies.jsonl"
    label = ROW["labels"][0]
    span = f'[{{""label"": ""{label}"", ""field"": ""text"", ""start"": 0, ""end"": 3}}]'
    row = f'1,加微信吧朋友们,"[""{label}""]","[""V05""]","{span}"'
    source.write_text(f"id,text,labels,variant,evidence\n{row}\n", encoding="utf-8")
    augment_file(source, target, TAXONOMY, copies=9)
    for row in read(target):
        assert "V05" in row["variant"]
        assert row["evidence"][0]["start"] == 0


def test_a_lone_surrogate_survives(tmp_path: Path, write_jsonl: Write) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps({"id": "s", "text": "加微信\ud800 demo_0138", "labels": []}) + "\n", encoding="utf-8")
    target = tmp_path / "copies.jsonl"
    augment_file(source, target, TAXONOMY, copies=5)
    assert all("\ud800" in row["text"] for row in read(target))
    assert read(target)


@pytest.mark.parametrize("name", ["rows.jsonl", "copies.csv"])
def test_a_target_that_is_the_source_or_of_another_type_is_refused(
    name: str, write_jsonl: Write, tmp_path: Path
) -> None:
    source = write_jsonl([ROW])
    before = source.read_bytes()
    with pytest.raises(ShudunError, match=r"would overwrite|ending in \.jsonl"):
        augment_file(source, tmp_path / name, TAXONOMY)
    assert source.read_bytes() == before


def test_the_command_passes_its_options_on(write_jsonl: Write, tmp_path: Path) -> None:
    target = tmp_path / "copies.jsonl"
    arguments = ["--taxonomy", str(TAXONOMY), "--families", "nickname,initials", "--held-out", "绿泡泡,vx"]
    more = ["--copies", "40", "--intensity", "1", "--seed", "8"]
    result = CliRunner().invoke(app, ["data", "augment", str(write_jsonl([ROW])), str(target), *arguments, *more])
    assert result.exit_code == 0, result.output
    rows = read(target)
    assert {variant for row in rows for variant in row["variant"]} == {"V06", "V07", "V14"}
    assert not any(word in row["text"] + row["title"] for row in rows for word in ("绿泡泡", "vx"))
    assert all("(seed 8)" in row["provenance"] for row in rows)
