"""`shudun data export`: labelled rows to an annotation tool, one at a time, in flat memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeAlias, cast

from shudun import terminal
from shudun.errors import ShudunError
from shudun.rows import OnBadRow, Row, RowReader
from shudun.taxonomy import Taxonomy
from shudun_training.config import load_taxonomy
from shudun_training.examples import Example, ExampleParser
from shudun_training.exporters import doccano, label_studio

Writer: TypeAlias = Callable[[Iterable[Example], IO[str], Taxonomy], None]

WRITERS: Mapping[str, Writer] = {"doccano": doccano.write, "label-studio": label_studio.write}


def export_rows(
    name: str,
    source: Path,
    target: Path,
    *,
    taxonomy: Path,
    annotated_labels: Sequence[str] | None = None,
    config: Path | None = None,
    on_bad_row: str = "fail",
) -> None:
    """Write the rows of `source` for the tool `name`; bad rows go to a side file of `target` under "skip".

    Raises:
        ShudunError: unknown tool or labels, an unreadable file, or (under "fail") a bad row.
    """
    if name not in WRITERS:
        raise ShudunError(f"unknown annotation tool {name!r}; known: {', '.join(WRITERS)}")
    if config is not None and name != "label-studio":
        raise ShudunError(f"{name} has no labelling configuration; leave out --interface")
    labels = load_taxonomy(taxonomy)
    try:
        parser = ExampleParser(labels, annotated_labels)
    except ValueError as error:
        raise ShudunError(f"--annotated-labels: {error}") from error

    def parse(row: Row) -> Example:
        example = parser(row)
        _check_encodable(row)
        return example

    rejected = target.with_name(target.name + ".rejected.jsonl")
    reader = RowReader(source, parse, on_bad_row=cast("OnBadRow", on_bad_row), rejected_path=rejected)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            WRITERS[name](reader, file, labels)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    console = terminal.console()
    console.print(
        f"{target}: {reader.read:,} rows read, {reader.good:,} written, {reader.rejected:,} bad", soft_wrap=True
    )
    if reader.rejected:
        console.print(f"bad rows with their reasons: {rejected}", soft_wrap=True)
    if config is not None:
        label_studio.write_config(config, labels)
        console.print(f"labelling interface: {config}", soft_wrap=True)


def _check_encodable(row: Row) -> None:
    for name, value in row.record.values.items():
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
        except UnicodeEncodeError as error:
            hint = "Remove the lone surrogate (half of a character) from this row."
            raise row.problem(name, "valid Unicode", value, hint) from error
