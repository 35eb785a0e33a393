"""Write the counts of data_cards/shudun-xhs into its card, or check that they are true.

python scripts/count_data_card.py          rewrites the block between the markers
python scripts/count_data_card.py --check  exits 1 when the block is out of date
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CARD = ROOT / "data_cards" / "shudun-xhs" / "README.md"
START, END = "<!-- counts: start -->", "<!-- counts: end -->"
SPLITS = ("train", "validation", "test")


def counts_block() -> str:
    """The block as it should stand."""
    rows = {split: _rows(split) for split in SPLITS}
    taxonomy = yaml.safe_load((ROOT / "configs" / "taxonomy" / "xhs.yaml").read_text(encoding="utf-8"))
    lines = [START, f"| | {' | '.join(SPLITS)} | all |", "| --- | ---: | ---: | ---: | ---: |"]

    def add(name: str, count: Any) -> None:
        values = [count(rows[split]) for split in SPLITS]
        lines.append(f"| {name} | {' | '.join(map(str, values))} | {sum(values)} |")

    add("rows", len)
    for kind in ("note", "comment"):
        add(f"{kind}s", lambda split, kind=kind: sum(row["kind"] == kind for row in split))
    add("clean rows", lambda split: sum(not row["labels"] for row in split))
    add("clean rows that look like a violation", lambda split: sum(bool(row["hard_negative_for"]) for row in split))
    add("rows with two or more labels", lambda split: sum(len(row["labels"]) > 1 for row in split))
    add("positive rows with disguised wording", lambda split: sum(bool(r["labels"] and r["variant"]) for r in split))
    add("groups", lambda split: len({row["group"] for row in split}))
    for label in taxonomy["labels"]:
        add(f"`{label['id']}`", lambda split, label=label: Counter(x for r in split for x in r["labels"])[label["id"]])
    return "\n".join([*lines, END])


def main(check: bool) -> int:
    text = CARD.read_text(encoding="utf-8")
    before, rest = text.split(START)
    _, after = rest.split(END)
    updated = before + counts_block() + after
    if check:
        return int(updated != text)
    CARD.write_text(updated, encoding="utf-8")
    return 0


def _rows(split: str) -> list[dict[str, Any]]:
    lines = (CARD.parent / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
