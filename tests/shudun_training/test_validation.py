"""`shudun data validate`: counts that add up, bad rows in a side file, and a refusal at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shudun import RowError, ShudunError
from shudun_training.validation import validate_files

XHS = Path(__file__).parents[2] / "configs" / "taxonomy" / "xhs.yaml"
GOOD: list[object] = [
    {"id": "1", "text": "加我微信 demo_0000", "labels": ["off_platform_diversion"]},
    {"id": "2", "kind": "note", "title": "晚霞", "text": "好看", "labels": []},
    {"id": "3", "text": "求链接"},
]
BAD: list[object] = [{"id": "4", "text": ""}, {"id": "1", "text": "同号"}, {"id": "5", "text": "x", "labels": ["ad"]}]


def test_good_files_pass_with_their_counts(
    write_jsonl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_jsonl(GOOD)
    validate_files([path], XHS)
    output = " ".join(capsys.readouterr().out.split())
    assert "3 rows read, 3 good, 0 bad" in output
    assert "1 notes, 2 comments, 1 reviewed and clean" in output
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


def test_bad_rows_go_to_a_side_file_and_the_rest_is_still_counted(
    write_jsonl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, clean = write_jsonl([*GOOD, *BAD]), write_jsonl(GOOD, "clean.jsonl")
    with pytest.raises(ShudunError, match=r"^3 bad row\(s\)"):
        validate_files([path, clean], XHS)
    output = " ".join(capsys.readouterr().out.split())
    assert "6 rows read, 3 good, 3 bad" in output
    assert "3 rows read, 3 good, 0 bad" in output
    side = path.with_name("rows.jsonl.rejected.jsonl")
    lines = [json.loads(line) for line in side.read_text(encoding="utf-8").splitlines()]
    assert [(line["line"], line["field"]) for line in lines] == [(4, "text"), (5, "id"), (6, "labels")]
    assert [json.loads(line["raw"]) for line in lines] == BAD
    assert not clean.with_name("clean.jsonl.rejected.jsonl").exists()


def test_the_side_file_can_be_named_for_one_file_only(write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    paths, side = [write_jsonl(BAD), write_jsonl(GOOD, "b.jsonl")], tmp_path / "side" / "bad.jsonl"
    with pytest.raises(ShudunError, match="--rejected names one side file"):
        validate_files(paths, XHS, rejected=side)
    with pytest.raises(ShudunError, match="bad row"):
        validate_files(paths[:1], XHS, rejected=side)
    assert len(side.read_text(encoding="utf-8").splitlines()) == 2


def test_in_fail_mode_the_first_bad_row_ends_the_check(write_jsonl: Callable[..., Path]) -> None:
    with pytest.raises(RowError) as caught:
        validate_files([write_jsonl([*GOOD, *BAD])], XHS, on_bad_row="fail")
    assert caught.value.problem.line == 4
