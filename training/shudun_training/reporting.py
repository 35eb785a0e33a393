"""An evaluation report as files (`report.json`, `report.md`) and as a table on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shudun_training.run_files import REPORT_JSON, REPORT_TEXT

SOURCE_HEADERS = ("source", "label", "positives", "negatives", "F1", "AP", "baseline F1", "baseline AP")
PART_HEADERS = ("system", "macro-F1", "micro-F1", "macro-AP")
PART_TITLES = {"encoder": "encoder", "ngram_branch": "n-gram branch"}
HEADERS = ("label", "positives", "threshold", "P", "R", "F1", "AP", "baseline F1", "baseline AP")


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write `report.json` and `report.md` into `folder`, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False)
    (folder / REPORT_JSON).write_text(text + "\n", encoding="utf-8")
    (folder / REPORT_TEXT).write_text(_markdown(report), encoding="utf-8")


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print the per-label table and the summary."""
    table = Table(*HEADERS, title=f"{report['counts']['rows']:,} rows", title_justify="left")
    for cells in _table(report):
        table.add_row(*cells)
    console.print(table)
    for line in [*summary_lines(report), *_part_lines(report)]:
        console.print(line)


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """Model, baseline, further systems, and the model's difference from each, one line each."""
    others = report.get("others", {})
    systems = {name: report[name] for name in ("model", "baseline")}
    systems |= {name: block["figures"] for name, block in others.items()}
    lines = [
        f"{name:>8}: macro-F1 {_figure(block['macro_f1'])}  micro-F1 {_figure(block['micro_f1'])}  "
        f"macro-AP {_figure(block['macro_ap'])}"
        for name, block in systems.items()
    ]
    for name, block in {"baseline": report, **others}.items():
        lines += _difference_lines(f"model - {name}", block["difference"])
    return lines


def _part_lines(report: Mapping[str, Any]) -> list[str]:
    """Each part of the model alone, and what the whole has more; nothing for a model of one part."""
    parts = report.get("parts", {})
    lines = [
        f"{PART_TITLES[name]} alone: macro-F1 {_figure(part['macro_f1'])}  micro-F1 {_figure(part['micro_f1'])}  "
        f"macro-AP {_figure(part['macro_ap'])}"
        for name, part in parts.items()
    ]
    for name, part in parts.items():
        lines += _difference_lines(f"model - {PART_TITLES[name]} alone", part["difference"])
    return lines


def _difference_lines(title: str, difference: Mapping[str, Any]) -> list[str]:
    return [
        f"{title}, {metric}: {value['delta']:+.3f} (95 % interval {value['low']:+.3f} to {value['high']:+.3f})"
        for metric, value in difference.items()
        if value is not None
    ]


def _part_section(report: Mapping[str, Any]) -> list[str]:
    """The systems as rows of one table, on the same test rows."""
    if "parts" not in report:
        return []
    systems = {f"{PART_TITLES[name]} alone": part for name, part in report["parts"].items()}
    systems |= {"both": report["model"], "linear baseline": report["baseline"]}
    lines = ["## Parts of the model", "", f"| {' | '.join(PART_HEADERS)} |", "|" + " --- |" * len(PART_HEADERS)]
    for name, block in systems.items():
        cells = [name, *(_figure(block[key]) for key in ("macro_f1", "micro_f1", "macro_ap"))]
        lines.append(f"| {' | '.join(cells)} |")
    for name, part in report["parts"].items():
        lines += ["", *(f"- {x}" for x in _difference_lines(f"both - {PART_TITLES[name]} alone", part["difference"]))]
    return [*lines, ""]


def _table(report: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for label, model in report["model"]["per_label"].items():
        baseline = report["baseline"]["per_label"][label]
        figures = [model[key] for key in ("threshold", "precision", "recall", "f1", "ap")]
        rows.append([label, str(model["positives"]), *map(_figure, [*figures, baseline["f1"], baseline["ap"]])])
    return rows


def _source_table(report: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, block in report["sources"].items():
        for label, model in block["model"].items():
            baseline = block["baseline"][label]
            figures = (model["f1"], model["ap"], baseline["f1"], baseline["ap"])
            counts = (str(model["positives"]), str(model["negatives"]))
            rows.append([name, label, *counts, *map(_figure, figures)])
    return rows


def _source_lines(report: Mapping[str, Any]) -> list[str]:
    """Each source alone: what it annotates, and what the model flags there of what it does not annotate."""
    if not report["sources"]:
        return []
    lines = ["## By source", "", f"| {' | '.join(SOURCE_HEADERS)} |", "|" + " --- |" * len(SOURCE_HEADERS)]
    lines += [f"| {' | '.join(cells)} |" for cells in _source_table(report)]
    lines += ["", "Share of a source's rows that get a label which the source does not annotate, model / baseline:", ""]
    for name, block in report["sources"].items():
        flagged = sorted(block["flagged_where_not_annotated"].items(), key=lambda pair: -pair[1]["model"])
        shown = ", ".join(
            f"{label} {share['model']:.1%} / {share['baseline']:.1%}" for label, share in flagged if any(share.values())
        )
        lines.append(f"- {name}: {shown or 'none'}")
    return [*lines, ""]


def _markdown(report: Mapping[str, Any]) -> str:
    lines = ["# Evaluation", "", *[f"- {line.strip()}" for line in summary_lines(report)], ""]
    lines += [f"| {' | '.join(HEADERS)} |", "|" + " --- |" * len(HEADERS)]
    lines += [f"| {' | '.join(cells)} |" for cells in _table(report)]
    lines += ["", "Counts: " + ", ".join(f"{name} {value}" for name, value in report["counts"].items()), ""]
    lines += _part_section(report)
    lines += _source_lines(report)
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
