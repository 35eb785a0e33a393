"""`shudun data augment`: disguised copies of labelled rows as a file of their own.

A copy keeps every column of its row. Its text, `id`, `variant`, `evidence` and `provenance` change, and it says where
it comes from; labels and `group` stay, so that a split never parts a copy from its row. Rows are held in memory.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from shudun import terminal
from shudun.errors import ShudunError
from shudun.rows import OnBadRow, Row, RowReader
from shudun_training.augmentation import Augmented, Augmenter
from shudun_training.config import load_taxonomy
from shudun_training.examples import Example, ExampleParser


def augment_file(
    source: Path,
    target: Path,
    taxonomy_path: Path,
    *,
    names: Collection[str] | None = None,
    held_out: Collection[str] = (),
    copies: int = 1,
    intensity: float = 0.6,
    seed: int = 42,
    test_split: bool = False,
    on_bad_row: str = "fail",
) -> None:
    """Write `copies` disguised copies of each row, less those on which no family acts and those that repeat another.

    Raises:
        RowError: the first bad row, under `on_bad_row="fail"`.
        ShudunError: a file named as a test split without `test_split`, an unusable target, or an unknown family.
    """
    _require_usable(source, target, test_split=test_split)
    augmenter = Augmenter(names=names, held_out=held_out, intensity=intensity, seed=seed)
    reader = RowReader(
        source,
        CopyParser(ExampleParser(load_taxonomy(taxonomy_path))),
        on_bad_row=cast("OnBadRow", on_bad_row),
        rejected_path=source.with_name(source.name + ".rejected.jsonl") if on_bad_row == "skip" else None,
    )
    rows = list(reader)
    augmenter.match_rates(rows)
    written = _write(target, (copy for row in rows for copy in disguised_rows(row, augmenter, copies)))
    console = terminal.console()
    console.print(f"{source}: {reader.read:,} rows read, {reader.good:,} good, {reader.rejected:,} bad")
    unchanged = copies * reader.good - written
    console.print(f"{target}: {written:,} disguised rows; {unchanged:,} copies left out, nothing in them changed")


class CopyParser:
    """Parses rows as for training and checks what a copy must carry over: `variant` and `evidence`."""

    def __init__(self, parse: ExampleParser) -> None:
        self._parse = parse

    def __call__(self, row: Row) -> Example:
        """Parse one row.

        Raises:
            RowError: what `ExampleParser` refuses, or a `variant` that is no list of strings.
        """
        example = self._parse(row)
        evidence = row.get_optional("evidence")
        spans = json.loads(evidence) if isinstance(evidence, str) else evidence
        return replace(
            example, meta={**example.meta, "variant": row.string_list("variant") or [], "evidence": spans or []}
        )


def disguised_rows(example: Example, augmenter: Augmenter, copies: int) -> Iterator[dict[str, Any]]:
    """The disguised copies of one row in the row format, each text once."""
    seen = {example.item}
    for number in range(1, copies + 1):
        augmented = augmenter(example, number)
        if augmented.item not in seen:
            seen.add(augmented.item)
            yield _row(example, augmented, number, augmenter.seed)


def _row(example: Example, augmented: Augmented, number: int, seed: int) -> dict[str, Any]:
    item, meta = augmented.item, example.meta
    texts = {name: getattr(item, name, "") for name in ("title", "text", "parent_text")}
    origin = meta.get("provenance") or "unknown"
    return {
        **meta,
        "id": f"{example.id}~aug{number}",
        "kind": item.kind,
        **texts,
        "labels": sorted(example.labels),
        "unknown_labels": sorted(example.unknown_labels),
        "variant": sorted({*meta["variant"], *augmented.variants}),
        "evidence": [_moved(span, augmented) for span in meta["evidence"]],
        "provenance": f"{origin}; disguised from {example.id} by {', '.join(augmented.families)} (seed {seed})",
    }


def _moved(span: Mapping[str, Any], augmented: Augmented) -> dict[str, Any]:
    start, end = augmented.move(span["field"], span["start"], span["end"])
    return {**span, "start": start, "end": end}


def _require_usable(source: Path, target: Path, *, test_split: bool) -> None:
    if source.name.split(".")[0].lower() == "test" and not test_split:
        raise ShudunError(
            f"{source}: is named as a test split, and a model that trains on copies of it cannot be tested; "
            "give --test-split to write disguised rows to test on"
        )
    if not target.name.endswith(".jsonl"):
        raise ShudunError(f"{target}: expected a file ending in .jsonl")
    if target.exists() and target.samefile(source):
        raise ShudunError(f"{target}: would overwrite the rows it comes from; give another file")


def _write(target: Path, rows: Iterator[dict[str, Any]]) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007
            file.write(_json(row) + "\n")
    partial.replace(target)
    return count


def _json(row: dict[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    # A lone surrogate has no UTF-8 form, only an escape.
    return json.dumps(row) if any("\ud800" <= char <= "\udfff" for char in text) else text
