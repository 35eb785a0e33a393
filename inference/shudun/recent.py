"""Texts that repeat, within one list and within one stream, so that each is computed once.

What a stream remembers is bounded: short texts only, and the older half is forgotten when it is full. Knows texts as
they are rendered and outputs as rows of arrays; it lives as long as one stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shudun.items import Item
from shudun.rendering import Rendered, render

CAPACITY = 1 << 16
TEXT_CHARACTERS = 256
"""Most results that are kept, and the length of text up to which they are: some 30 MB for 16 labels."""


class Result(NamedTuple):
    """Logits `(num_labels,)` of one text, and whether it was cut."""

    logits: NDArray[np.float32]
    truncated: bool


class RecentResults:
    """A bounded memory from rendered text to result."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._results: dict[Rendered, Result] = {}

    def __len__(self) -> int:
        return len(self._results)

    def known(self, texts: Sequence[Rendered]) -> dict[Rendered, Result]:
        """Those of the texts that are remembered."""
        return {text: self._results[text] for text in texts if text in self._results}

    def remember(self, texts: Sequence[Rendered], logits: NDArray[np.float32], truncated: NDArray[np.bool_]) -> None:
        """Keep the results of short texts; row `i` belongs to text `i`."""
        for text, row, cut in zip(texts, logits, truncated.tolist(), strict=True):
            if sum(map(len, text.segments)) <= TEXT_CHARACTERS:
                # A copy: a view would keep the whole array of its chunk alive.
                self._results[text] = Result(row.copy(), cut)
        excess = len(self._results) - self._capacity
        if excess > 0:
            self._results = dict(islice(self._results.items(), max(excess, len(self._results) // 2), None))


def distinct(items: Sequence[Item]) -> tuple[list[Rendered], NDArray[np.int64]]:
    """The different rendered texts of items, and for each item which of them is its own, shape `(n,)`."""
    index: dict[Rendered, int] = {}
    copies = [index.setdefault(render(item), len(index)) for item in items]
    return list(index), np.array(copies, dtype=np.int64)
