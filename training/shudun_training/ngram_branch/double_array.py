"""A dictionary of n-grams as a double-array trie: look-up by additions and table reads alone.

An n-gram's entry stands at `base[number of its prefix] + its last token`, and `check` there names the prefix, so that
no n-gram is ever taken for another (Aoe 1989, "An efficient digital search algorithm by using a double-array
structure"). Hashing would need a far larger table, and would still take unseen n-grams for kept ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shudun_training.ngram_branch.dictionary import NOT_KEPT, NgramDictionary

EMPTY = -1
BLOCK = 4096
"""Table entries that are looked through at once for a free place."""


@dataclass(frozen=True, slots=True)
class DoubleArray:
    """Tables of n-gram numbers, all int32.

    `single`: number of each token as an n-gram, `(vocab_size + 1,)`; the last entry is padding. `base`: where the
    continuations of each n-gram begin, by its number. `check`, `number`: prefix and number of the n-gram at each place.
    """

    single: NDArray[np.int32]
    base: NDArray[np.int32]
    check: NDArray[np.int32]
    number: NDArray[np.int32]


def build_double_array(dictionary: NgramDictionary, vocab_size: int) -> DoubleArray:
    """Place the continuations of each n-gram, those with the most of them first, where they first fit."""
    singles = dictionary.sizes[0]
    single = np.full(vocab_size + 1, NOT_KEPT, dtype=np.int32)
    single[dictionary.token[:singles]] = np.arange(1, singles + 1)
    prefixes, begins, counts = np.unique(dictionary.prefix[singles:], return_index=True, return_counts=True)
    base = np.zeros(sum(dictionary.sizes[:-1]) + 1, dtype=np.int32)
    places = _Places(vocab_size)
    for i in np.argsort(-counts, kind="stable"):
        begin = singles + begins[i]
        base[prefixes[i]] = places.take(dictionary.token[begin : begin + counts[i]])
    # Any token may follow a prefix, padding too: each sum must stay inside the tables.
    size = int(base.max()) + vocab_size + 1
    check, number = np.full(size, EMPTY, dtype=np.int32), np.full(size, NOT_KEPT, dtype=np.int32)
    longer = np.arange(singles, len(dictionary))
    place = base[dictionary.prefix[longer]] + dictionary.token[longer]
    check[place], number[place] = dictionary.prefix[longer], longer + 1
    return DoubleArray(single, base, check, number)


class _Places:
    """Which places are taken; grows as needed."""

    def __init__(self, size: int) -> None:
        self._taken = np.zeros(size + BLOCK, dtype=np.bool_)
        self._lowest = 0

    def take(self, tokens: NDArray[np.int32]) -> int:
        """Take places at the least offset, from 0, where all of these sorted tokens fall on free ones."""
        while self._taken[self._lowest]:
            self._lowest += 1
        start, first = max(self._lowest, int(tokens[0])), int(tokens[0])
        while True:
            self._grow(start + BLOCK + int(tokens[-1]) + 1)
            offsets = start + np.flatnonzero(~self._taken[start : start + BLOCK]) - first
            for token in tokens[1:]:
                offsets = offsets[~self._taken[offsets + token]]
            if len(offsets):
                self._taken[offsets[0] + tokens] = True
                return int(offsets[0])
            start += BLOCK

    def _grow(self, size: int) -> None:
        if size > len(self._taken):
            more = np.zeros(max(size, 2 * len(self._taken)) - len(self._taken), dtype=np.bool_)
            self._taken = np.concatenate([self._taken, more])
