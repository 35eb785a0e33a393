"""Reports: the same figures as JSON, Markdown and on the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from shudun_training.reporting import HEADERS, print_report, summary_lines, write_report


def block(f1: float | None) -> dict[str, Any]:
    measured = {"threshold": 0.25, "precision": 0.5, "recall": 1.0, "f1": f1, "ap": 0.75, "positives": 3}
    absent = {"threshold": 0.5, "precision": None, "recall": None, "f1": None, "ap": None, "positives": 0}
    return {"macro_f1": f1, "micro_f1": f1, "macro_ap": 0.75, "per_label": {"导流": measured, "absent": absent}}


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "model": block(0.667),
        "baseline": block(0.5),
        "difference": {
            "macro_f1": {"delta": 0.167, "low": -0.05, "high": 0.3, "resamples": 1000},
            "macro_ap": None,
        },
        "counts": {"rows": 1234, "notes": 4},
        "sources": {},
    }


def test_the_json_file_reads_back_as_the_report(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path / "new" / "folder")
    text = (tmp_path / "new" / "folder" / "report.json").read_text(encoding="utf-8")
    assert json.loads(text) == report
    assert "导流" in text


def test_the_markdown_table_has_a_row_for_each_label(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path)
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert table[0] == list(HEADERS)
    assert table[2:] == [
        ["导流", "3", "0.250", "0.500", "1.000", "0.667", "0.750", "0.500", "0.750"],
        ["absent", "0", "0.500", "-", "-", "-", "-", "-", "-"],
    ]
    assert all(len(row) == len(HEADERS) for row in table)
    assert "Counts: rows 1234, notes 4" in lines


def test_the_summary_names_both_systems_and_the_interval(report: dict[str, Any]) -> None:
    assert [line.strip() for line in summary_lines(report)] == [
        "model: macro-F1 0.667  micro-F1 0.667  macro-AP 0.750",
        "baseline: macro-F1 0.500  micro-F1 0.500  macro-AP 0.750",
        "model - baseline, macro_f1: +0.167 (95 % interval -0.050 to +0.300)",
    ]


def test_the_terminal_shows_table_and_summary(report: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=120)
    print_report(report, console)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1,234 rows" in output
    for cell in (*HEADERS, "导流", "0.667", *summary_lines(report)):
        assert cell in output


def test_a_report_with_a_figure_that_is_no_number_is_not_written(report: dict[str, Any], tmp_path: Path) -> None:
    report["model"]["macro_f1"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(report, tmp_path)
    assert not (tmp_path / "report.json").exists()


def test_several_sources_have_a_table_of_their_own(report: dict[str, Any], tmp_path: Path) -> None:
    measured = {"positives": 3, "negatives": 7, "f1": 0.5, "ap": 0.75}
    shares = {"a": 0.0, "b": 0.25, "c": 0.5}
    report["sources"] = {
        name: {
            "rows": 10,
            "model": {label: measured},
            "baseline": {label: measured | {"ap": 0.5}},
            "flagged_where_not_annotated": flagged,
        }
        for name, label, flagged in (
            ("甲/test", "导流", {label: {"model": x, "baseline": x / 2} for label, x in shares.items()}),
            ("乙", "辱骂", {"a": {"model": 0.0, "baseline": 0.0}}),
        )
    }
    write_report(report, tmp_path)
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    assert "| 甲/test | 导流 | 3 | 7 | 0.500 | 0.750 | 0.500 | 0.500 |" in lines
    assert "| 乙 | 辱骂 | 3 | 7 | 0.500 | 0.750 | 0.500 | 0.500 |" in lines
    assert lines[-2:] == ["- 甲/test: c 50.0% / 25.0%, b 25.0% / 12.5%", "- 乙: none"]
