"""Reading the curves of a run, as `curves.CurveWriter` writes them, and drawing them. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shudun.errors import ShudunError

PANELS = (
    ("loss", ("loss", "eval_loss"), "linear"),
    ("metrics on validation", ("eval_macro_ap", "eval_macro_f1_at_half"), "linear"),
    ("learning rate", ("learning_rate",), "linear"),
    ("gradient norm", ("grad_norm",), "log"),
    ("tokens/s", ("tokens_per_s",), "linear"),
)


def read_curves(path: Path) -> list[dict[str, Any]]:
    """Lines of a curve file in order; one that was cut off at the end by a kill is left out.

    Raises:
        ShudunError: the file cannot be read, or another line is no JSON object with a `step`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ShudunError(f"{path}: cannot be read: {error}") from error
    lines = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ShudunError(f"{path}:{number}: expected a line of JSON: {error}") from error
        if not isinstance(values, dict) or not isinstance(values.get("step"), int):
            raise ShudunError(f"{path}:{number}: expected an object with a step, got {line[:60]!r}")
        lines.append(values)
    return lines


def draw_curves(lines: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    """Draw what the lines hold over the steps, as SVG; the same lines give the same file."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    shown = [(name, [key for key in keys if any(key in line for line in lines)], scale) for name, keys, scale in PANELS]
    shown = [panel for panel in shown if panel[1]]
    # Text stays text, which keeps the file small; a fixed salt makes the same lines the same file.
    with mpl.rc_context({"svg.hashsalt": "shudun", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(8, 2.1 * max(len(shown), 1)), layout="constrained")
        FigureCanvasSVG(figure)
        figure.suptitle(title, fontsize=10)
        for row, (name, keys, scale) in enumerate(shown):
            axes = figure.add_subplot(len(shown), 1, row + 1)
            for key in keys:
                points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
                axes.plot(*zip(*points, strict=True) if points else ((), ()), label=key, marker=_marker(points))
            axes.set_yscale(scale)
            axes.set_ylabel(name, fontsize=8)
            axes.tick_params(labelsize=8)
            axes.legend(fontsize=7)
        figure.savefig(path, metadata={"Date": None})


def _marker(points: Sequence[object]) -> str:
    return "o" if len(points) < 20 else ""
