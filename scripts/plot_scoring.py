"""Draw the picture of the README from the results of bench_scoring.py.

python scripts/plot_scoring.py    reads benchmarks/scoring-*.json, writes docs/scoring-speed.svg
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "scoring-speed.svg"
SHAPES = {"12x768": "12 x 768 (BERT-base)", "3x768": "3 x 768 (RBT3)", "6x288": "6 x 288 (MiniRBT)", "4x312": "4 x 312"}
OWN, PEER = "#d6336c", "#adb5bd"


def main() -> None:
    plt.switch_backend("svg")
    # Text stays text, which keeps the file small; a fixed salt makes the same results the same file.
    plt.rcParams |= {"svg.hashsalt": "shudun", "svg.fonttype": "none", "font.family": "sans-serif"}
    figure, panels = plt.subplots(2, 2, figsize=(11, 6.4), layout="constrained")
    for panel, (shape, title) in zip(panels.flat, SHAPES.items(), strict=True):
        results = json.loads((ROOT / "benchmarks" / f"scoring-{shape}.json").read_text(encoding="utf-8"))
        draw(panel, chosen(results["rows"]), title)
    threads, cpu = results["threads"], results["machine"]["cpu"]
    figure.suptitle(
        f"Texts scored per second on {threads} cores ({cpu}), 27 tokens on average, tokenising included",
        fontsize=10,
    )
    figure.savefig(TARGET, metadata={"Date": None})
    print(TARGET)


def chosen(rows: list[dict[str, Any]]) -> list[tuple[str, float, bool]]:
    """Name, texts/s and whether it is ours; of the pipelines only the fastest."""
    pipelines = [row for row in rows if row["way"].startswith("transformers pipeline")]
    best = max(pipelines, key=lambda row: row["texts_per_s"])
    kept = [row for row in rows if row not in pipelines or row is best]
    kept = [row for row in kept if "file" not in row["way"]]
    bars = [
        (row["way"] + ("" if row["batch_invariant"] else " *"), row["texts_per_s"], row["way"].startswith("shudun"))
        for row in kept
    ]
    return sorted(bars, key=lambda bar: bar[1])


def draw(panel: Any, bars: list[tuple[str, float, bool]], title: str) -> None:
    names, speeds, own = zip(*bars, strict=True)
    drawn = panel.barh(names, speeds, color=[OWN if ours else PEER for ours in own])
    panel.bar_label(drawn, [f"{speed:,.0f}" for speed in speeds], padding=3, fontsize=8)
    panel.set_title(title, fontsize=10)
    panel.set_xlim(0, max(speeds) * 1.15)
    panel.tick_params(labelsize=8)
    panel.set_xlabel("* a text's score depends on its batch mates", fontsize=7)
    panel.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
