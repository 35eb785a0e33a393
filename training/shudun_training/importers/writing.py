"""Where imported rows go: one file a split, by an official split or by one of our own without leakage.

Everything is written into a folder beside the output and moved there at the end. Without a split of our own memory
is flat; with one, texts and labels of all rows are held.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from shudun_training.importers.parsing import ImportedRow
from shudun_training.splitting import grouped_split, near_duplicate_clusters, near_duplicates_of

ALL = "all"
"""Name of the one file of an import that is not split."""


@dataclass
class SplitCounts:
    """Rows, rows that are not labelled, and positive labels of one split."""

    rows: int = 0
    unlabelled: int = 0
    positives: Counter[str] = field(default_factory=Counter)

    def add(self, labels: tuple[str, ...] | None) -> None:
        """Count one row by its positive labels."""
        self.rows += 1
        self.unlabelled += labels is None
        self.positives.update(labels or ())


class SplitWriter:
    """Writes rows to `<split>.jsonl`; use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.counts: dict[str, SplitCounts] = {}
        self._folder = folder
        self._files: dict[str, IO[str]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def write(self, split: str, line: str, labels: tuple[str, ...] | None) -> None:
        """Append one row."""
        if split not in self._files:
            path = self._folder / f"{split}.jsonl"
            self._files[split] = self._stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
            self.counts[split] = SplitCounts()
        self._files[split].write(line)
        self.counts[split].add(labels)


class Repeats:
    """Texts of the parts read so far, as digests: whether a text stands in an earlier split."""

    def __init__(self) -> None:
        self._splits: dict[bytes, str] = {}

    def leaks(self, text: str, split: str) -> str | None:
        """The other split that holds this text already, or `None`, and then it is remembered for this one."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        other = self._splits.setdefault(digest, split)
        return None if other == split else other


class HeldRows:
    """Texts, groups and labels of rows that a split of our own needs all at once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.groups: list[str | None] = []
        self.labels: list[tuple[str, ...] | None] = []

    def add(self, row: ImportedRow) -> None:
        """Hold one row."""
        self.texts.append(row.text)
        self.groups.append(row.group)
        self.labels.append(row.labels)

    def split(self, label_ids: tuple[str, ...], shares: Mapping[str, float], *, seed: int) -> tuple[list[str], str]:
        """Split name of each row, with a remark on what was kept together.

        Raises:
            ShudunError: shares that do not fit, or too few groups of rows.
        """
        clusters = near_duplicate_clusters(self.texts, groups=self.groups)
        labels = np.array([[label in (row or ()) for label in label_ids] for row in self.labels], dtype=np.int64)
        names = grouped_split(labels.reshape(len(self.labels), len(label_ids)), clusters, shares, seed=seed)
        units = len(np.unique(clusters))
        note = (
            f"{len(self.texts):,} rows split by seed {seed} in {units:,} units: a text with its near-duplicates, "
            "a group with its members"
        )
        return names.tolist(), note


def near_duplicate_note(texts: Mapping[str, list[str]]) -> str:
    """How many test rows of an official split have a near-duplicate in train; they are kept."""
    found = int(near_duplicates_of(texts["test"], texts["train"]).sum())
    return f"test: {found:,} of {len(texts['test']):,} rows have a near-duplicate in train; the official split is kept"
