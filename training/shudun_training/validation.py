"""`shudun data validate`: every row of labelled files against the row format and a taxonomy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from rich.table import Table

from shudun import terminal
from shudun.errors import ShudunError
from shudun.rows import OnBadRow, RowReader
from shudun.taxonomy import Taxonomy
from shudun_training.config import load_taxonomy
from shudun_training.examples import Example, ExampleParser


def validate_files(
    files: Sequence[Path], taxonomy_path: Path, *, on_bad_row: str = "skip", rejected: Path | None = None
) -> None:
    """Check files and print counts; bad rows go to a side file each.

    Raises:
        RowError: the first bad row, under `on_bad_row="fail"`.
        ShudunError: after all files are read, when any row was bad.
    """
    if rejected is not None and len(files) > 1:
        raise ShudunError("--rejected names one side file; validate several files without it")
    taxonomy = load_taxonomy(taxonomy_path)
    console = terminal.console()
    bad = 0
    for path in files:
        side = rejected or path.with_name(path.name + ".rejected.jsonl")
        reader = RowReader(path, ExampleParser(taxonomy), on_bad_row=cast("OnBadRow", on_bad_row), rejected_path=side)
        table = _count(reader, taxonomy)
        console.print(f"{path}: {reader.read:,} rows read, {reader.good:,} good, {reader.rejected:,} bad")
        console.print(table)
        if reader.rejected:
            console.print(f"bad rows with their reasons: {side}")
        bad += reader.rejected
    if bad:
        raise ShudunError(f"{bad:,} bad row(s); see the side files above")


def _count(reader: RowReader[Example], taxonomy: Taxonomy) -> Table:
    kinds: Counter[str] = Counter()
    positives: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    clean = 0
    for example in reader:
        kinds[example.item.kind] += 1
        positives.update(example.labels)
        unknown.update(example.unknown_labels)
        clean += not example.labels and not example.unknown_labels
    table = Table("label", "positive", "unknown", "applies to")
    for label in taxonomy.labels:
        table.add_row(label.id, str(positives[label.id]), str(unknown[label.id]), ", ".join(label.applies_to))
    table.caption = f"{kinds['note']:,} notes, {kinds['comment']:,} comments, {clean:,} reviewed and clean"
    return table
