"""Scores of one system on each row of a measured split, small enough to keep with every run.

Rows are known by a digest of what was scored: the file holds no text, and two runs find the rows that they share
whatever files those came from. Plain arrays, no pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from shudun.errors import ShudunError
from shudun.items import Item, Note
from shudun_training.bootstrap import Predictions


@dataclass(frozen=True, slots=True)
class RowScores:
    """`rows` uint64 `(n,)`; `scores`, `selected` and `references` (as in `examples`) `(n, num_labels)`."""

    label_ids: tuple[str, ...]
    rows: NDArray[np.uint64]
    scores: NDArray[np.float32]
    selected: NDArray[np.bool_]
    references: NDArray[np.int64]

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.label_ids))
        for name in ("scores", "selected", "references"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {getattr(self, name).shape}")

    @property
    def predictions(self) -> Predictions:
        """Scores and decisions in the form of the bootstrap."""
        return Predictions(self.scores, self.selected)

    def ordered(self) -> RowScores:
        """The same rows in an order that depends on the rows alone, not on the files they came from."""
        order = np.lexsort((*self.references.T, self.rows))
        return RowScores(
            self.label_ids, self.rows[order], self.scores[order], self.selected[order], self.references[order]
        )

    def save(self, path: Path) -> None:
        """Write a compressed .npz."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            label_ids=np.array(self.label_ids, dtype=np.str_),
            rows=self.rows,
            scores=self.scores,
            selected=self.selected,
            references=self.references.astype(np.int8),
        )


def row_scores(
    label_ids: Sequence[str],
    items: Sequence[Item],
    scores: NDArray[np.float32],
    selected: NDArray[np.bool_],
    references: NDArray[np.int64],
) -> RowScores:
    """Scores of items as they are kept."""
    rows = np.array([_digest(item) for item in items], dtype=np.uint64)
    return RowScores(tuple(label_ids), rows, scores, selected, references)


def load_row_scores(path: Path) -> RowScores:
    """Read a file of `RowScores.save`.

    Raises:
        ShudunError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return RowScores(
                tuple(map(str, arrays["label_ids"])),
                arrays["rows"],
                arrays["scores"],
                arrays["selected"],
                arrays["references"].astype(np.int64),
            )
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile) as error:
        raise ShudunError(f"{path}: no scores of rows ({error}); `shudun evaluate` writes them") from error


def _digest(item: Item) -> int:
    parts = (item.title, item.text) if isinstance(item, Note) else (item.text, item.parent_text)
    text = json.dumps([item.kind, *parts])
    return int.from_bytes(hashlib.blake2b(text.encode("ascii"), digest_size=8).digest())
