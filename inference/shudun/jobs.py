"""Scoring a file into a file: stream in, stream out, every row accounted for.

The output appears under its name only when it is whole; an interrupted or failed job leaves `OUT.partial`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from shudun.errors import MissingExtraError, ShudunError
from shudun.policy import ACTIONS
from shudun.rows import OnBadRow, RowReader, parse_item
from shudun.scorer import ScoredItem, Scorer

PARQUET_GROUP_ROWS = 16384


@dataclass(frozen=True, slots=True)
class JobCounts:
    """What became of the input rows: `read == scored + failed + rejected`; `seconds` is wall time.

    `failed` rows are in the output with their `error`, `rejected` ones in the side file.
    """

    read: int
    scored: int
    failed: int
    rejected: int
    truncated: int
    suggestions: Mapping[str, int]
    seconds: float

    @property
    def texts_per_second(self) -> float:
        """Rows written per second of wall time, reading, tokenising and writing included."""
        return (self.scored + self.failed) / self.seconds if self.seconds else 0.0


def score_file(
    source: Path,
    target: Path,
    scorer: Scorer,
    *,
    on_bad_row: OnBadRow = "fail",
    columns: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> JobCounts:
    """Score every row of `source` (JSONL, CSV, Parquet) into `target` (JSONL or Parquet), in order.

    Args:
        source: the input file.
        target: the output file; appears only when it is whole.
        scorer: the model.
        on_bad_row: "fail" ends the job at the first bad row; "skip" moves bad rows to `TARGET.rejected.jsonl`.
        columns: field → column of the source file, where the names differ.
        progress: called with the number of rows done so far.

    Raises:
        RowError: a bad row under "fail".
        ShudunError: unreadable source, unknown output type, or a source that the job would overwrite.
    """
    _require_apart(source, target)
    started = time.monotonic()
    reader = RowReader(source, parse_item, on_bad_row=on_bad_row, rejected_path=rejected_path(target), columns=columns)
    failed = truncated = done = 0
    suggestions: dict[str, int] = dict.fromkeys(ACTIONS, 0)
    with open_writer(target, scorer.taxonomy.label_ids) as writer:
        for row in scorer.score_iter(reader):
            writer.write(row)
            failed += row.error is not None
            truncated += row.truncated
            suggestions[row.suggestion] += 1
            done += 1
            if progress is not None:
                progress(done)
    return JobCounts(
        read=reader.read,
        scored=done - failed,
        failed=failed,
        rejected=reader.rejected,
        truncated=truncated,
        suggestions=suggestions,
        seconds=time.monotonic() - started,
    )


def rejected_path(target: Path) -> Path:
    """Where the rejected rows of a job go."""
    return target.with_name(target.name + ".rejected.jsonl")


def _require_apart(source: Path, target: Path) -> None:
    if not source.is_file():
        raise ShudunError(f"{source}: no such file")
    if target.is_dir():
        raise ShudunError(f"{target}: is a folder; give the name of an output file")
    for written, what in ((target, "output"), (rejected_path(target), "file for rejected rows")):
        if written.exists() and written.samefile(source):
            raise ShudunError(f"{source}: input and {what} are the same file; choose another output")


class RowWriter(Protocol):
    """Writes scored rows in order."""

    def write(self, row: ScoredItem) -> None:
        """Append one row."""


@contextmanager
def open_writer(target: Path, label_ids: tuple[str, ...]) -> Iterator[RowWriter]:
    """A writer for `target` by its ending; the file takes its name when the block ends without an error."""
    partial = target.with_name(target.name + ".partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.name.lower().endswith(".parquet"):
        with _ParquetWriter(partial, label_ids) as writer:
            yield writer
    elif target.name.lower().endswith(".jsonl"):
        with partial.open("w", encoding="utf-8") as file:
            yield _JsonlWriter(file)
            file.flush()
            os.fsync(file.fileno())
    else:
        raise ShudunError(f"{target}: expected an output file ending in .jsonl or .parquet")
    partial.replace(target)


class _JsonlWriter:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, row: ScoredItem) -> None:
        # float32 has at most 9 significant digits; 6 decimals of a probability are what is meaningful.
        scores = {label: round(score, 6) for label, score in row.scores.items()}
        self._file.write(json.dumps(row.to_dict() | {"scores": scores}, ensure_ascii=False) + "\n")


class _ParquetWriter:
    def __init__(self, path: Path, label_ids: tuple[str, ...]) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise MissingExtraError("writing Parquet", "parquet", error) from error
        self._pa = pa
        self._schema = pa.schema(
            [
                ("id", pa.string()),
                ("labels", pa.list_(pa.string())),
                ("scores", pa.struct([(label, pa.float32()) for label in label_ids])),
                ("primary_label", pa.string()),
                ("suggestion", pa.string()),
                ("truncated", pa.bool_()),
                ("error", pa.string()),
            ]
        )
        self._writer = pq.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> _ParquetWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None:
            self._flush()
        self._writer.close()

    def write(self, row: ScoredItem) -> None:
        self._rows.append(row.to_dict() | {"scores": row.scores or None})
        if len(self._rows) >= PARQUET_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []
