"""Where rows stand: labels, groups and near-duplicate clusters of files, read once, and what stands in two of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shudun.errors import ShudunError
from shudun.rendering import plain_text
from shudun.rows import Row, RowReader
from shudun.taxonomy import Taxonomy
from shudun_training.examples import Example, ExampleParser, label_matrix
from shudun_training.near_duplicates import NearDuplicateIndex, join_equal, stable_key
from shudun_training.splitting import signatures

CHUNK_ROWS = 2048
SHOWN_LEAKS = 5


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A row with its line and a 64-bit hash of its raw text."""

    example: Example
    line: int
    raw_key: int

    @property
    def id(self) -> str | None:
        """The item's id."""
        return self.example.id


@dataclass(frozen=True)
class Placement:
    """The rows of files in order of reading.

    Shapes `(n,)` but for `labels` int8 `(n, num_labels)`: number of the `file`, its `line`, `group_key` (0 without a
    group), number of the near-duplicate `cluster`. `raw_sum` adds up the hashes of all raw rows modulo 2^64: equal
    for files that hold the same rows in whatever order.
    """

    file: NDArray[np.int16]
    line: NDArray[np.int64]
    labels: NDArray[np.int8]
    group_key: NDArray[np.uint64]
    cluster: NDArray[np.int64]
    raw_sum: int

    def __len__(self) -> int:
        return len(self.file)


def placing_parser(taxonomy: Taxonomy) -> Callable[[Row], PlacedRow]:
    """A row parser that keeps line and raw hash beside the example."""
    parse = ExampleParser(taxonomy)
    return lambda row: PlacedRow(parse(row), row.record.line, stable_key(row.record.raw))


def read_placement(
    readers: Sequence[RowReader[PlacedRow]],
    taxonomy: Taxonomy,
    *,
    group_column: str | None,
    progress: Callable[[int], None],
) -> Placement:
    """Read files and cluster their rows.

    Raises:
        ShudunError: no usable row, or a `group_column` that no row has.
    """
    chunks: list[tuple[NDArray[Any], ...]] = []
    raw_sum = done = 0
    with NearDuplicateIndex() as index:
        for number, reader in enumerate(readers):
            rows = iter(reader)
            while chunk := list(islice(rows, CHUNK_ROWS)):
                examples = [row.example for row in chunk]
                index.add(signatures([plain_text(example.item) for example in examples]))
                file = np.full(len(chunk), number, dtype=np.int16)
                lines = np.array([row.line for row in chunk], dtype=np.int64)
                labels = label_matrix(examples, taxonomy).astype(np.int8)
                chunks.append((file, lines, labels, _groups(examples, group_column)))
                raw_sum = (raw_sum + sum(row.raw_key for row in chunk)) % 2**64
                progress(done := done + len(chunk))
        if not chunks:
            raise ShudunError(f"no usable row in {', '.join(str(reader.path) for reader in readers)}")
        file, lines, labels, groups = [np.concatenate(column) for column in zip(*chunks, strict=True)]
        if group_column is not None and not groups.any():
            raise ShudunError(f"no row has a '{group_column}', which --group-column names")
        return Placement(file, lines, labels, groups, cluster=index.clusters(), raw_sum=raw_sum)


def units(placement: Placement) -> NDArray[np.int64]:
    """Number of what must stay together, shape `(n,)`: near-duplicates and members of one group, transitively."""
    return join_equal(placement.cluster, placement.group_key)


def spread(numbers: NDArray[np.int64], places: NDArray[np.int16]) -> NDArray[np.int64]:
    """The numbers whose rows stand in more than one place; both arrays `(n,)`."""
    pairs = np.unique(np.stack([numbers, places.astype(np.int64)], axis=1), axis=0)
    found, counts = np.unique(pairs[:, 0], return_counts=True)
    return found[counts > 1]


def refuse_leakage(placement: Placement, names: Sequence[str]) -> None:
    """Refuse files that share a group or near-duplicates.

    Raises:
        ShudunError: with the places of the first leaks.
    """
    groups = join_equal(np.arange(len(placement), dtype=np.int64), placement.group_key)
    problems = []
    for what, numbers in (("group", groups), ("near-duplicate family", placement.cluster)):
        shared = spread(numbers, placement.file)
        places = []
        for number in shared[:SHOWN_LEAKS]:
            rows = np.flatnonzero(numbers == number)
            _, first = np.unique(placement.file[rows], return_index=True)
            places.append(" ~ ".join(f"{names[placement.file[row]]}:{placement.line[row]}" for row in rows[first]))
        if places:
            problems.append(f"{len(shared):,} {what}(s) in more than one split, e.g. {'; '.join(places)}")
    if problems:
        raise ShudunError(f"leakage: {'. '.join(problems)}")


def _groups(examples: Sequence[Example], column: str | None) -> NDArray[np.uint64]:
    names = [None if column is None else example.meta.get(column) for example in examples]
    return np.array([0 if name in (None, "") else stable_key(str(name)) for name in names], dtype=np.uint64)
