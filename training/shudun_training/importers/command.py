"""`shudun data import`: from names and paths to a run, and what it prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.table import Table

from shudun import terminal
from shudun.errors import ShudunError
from shudun.records import Encoding
from shudun.rows import OnBadRow
from shudun_training.config import load_label_map, load_taxonomy
from shudun_training.importers.contract import ImportOptions
from shudun_training.importers.registry import IMPORTERS, PUBLISHED
from shudun_training.importers.runner import REJECTED, ImportResult, run_import


def import_dataset(
    name: str,
    source: Path,
    output: Path,
    *,
    seed: int,
    taxonomy: Path | None = None,
    columns: Mapping[str, str] | None = None,
    label_map: Mapping[str, str] | None = None,
    label_map_file: Path | None = None,
    annotated_labels: Sequence[str] | None = None,
    label_separator: str | None = None,
    encoding: str | None = None,
    split_shares: Mapping[str, float] | None = None,
    on_bad_row: str = "fail",
) -> None:
    """Import `source` as `name` says into `output/<split>.jsonl`, and print what became of every record.

    Raises:
        ShudunError: unknown name, unusable options or files, or (under "fail") a record that is not what its format
            documents.
    """
    if name not in IMPORTERS:
        raise ShudunError(f"unknown data set {name!r}; known: {', '.join(IMPORTERS)}")
    merged = {**(load_label_map(label_map_file) if label_map_file else {}), **(label_map or {})}
    given = {
        "--taxonomy": taxonomy,
        "--column": columns,
        "--label-map": merged,
        "--annotated-labels": annotated_labels,
        "--label-separator": label_separator,
        "--encoding": encoding,
    }
    unused = [option for option, value in given.items() if value]
    if name in PUBLISHED and unused:
        raise ShudunError(f"{name} has columns, labels and encoding of its own; leave out {', '.join(unused)}")
    options = ImportOptions(
        taxonomy=load_taxonomy(taxonomy) if taxonomy else None,
        columns=columns or {},
        label_map=merged,
        annotated_labels=annotated_labels,
        encoding=cast("Encoding", encoding or "utf-8"),
        label_separator=label_separator,
    )
    plan = IMPORTERS[name](source, options)
    origin = {
        "importer": name,
        "source": str(source),
        "taxonomy": f"{plan.taxonomy.id} {plan.taxonomy.version}".strip(),
        "options": {option: str(value) for option, value in given.items() if value},
    }
    result = run_import(
        plan,
        output,
        shares=split_shares,
        seed=seed,
        on_bad_row=cast("OnBadRow", on_bad_row),
        origin=origin,
    )
    _print(result, output, plan.taxonomy.label_ids, terminal.console())


def _print(result: ImportResult, output: Path, label_ids: Sequence[str], console: Console) -> None:
    for part in result.parts:
        dropped = "".join(f", {count:,} left out ({reason})" for reason, count in part.dropped.items())
        bad = f", {part.rejected:,} bad" if part.rejected else ""
        console.print(f"{part.file}: {part.read:,} read, {part.written:,} written{dropped}{bad}", soft_wrap=True)
    for split, counts in result.splits.items():
        extra = f" ({counts.unlabelled:,} not labelled)" if counts.unlabelled else ""
        console.print(f"{output / f'{split}.jsonl'}: {counts.rows:,} rows{extra}", soft_wrap=True)
    table = Table("label", *result.splits)
    for label in label_ids:
        table.add_row(label, *(f"{counts.positives[label]:,}" for counts in result.splits.values()))
    console.print(table)
    for note in result.notes:
        console.print(note, soft_wrap=True)
    if any(part.rejected for part in result.parts):
        console.print(f"bad rows with their reasons: {output / REJECTED}", soft_wrap=True)
