"""The audited rows as columns, filled chunk by chunk: about 75 bytes a row in memory, texts in a temporary file."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shudun.items import KINDS
from shudun.rendering import plain_text
from shudun.taxonomy import Taxonomy
from shudun_training.audit.surface import measure
from shudun_training.examples import POSITIVE, UNKNOWN, Example, label_matrix
from shudun_training.near_duplicates import stable_key
from shudun_training.personal_data import without_personal_data
from shudun_training.splitting import text_key

EXCERPT = 60
"""Characters of a text that a report shows."""

JUDGED_CHARACTERS = 7
"""Shorter judged texts (thanks, 求链接) recur without anybody having copied them."""

NOT_WORD = re.compile(r"\W+")


@dataclass(frozen=True)
class Columns:
    """The rows in order of reading.

    Shapes `(n,)` but for `labels` int8 `(n, num_labels)` (values of `examples`) and `surface` int32
    `(n, len(FEATURES))`. Keys are 64-bit hashes: `text_key` of all text, `judged_key` of the judged segment alone
    (0 where it is short), `group_key` (0 where the row has no group).
    """

    split: NDArray[np.int16]
    kind: NDArray[np.int8]
    labels: NDArray[np.int8]
    surface: NDArray[np.int32]
    text_key: NDArray[np.uint64]
    judged_key: NDArray[np.uint64]
    group_key: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.split)

    @property
    def clean(self) -> NDArray[np.bool_]:
        """Rows without a positive label and with at least one known one, shape `(n,)`."""
        return np.asarray((self.labels != POSITIVE).all(axis=1) & (self.labels != UNKNOWN).any(axis=1))


class RowTable:
    """Collects rows; use it as a context manager, for the texts lie in a temporary file."""

    def __init__(self, taxonomy: Taxonomy, *, group_column: str) -> None:
        self._taxonomy = taxonomy
        self._group_column = group_column
        self._chunks: dict[str, list[NDArray[Any]]] = {name: [] for name in Columns.__dataclass_fields__}
        self._offsets: list[NDArray[np.int64]] = []
        self._end = 0

    def __enter__(self) -> RowTable:
        self._file = tempfile.TemporaryFile()
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def add(self, examples: Sequence[Example], splits: Sequence[int]) -> None:
        """Append rows with the number of their split."""
        texts = [plain_text(example.item) for example in examples]
        judged = [NOT_WORD.sub("", example.item.text).casefold() for example in examples]
        groups = [example.meta.get(self._group_column) for example in examples]
        values: dict[str, NDArray[Any]] = {
            "split": np.array(splits, dtype=np.int16),
            "kind": np.array([KINDS.index(example.item.kind) for example in examples], dtype=np.int8),
            "labels": label_matrix(examples, self._taxonomy).astype(np.int8),
            "surface": measure([example.item for example in examples]),
            "text_key": _keys(text_key(text) for text in texts),
            "judged_key": _keys(stable_key(text) if len(text) >= JUDGED_CHARACTERS else 0 for text in judged),
            "group_key": _keys(stable_key(str(group)) if group not in (None, "") else 0 for group in groups),
        }
        for name, column in values.items():
            self._chunks[name].append(column)
        self._store(examples, texts)

    @property
    def empty(self) -> bool:
        """Whether no row was added."""
        return not self._offsets

    def columns(self) -> Columns:
        """All rows added so far; at least one."""
        return Columns(**{name: np.concatenate(chunks) for name, chunks in self._chunks.items()})

    def texts(self, rows: NDArray[np.int64]) -> Iterator[str]:
        """All text of the given rows."""
        for _, text in self._read(rows):
            yield text

    def excerpts(self, rows: NDArray[np.int64]) -> list[str]:
        """Id and beginning of the given rows as one line each, personal data masked."""
        lines = []
        for row_id, text in self._read(rows):
            shown = " ".join(without_personal_data(text).split())
            lines.append(f"{row_id} «{shown[:EXCERPT]}{'…' if len(shown) > EXCERPT else ''}»")
        return lines

    def _store(self, examples: Sequence[Example], texts: Sequence[str]) -> None:
        offsets = []
        for example, text in zip(examples, texts, strict=True):
            offsets.append(self._end)
            self._end += self._file.write(json.dumps([example.id, text]).encode("ascii") + b"\n")
        self._offsets.append(np.array(offsets, dtype=np.int64))

    def _read(self, rows: NDArray[np.int64]) -> Iterator[tuple[str, str]]:
        offsets = np.concatenate(self._offsets)
        for offset in offsets[rows].tolist():
            self._file.seek(offset)
            row_id, text = json.loads(self._file.readline())
            yield row_id, text


def _keys(values: Iterable[int]) -> NDArray[np.uint64]:
    return np.array(list(values), dtype=np.uint64)
