"""`shudun data split`: a labelled file into train, validation and test, stratified, grouped and without leakage.

The rows are written as they stand, all columns kept; the files take their names after what was written has been read
back and found to hold every good row once and nothing in two places.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from rich.table import Column, Table

from shudun import terminal
from shudun.errors import ShudunError
from shudun.records import FORMATS, BadRecord, Record, read_records
from shudun.rows import OnBadRow, RowReader
from shudun.taxonomy import Taxonomy
from shudun_training.config import load_taxonomy
from shudun_training.examples import POSITIVE
from shudun_training.near_duplicates import stable_key
from shudun_training.placement import PlacedRow, Placement, placing_parser, read_placement, refuse_leakage, units
from shudun_training.row_progress import row_progress
from shudun_training.splitting import grouped_split

REJECTED = ".rejected.jsonl"


def split_file(
    source: Path,
    output: Path,
    taxonomy_path: Path,
    *,
    shares: str,
    group_column: str | None,
    seed: int,
    on_bad_row: str = "fail",
) -> None:
    """Split `source` into `output/<split>.jsonl` and print counts; bad rows may go to a side file in `output`.

    Raises:
        RowError: a bad row under `on_bad_row="fail"`.
        ShudunError: shares that do not fit, too few groups, or an output that does not hold what it should.
    """
    taxonomy, wanted = load_taxonomy(taxonomy_path), parse_shares(shares)
    targets = {name: output / f"{name}.jsonl" for name in wanted}
    if any(target.exists() and target.samefile(source) for target in targets.values()):
        raise ShudunError(f"{source}: stands where a split would be written; choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    reader = RowReader(
        source,
        placing_parser(taxonomy),
        on_bad_row=cast("OnBadRow", on_bad_row),
        rejected_path=output / (source.name + REJECTED),
    )
    with row_progress() as step, tempfile.TemporaryDirectory(prefix=".split-", dir=output) as folder:
        rows = read_placement([reader], taxonomy, group_column=group_column, progress=partial(step, "reading"))
        step("dividing", len(rows))
        names = grouped_split(rows.labels.astype(np.int64), units(rows), wanted, seed=seed)
        fresh = {name: Path(folder) / target.name for name, target in targets.items()}
        read_sum, written_sum = _write(source, fresh, rows.line, names)
        back = _read_back(fresh, taxonomy, group_column, partial(step, "checking"))
        if (len(back), read_sum, back.raw_sum) != (len(rows), rows.raw_sum, written_sum):
            raise ShudunError(f"{output}: the written rows are not those of {source}; was it changed meanwhile?")
        refuse_leakage(back, list(wanted))
        for name, target in targets.items():
            fresh[name].replace(target)
    _print(back, list(wanted), taxonomy, f"{reader.read:,} rows read, {reader.good:,} good, {reader.rejected:,} bad")
    terminal.console().print(largest_deviation(back, wanted, taxonomy))
    if reader.rejected:
        terminal.console().print(f"bad rows with their reasons: {reader.rejected_path}", soft_wrap=True)


def check_split(folder: Path, taxonomy_path: Path, *, group_column: str | None) -> None:
    """Read the splits of a folder, one file each, print counts and refuse leakage.

    Raises:
        ShudunError: fewer than two splits, a bad row, or a group or near-duplicates in two splits.
    """
    taxonomy = load_taxonomy(taxonomy_path)
    paths = sorted(path for path in folder.glob("*") if path.name.lower().endswith(FORMATS) and path.is_file())
    found = [path for path in paths if not path.name.endswith(REJECTED)]
    files = {path.name.partition(".")[0]: path for path in found}
    names = ", ".join(path.name for path in found) or "nothing"
    if len(files) < max(2, len(found)):
        raise ShudunError(f"{folder}: expected a folder with one file for each of at least two splits, got {names}")
    with row_progress() as step:
        rows = _read_back(files, taxonomy, group_column, partial(step, "checking"))
    _print(rows, list(files), taxonomy, f"{len(rows):,} rows in {len(files)} splits")
    refuse_leakage(rows, list(files))


def parse_shares(text: str) -> dict[str, float]:
    """Split name → share, from `train=0.8,validation=0.1,test=0.1`.

    Raises:
        ShudunError: not of this form, or a name twice.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = (piece.strip() for piece in part.partition("="))
        try:
            value = float(share)
        except ValueError:
            value = 0.0
        if not name or name in shares or Path(name).name != name or not 0 < value <= 1:
            raise ShudunError(f"--shares {text}: expected NAME=SHARE,... such as train=0.8,validation=0.1,test=0.1")
        shares[name] = value
    return shares


