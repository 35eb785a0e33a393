"""Lists of runs: every run below a folder, in the state that it is in, also the old and the damaged ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_folders import make_run, sources, write_json

from shudun.errors import ShudunError
from shudun_training import provenance
from shudun_training.data_checksums import data_checksums
from shudun_training.run_state import held
from shudun_training.run_summary import RunSummary, summarise
from shudun_training.runs_table import ORDERS, list_runs, summaries

PARTS = ("inputs.json", "run.json", "config.yaml", "curves.jsonl", "starts.jsonl", "report/report.json")


def test_a_run_is_in_the_state_that_its_files_and_processes_say(tmp_path: Path) -> None:
    for name in ("start", "record", "report"):
        make_run(tmp_path / name, upto=name)
    expected = {"start": "stopped", "record": "trained", "report": "finished"}
    assert {run.folder: run.state for run in summaries(tmp_path)} == expected
    with held(tmp_path / "start"):
        assert {run.folder: run.state for run in summaries(tmp_path)} == expected | {"start": "running"}


def test_a_finished_run_is_summarised(tmp_path: Path) -> None:
    run = summarise(make_run(tmp_path / "a"))
    assert run.metrics == {"macro_f1": 0.5, "micro_f1": 0.5, "macro_ap": 0.5}
    assert run.validation["macro_ap"] == 0.6
    assert (run.rows, run.epochs, run.planned_epochs, run.steps) == (
        {"train": 30, "validation": 10, "test": 12},
        2.0,
        3.0,
        8,
    )
    assert (run.encoder, run.seconds, run.git_revision, run.measured_on) == ("random 2x16", 16.5, "abc", "test")
    assert run.data == data_checksums(sources())
    assert run.difference_to_baseline["macro_ap"] is None


def test_an_unfinished_run_shows_how_far_it_came_and_no_figures_of_another(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    (folder / "run.json").unlink()
    run = summarise(folder)
    assert (run.state, run.steps, run.epochs, run.metrics, run.finished) == ("stopped", 8, 2.0, {}, None)


def test_an_old_run_without_the_newer_files_is_listed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "old", config={"model": {"encoder": "/models/minirbt", "gone": 1}})
    for name in ("inputs.json", "curves.jsonl"):
        (folder / name).unlink()
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for records in record["sources"].values():
        del records[0]["used"]
    write_json(folder / "run.json", record)
    run = summarise(folder)
    assert (run.state, run.problem, run.encoder) == ("finished", None, "minirbt")
    assert (run.rows["train"], run.seconds, run.epochs, run.started) == (30, 16.0, 2.0, None)
    assert run.data == data_checksums(sources())


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("run.json", "{", "run.json"),
        ("run.json", "[]", "run.json"),
        ("run.json", "{}", "name: Field required"),
        ("inputs.json", '{"config": 3, "sources": {}}', "inputs.json: config"),
        ("config.yaml", "a: [", "config.yaml: cannot be read as YAML"),
        ("config.yaml", "text", "expected a mapping"),
        ("curves.jsonl", "x\n", "curves.jsonl:1"),
        ("starts.jsonl", "x\n", "starts.jsonl"),
        ("report/report.json", '{"model": {}}', "report.json: model"),
        ("bundle/metrics.json", "null", "metrics.json"),
    ],
)
def test_a_damaged_run_is_listed_with_the_reason(
    name: str, content: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (make_run(tmp_path / "bad") / name).write_text(content, encoding="utf-8")
    make_run(tmp_path / "good")
    bad, good = summaries(tmp_path)
    assert (bad.state, good.state) == ("damaged", "finished")
    assert reason in (bad.problem or "")
    list_runs(tmp_path)
    assert reason in capsys.readouterr().out


def test_a_folder_in_place_of_a_file_is_damage(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "bad")
    (folder / "config.yaml").unlink()
    (folder / "config.yaml").mkdir()
    assert summarise(folder).state == "damaged"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    part=st.sampled_from(PARTS),
    content=st.one_of(
        st.binary(max_size=40),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=6,
        ),
    ),
    key=st.sampled_from(["", "environment", "sources", "log", "steps", "config", "model", "training", "step", "time"]),
)
def test_nothing_that_a_file_may_hold_stops_the_list(part: str, content: object, key: str, tmp_path: Path) -> None:
    path = make_run(tmp_path / "run") / part
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        whole = json.loads(path.read_text(encoding="utf-8")) if part.endswith((".json",)) else {}
        path.write_text(json.dumps({**whole, key: content} if key else content) + "\n", encoding="utf-8")
    (run,) = summaries(tmp_path)
    assert isinstance(run, RunSummary)
    assert (run.state == "damaged") == (run.problem is not None)
    json.dumps(run.to_dict())
    list_runs(tmp_path, json_path=tmp_path / "list.json")
    path.unlink()


def test_runs_are_found_at_any_depth_and_parts_of_runs_are_not(tmp_path: Path) -> None:
    outer = make_run(tmp_path / "x" / "outer")
    make_run(outer / "inner")
    for part in ("trainer", "checkpoint", "bundle-int8", "report", "rejected"):
        make_run(outer / part / "no")
    make_run(tmp_path / ".venv" / "no")
    write_json(tmp_path / "other" / "inputs.json", {})  # of another program
    assert [run.folder for run in summaries(tmp_path)] == ["x/outer", "x/outer/inner"]
    assert [run.folder for run in summaries(outer)] == ["inner", "outer"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_listed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    try:
        assert [(run.folder, run.state) for run in summaries(tmp_path)] == [("closed", "damaged")]
    finally:
        closed.chmod(0o700)


def test_a_run_whose_lock_cannot_be_tried_is_listed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folder: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(folder / ".lock"))

    make_run(tmp_path / "a")
    monkeypatch.setattr("shudun_training.run_summary.is_held", refused)
    (run,) = summaries(tmp_path)
    assert "Permission denied" in (run.problem or "")


def test_the_list_is_sorted_as_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = ("2026-11-20", "2026-11-22", "2026-11-21")
    for name, value, day in zip("abc", (0.3, 0.2, 0.9), times, strict=True):
        make_run(tmp_path / name, value=value, finished=f"{day}T10:00:00+00:00")
    make_run(tmp_path / "d", upto="start")
    orders = {"when": "bcad", "name": "abcd", "macro-f1": "cabd", "macro-ap": "cabd"}
    assert set(orders) < set(ORDERS)
    for order, expected in orders.items():
        list_runs(tmp_path, order=order, json_path=Path("-"))
        content = json.loads(capsys.readouterr().out)
        assert "".join(run["folder"] for run in content["runs"]) == expected, order
    list_runs(tmp_path, order="when")
    out = capsys.readouterr().out
    assert "0.900 (+0.100*)" in out
    assert out.index("0.200 (") < out.index("0.900 (") < out.index("0.300 (")


def test_no_runs_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_runs(tmp_path)
    assert "no runs" in capsys.readouterr().out
    with pytest.raises(ShudunError, match="no such folder"):
        list_runs(tmp_path / "none")


def test_data_are_the_same_wherever_they_lie_and_differ_with_any_row_or_reading() -> None:
    base = data_checksums(sources())
    moved = {split: [record | {"path": "/elsewhere"} for record in found] for split, found in sources().items()}
    assert data_checksums(moved) == base
    changed = data_checksums(sources(test="other"))
    assert {name for name in base if base[name] != changed[name]} == {"all", "test"}
    for field, value in {"columns": {"a": "b"}, "annotated_labels": ["a"], "share": 0.5, "repeat": 2}.items():
        other = sources()
        other["train"][0][field] = value
        assert {name for name, digest in data_checksums(other).items() if digest != base[name]} == {"all", "train"}


def test_hardware_is_json() -> None:
    found = provenance.hardware()
    assert json.loads(json.dumps(found)) == found
    assert found["processes"] == 1
