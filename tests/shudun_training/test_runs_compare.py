"""Comparing runs: what differs is told, and figures are subtracted only where they are of the same rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import LABELS, make_run, random_scores, sources, write_json

from shudun.errors import ShudunError
from shudun_training.bootstrap import paired_differences
from shudun_training.row_scores import RowScores
from shudun_training.runs_compare import Run, compare
from shudun_training.runs_comparison_view import compare_runs


def compared(*folders: Path) -> dict:
    content = compare([Run.read(folder) for folder in folders])
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    return content


def test_only_what_differs_is_told(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", config={"training": {"seed": 1, "bf16": True}, "loss": {"a": []}})
    two = make_run(tmp_path / "two", config={"training": {"seed": 2, "bf16": True}, "loss": {"a": [3]}})
    record = json.loads((two / "run.json").read_text(encoding="utf-8"))
    record["environment"]["packages"] = {"torch": "3", "new": "1"}
    write_json(two / "run.json", record)
    content = compared(one, two)
    assert content["config"] == {"training.seed": [1, 2], "loss.a": [[], None], "loss.a[0]": [None, 3]}
    assert content["versions"] == {"packages.torch": ["2", "3"], "packages.new": [None, "1"]}
    assert all(found["same"] for found in content["data"].values())


def test_the_same_rows_give_paired_intervals_in_any_order(tmp_path: Path) -> None:
    ours, theirs = random_scores(1, skill=0.6), random_scores(2, skill=0.1)
    order = np.random.default_rng(0).permutation(len(ours.rows))
    shuffled = RowScores(LABELS, *(part[order] for part in (ours.rows, ours.scores, ours.selected, ours.references)))
    one, two = make_run(tmp_path / "one", scores=theirs), make_run(tmp_path / "two", scores=shuffled)
    (difference,) = compared(one, two)["differences"]
    assert (difference["comparable"], difference["intervals"]) == (True, True)
    ours, theirs = ours.ordered(), theirs.ordered()
    expected = paired_differences(ours.predictions, theirs.predictions, ours.references, seed=0)
    assert difference["overall"] == expected.macro
    assert difference["per_label"] == dict(zip(LABELS, expected.per_label, strict=True))
    assert difference["overall"]["macro_ap"]["low"] > 0  # run minus first: the second is better
    (back,) = compared(two, one)["differences"]
    assert back["overall"]["macro_ap"]["high"] < 0


def test_figures_of_different_rows_are_not_subtracted(tmp_path: Path) -> None:
    whole = random_scores(1)
    fewer = RowScores(LABELS, whole.rows[:30], whole.scores[:30], whole.selected[:30], whole.references[:30])
    relabelled = replace(
        whole, references=np.where(np.arange(40)[:, None] == 3, 1 - whole.references, whole.references)
    )
    one = make_run(tmp_path / "one", scores=whole)
    cases = {
        r"40 and 30|30 and 40 rows, 30 of them shared": make_run(tmp_path / "fewer", scores=fewer),
        "1 of 40 rows are labelled otherwise": make_run(tmp_path / "relabelled", scores=relabelled),
        "the measured rows differ": make_run(tmp_path / "unkept", data=sources(test="other")),
        "has no report": make_run(tmp_path / "unmeasured", upto="record"),
    }
    for reason, other in cases.items():
        (difference,) = compared(one, other)["differences"]
        assert not difference["comparable"]
        assert any(part in difference["why"] for part in reason.split("|")), difference["why"]
        assert "overall" not in difference


def test_other_labels_are_not_compared(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    path = two / "report" / "report.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"b":', '"c":'), encoding="utf-8")
    (difference,) = compared(one, two)["differences"]
    assert (difference["comparable"], difference["why"]) == (False, "the labels differ")


def test_without_kept_scores_there_are_differences_and_no_intervals(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one", value=0.5), make_run(tmp_path / "two", value=0.75)
    (difference,) = compared(one, two)["differences"]
    assert (difference["comparable"], difference["intervals"]) == (True, False)
    assert difference["overall"] == {"macro_f1": {"delta": 0.25}, "macro_ap": {"delta": 0.25}}
    assert difference["per_label"]["a"]["ap"] == {"delta": 0.25}


def test_rows_measured_later_compare_by_their_own_checksum(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    path = two / "report" / "report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    for digest, comparable in (("test", True), ("other", False)):
        write_json(path, report | {"split": "data", "data": sources(test=digest)["test"]})
        assert compared(one, two)["differences"][0]["comparable"] is comparable


def test_several_runs_stand_beside_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [make_run(tmp_path / name, scores=random_scores(i)) for i, name in enumerate(("x", "y"))]
    folders.append(make_run(tmp_path / "z", data=sources(test="other")))
    compare_runs(folders, json_path=tmp_path / "out.json")
    out = capsys.readouterr().out
    assert "B and A are comparable: the same 40 rows" in out
    assert "C and A are NOT comparable: the measured rows differ" in out
    assert "B - A" in out
    assert "C - A" not in out
    assert "DIFFERENT" in out
    assert "configuration: the same" in out
    content = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [found["minus"] for found in content["differences"]] == [str(folders[0])] * 2
    compare_runs(folders, json_path=Path("-"))
    assert json.loads(capsys.readouterr().out) == content


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one")
    with pytest.raises(ShudunError, match="expected 2 to 26 run folders"):
        compare_runs([one])
    with pytest.raises(ShudunError, match="no run folder"):
        compare_runs([one, tmp_path])
    (one / "report" / "scores.npz").write_bytes(b"x")
    with pytest.raises(ShudunError, match="no scores of rows"):
        compare_runs([one, one])
