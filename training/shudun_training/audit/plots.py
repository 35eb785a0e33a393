"""The plots of an audit as SVG fragments whose text stays text, to stand in an HTML page."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shudun_training.audit.report import LENGTH_EDGES, AuditReport
from shudun_training.audit.surface import FEATURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d", "#72b7b2")
METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""No metadata: the same report gives the same bytes, and the page names no foreign address."""


def plots(report: AuditReport) -> dict[str, str]:
    """Title → SVG element, in the order of the page."""
    labels = len(report.taxonomy.labels)
    drawn: dict[str, tuple[tuple[float, float], Callable[[Axes, AuditReport], None]]] = {
        "Positive rows by label and split": ((8, 1 + 0.32 * labels), _positives),
        "Labels that stand together (rows, all splits)": ((3 + 0.45 * labels, 2 + 0.34 * labels), _together),
        "Length of positive and clean rows": ((8, 3.2), _lengths),
        "What the surface gives away (AUC against clean rows of the same kind)": ((7, 1.5 + 0.32 * labels), _surface),
    }
    return {title: _svg(figure(report, size, draw), title) for title, (size, draw) in drawn.items()}


def figure(report: AuditReport, size: tuple[float, float], draw: Callable[[Axes, AuditReport], None]) -> Figure:
    """One plot as a matplotlib figure of `size` inches."""
    from matplotlib.figure import Figure

    made = Figure(figsize=size, layout="constrained")
    draw(made.add_subplot(), report)
    return made


def _svg(drawn: Figure, title: str) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    # Each plot salts its element ids with its title: they share one page.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}), warnings.catch_warnings():
        # The reader's browser has the glyphs (split names may be Chinese) that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawn.savefig(buffer, format="svg", metadata=METADATA)
    return buffer.getvalue().partition("<svg ")[1] + buffer.getvalue().partition("<svg ")[2]


def _positives(axes: Axes, report: AuditReport) -> None:
    position = np.arange(len(report.taxonomy.labels))
    left = np.zeros(len(position))
    for number, split in enumerate(report.splits):
        counts = report.counts.positives[number]
        axes.barh(position, counts, left=left, label=split, color=COLOURS[number % len(COLOURS)])
        left += counts
    axes.set_yticks(position, report.taxonomy.label_ids)
    axes.invert_yaxis()
    axes.set_xlabel("rows")
    axes.legend()


def _together(axes: Axes, report: AuditReport) -> None:
    counts = report.counts.together.sum(axis=0)
    shown = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    names = report.taxonomy.label_ids
    _cells(axes, np.sqrt(shown), cmap="Blues")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    _write_cells(axes, [[str(value) if value else "" for value in row] for row in shown], shown > shown.max() / 4)


def _lengths(axes: Axes, report: AuditReport) -> None:
    position = np.arange(len(LENGTH_EDGES) - 1)
    for offset, colour, (name, counts) in zip((-0.2, 0.2), COLOURS[1::-1], report.lengths.items(), strict=True):
        share = counts / max(counts.sum(), 1)
        axes.bar(position + offset, share, width=0.4, label=f"{name} ({counts.sum():,} rows)", color=colour)
    limits = [f"{low}-{high - 1}" for low, high in pairwise(LENGTH_EDGES[:-1])]
    axes.set_xticks(position, [*limits, f"{LENGTH_EDGES[-2]}+"], rotation=45, ha="right")
    axes.set_xlabel("characters")
    axes.set_ylabel("share of rows")
    axes.legend()


def _surface(axes: Axes, report: AuditReport) -> None:
    auc = report.surface
    _cells(axes, np.nan_to_num(auc, nan=0.5), cmap="RdBu_r", vmin=0, vmax=1)
    axes.set_xticks(range(len(FEATURES)), [name.replace(" ", "\n") for name in FEATURES])
    axes.set_yticks(range(len(auc)), report.taxonomy.label_ids)
    _write_cells(axes, [["-" if np.isnan(v) else f"{v:.2f}" for v in row] for row in auc], np.abs(auc - 0.5) > 0.35)


def _cells(axes: Axes, values: NDArray[np.float64], **style: Any) -> None:
    """Coloured cells with the first row on top; drawn as paths, for an image would be a second file in the page."""
    axes.pcolormesh(np.arange(values.shape[1]), np.arange(values.shape[0]), values, shading="nearest", **style)
    axes.invert_yaxis()


def _write_cells(axes: Axes, cells: list[list[str]], dark: NDArray[np.bool_]) -> None:
    for row, values in enumerate(cells):
        for column, text in enumerate(values):
            colour = "white" if dark[row, column] else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
