"""ToxiCN (Lu et al. 2023): `ToxiCN_1.0.csv`; label `toxic` and, several at once, the groups it is aimed at."""

from __future__ import annotations

import ast
from functools import partial
from pathlib import Path
from typing import Any

from shudun.records import read_records
from shudun.rows import Row
from shudun_training.importers.checks import choice, required
from shudun_training.importers.contract import SHARES, ImportOptions, Part, Plan, published_taxonomy

TARGETS = ("lgbtq", "region", "sexism", "racism", "other_target")


def plan(folder: Path, options: ImportOptions) -> Plan:  # noqa: ARG001  its own columns and labels
    """Read the one file; it has no official split."""
    path = folder / "ToxiCN_1.0.csv"
    part = Part(path, partial(read_records, path), _convert)
    return Plan([part], published_taxonomy("toxicn", ["toxic", *TARGETS]), shares=SHARES)


def _convert(row: Row) -> dict[str, Any]:
    toxic = choice(row, "toxic", ("0", "1")) == "1"
    target = row.text("target")
    try:
        hot = ast.literal_eval(target)
    except (ValueError, SyntaxError):
        hot = None
    if not isinstance(hot, list) or len(hot) != len(TARGETS) + 1 or not all(value in (0, 1) for value in hot):
        raise row.problem("target", "a list of six 0 or 1", target, "Use the original ToxiCN_1.0.csv.")
    targets = [label for label, is_target in zip(TARGETS, hot[:-1], strict=True) if is_target]
    return {
        "id": f"toxicn-{row.record.line}",
        "text": required(row, "content"),
        "labels": (["toxic"] if toxic else []) + targets,
        "topic": row.text("topic"),
        "platform": row.text("platform"),
    }
