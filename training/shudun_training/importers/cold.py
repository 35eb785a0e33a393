"""COLD (Deng et al. 2022): `train.csv`, `dev.csv`, `test.csv`, the official split; label `offensive`.

Test rows whose text also stands in train are dropped, and dev rows whose text stands in train or test.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from shudun.records import read_records
from shudun.rows import Row
from shudun_training.importers.checks import choice, required
from shudun_training.importers.contract import ImportOptions, Part, Plan, published_taxonomy

FILES = {"train": "train.csv", "test": "test.csv", "validation": "dev.csv"}
"""In this order later files lose what earlier ones hold."""


def plan(folder: Path, options: ImportOptions) -> Plan:  # noqa: ARG001  its own columns and labels
    """Read the three files, keep their split, drop what leaks."""
    parts = [
        Part(folder / name, partial(read_records, folder / name), partial(_convert, split=split), split)
        for split, name in FILES.items()
    ]
    return Plan(parts, published_taxonomy("cold", ["offensive"]), drop_repeats=True)


def _convert(row: Row, *, split: str) -> dict[str, Any]:
    fine = {"fine_grained": row.text("fine-grained-label")} if row.get("fine-grained-label") else {}
    return {
        "id": f"cold-{split}-{row.record.line}",
        "text": required(row, "TEXT"),
        "labels": ["offensive"] if choice(row, "label", ("0", "1")) == "1" else [],
        "topic": row.text("topic"),
        **fine,
    }
