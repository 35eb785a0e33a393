"""Print scored rows beside their texts: python scripts/show_scores.py ITEMS.jsonl SCORED.jsonl"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.table import Table

from shudun import terminal

TEXT_CHARS = 36


def main(items_path: Path, scored_path: Path) -> None:
    items = {row["id"]: row for row in map(json.loads, items_path.read_text(encoding="utf-8").splitlines())}
    table = Table("kind", "text", "suggestion", "labels", "highest score", show_lines=True)
    for row in map(json.loads, scored_path.read_text(encoding="utf-8").splitlines()):
        item = items[row["id"]]
        text = " | ".join(filter(None, (item.get("title", ""), item["text"]))).replace("\n", " ")
        label, score = max(row["scores"].items(), key=lambda entry: entry[1])
        table.add_row(
            item.get("kind", "comment"),
            text if len(text) <= TEXT_CHARS else text[:TEXT_CHARS] + "…",
            row["suggestion"],
            "\n".join(row["labels"]) or "-",
            f"{label} {score:.2f}",
        )
    terminal.console().print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