def largest_deviation(rows: Placement, shares: Mapping[str, float], taxonomy: Taxonomy) -> str:
    """One sentence: where the share of the rows, or of a label's positives, is farthest from what was asked."""
    positive = np.column_stack([rows.labels == POSITIVE, np.ones(len(rows), dtype=np.bool_)])
    wanted = np.array(list(shares.values()))[:, None]
    counts = np.array([positive[rows.file == number].sum(axis=0) for number in range(len(shares))])
    totals = counts.sum(axis=0)
    got = np.divide(counts, totals, out=np.repeat(wanted, len(totals), axis=1), where=totals > 0)
    split, column = np.unravel_index(np.abs(got - wanted).argmax(), got.shape)
    what = [*taxonomy.label_ids, "all rows"][column]
    return (
        f"largest deviation from the asked shares: {what} in {list(shares)[split]}, {got[split, column]:.1%} "
        f"({counts[split, column]:,} of {totals[column]:,}) instead of {wanted[split, 0]:.1%}"
    )


def _write(
    source: Path, targets: Mapping[str, Path], lines: NDArray[np.int64], names: NDArray[np.str_]
) -> tuple[int, int]:
    """Write the rows at `lines` of `source` to the files of `names`; sums of their hashes as read and as written."""
    read = written = 0
    places = zip(lines.tolist(), names.tolist(), strict=True)
    with ExitStack() as stack:
        files = {name: stack.enter_context(path.open("w", encoding="utf-8")) for name, path in targets.items()}
        line, name = next(places)
        for record in read_records(source):
            if isinstance(record, BadRecord) or record.line != line:
                continue
            raw = _json_line(record, source)
            files[name].write(raw + "\n")
            read, written = read + stable_key(record.raw), written + stable_key(raw)
            line, name = next(places, (0, ""))
    return read % 2**64, written % 2**64


def _json_line(record: Record, source: Path) -> str:
    """The row as one line of JSON: its own text where it came from JSON."""
    return json.dumps(record.values, ensure_ascii=False) if ".csv" in source.name.lower() else record.raw


def _read_back(
    files: Mapping[str, Path], taxonomy: Taxonomy, group_column: str | None, progress: Callable[[int], None]
) -> Placement:
    readers: list[RowReader[PlacedRow]] = [RowReader(path, placing_parser(taxonomy)) for path in files.values()]
    return read_placement(readers, taxonomy, group_column=group_column, progress=progress)


def _print(rows: Placement, splits: Sequence[str], taxonomy: Taxonomy, summary: str) -> None:
    """Counts per label and split."""
    headings = [Column(split, justify="right") for split in splits]
    table = Table("positives", *headings, title=summary, title_justify="left")
    chosen = [rows.labels[rows.file == number] for number in range(len(splits))]
    table.add_row("all rows", *(f"{len(labels):,}" for labels in chosen))
    table.add_row("without a positive", *(f"{(labels != POSITIVE).all(axis=1).sum():,}" for labels in chosen))
    for index, label in enumerate(taxonomy.label_ids):
        table.add_row(label, *(f"{(labels[:, index] == POSITIVE).sum():,}" for labels in chosen))
    terminal.console().print(table)
