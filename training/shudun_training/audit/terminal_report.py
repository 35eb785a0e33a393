"""An audit report as tables on the terminal."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from shudun_training.audit.report import AuditReport
from shudun_training.audit.surface import FEATURES

STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
PARTNERS = 2


def print_report(report: AuditReport, console: Console) -> None:
    """Print splits, labels, findings and a last line with their number."""
    for file in report.files:
        console.print(
            f"{file.path}: {file.read:,} rows read, {file.good:,} good, {file.rejected:,} bad", soft_wrap=True
        )
    console.print(_splits(report))
    console.print(_labels(report))
    if report.findings:
        console.print(_findings(report))
    counts = ", ".join(f"{count} {level}s" for level, count in report.level_counts().items())
    console.print(f"{counts} in {report.rows:,} rows; {report.seconds:.1f} s")


def partners(report: AuditReport, label: int) -> str:
    """The labels that stand most often beside a label, with their counts over all splits."""
    together = report.counts.together.sum(axis=0)[label].copy()
    together[label] = 0
    order = [i for i in np.argsort(-together, kind="stable")[:PARTNERS].tolist() if together[i]]
    return ", ".join(f"{report.taxonomy.label_ids[i]} {together[i]}" for i in order)


def _splits(report: AuditReport) -> Table:
    table = Table("split", "rows", "notes", "comments", "clean", "unknown tokens", title="splits", title_justify="left")
    for number, split in enumerate(report.splits):
        kinds = report.counts.kinds[number]
        cells = [report.counts.rows[number], kinds[0], kinds[1], report.counts.clean[number]]
        table.add_row(split, *(f"{cell:,}" for cell in cells), f"{report.unknown_tokens[split].rate:.2%}")
    repeated = ", ".join(f"{count:,} {how}" for how, count in report.repeated.items()) or "not looked for"
    table.caption = f"repeated rows: {repeated}; vocabulary: {report.vocabulary}"
    return table


def _labels(report: AuditReport) -> Table:
    headings = [Column(split, justify="right") for split in report.splits]
    table = Table(
        "label", *headings, "unknown", "beside", "clearest cue (AUC)", title="positives", title_justify="left"
    )
    for index, label in enumerate(report.taxonomy.label_ids):
        positives = [f"{count:,}" for count in report.counts.positives[:, index]]
        unknown = f"{report.counts.unknown[:, index].sum():,}"
        table.add_row(label, *positives, unknown, partners(report, index), _cue(report, index))
    return table


def _cue(report: AuditReport, label: int) -> str:
    distance = np.nan_to_num(np.abs(report.surface[label] - 0.5), nan=-1.0)
    cue = int(distance.argmax())
    return "-" if distance[cue] < 0 else f"{FEATURES[cue]} {report.surface[label, cue]:.2f}"


def _findings(report: AuditReport) -> Table:
    table = Table("level", "check", Column("what", overflow="fold"), title="findings", title_justify="left")
    for finding in report.findings:
        text = "\n".join([finding.message, *(f"  {example}" for example in finding.examples)])
        table.add_row(finding.level, finding.check, text, style=STYLES[finding.level])
    return table
