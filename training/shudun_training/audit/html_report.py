"""An audit report as one HTML page: no script, no network, nothing beside it; every text of the data is escaped."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from shudun_training.audit.plots import plots
from shudun_training.audit.report import AuditReport
from shudun_training.audit.surface import FEATURES
from shudun_training.audit.terminal_report import partners


def write_html(report: AuditReport, path: Path) -> None:
    """Write the page, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_html(report), encoding="utf-8")


def render_html(report: AuditReport) -> str:
    """The page as a string."""
    loader = PackageLoader("shudun_training.audit")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("audit.html").render(
        report=report,
        levels=report.level_counts(),
        labels=list(enumerate(report.taxonomy.labels)),
        features=FEATURES,
        unknown=report.counts.unknown.sum(axis=0).tolist(),
        partners=[partners(report, index) for index in range(len(report.taxonomy.labels))],
        # Drawn by matplotlib, which escapes the names in it: the one thing that is not escaped again.
        plots={title: Markup(svg) for title, svg in plots(report).items()},  # noqa: S704
    )
