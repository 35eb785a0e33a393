"""Which token n-grams are kept, and where they stand in encoded texts.

N-grams run over all tokens of a row, special tokens and segment borders included, as the graph sees them. Knows nothing
of labels or weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from shudun.tokenization import Encoded

NOT_KEPT = 0
"""Number of an n-gram that is not in the dictionary; those in it count from 1."""


@dataclass(frozen=True, slots=True)
class NgramDictionary:
    """Kept n-grams as a trie: n-gram `i + 1` is the n-gram numbered `prefix[i]`, followed by `token[i]`.

    `prefix`, `token`: int32 `(ngrams,)`; single tokens have prefix `NOT_KEPT`. `sizes`: number of n-grams of each
    order, from 1; shorter ones come first, and within an order they are sorted by prefix and token.
    """

    prefix: NDArray[np.int32]
    token: NDArray[np.int32]
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.token)

    @property
    def ends(self) -> list[int]:
        """Number of the last n-gram of each order."""
        return [int(end) for end in np.cumsum(self.sizes)]

    def find(self, encoded: Encoded) -> list[NDArray[np.int64]]:
        """For each order the number of the n-gram that begins at each token `(tokens,)`; it ends in the same row."""
        keys = _keys(self.prefix, self.token)
        found: list[NDArray[np.int64]] = []
        for size, end, walk in zip(self.sizes, self.ends, _walk(encoded, found), strict=False):
            found.append(_numbers(walk, keys[end - size : end], first=end - size + 1))
        return found

    def counts(self, encoded: Encoded) -> csr_matrix:
        """How often each n-gram stands in each row, `(rows, ngrams)`."""
        numbers, owner = self.find(encoded), _owners(encoded)
        hits = [np.flatnonzero(order) for order in numbers]
        columns = np.concatenate([order[hit] for order, hit in zip(numbers, hits, strict=True)]) - 1
        rows = owner[np.concatenate(hits)]
        shape = (len(encoded.lengths), len(self))
        return csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)


def build_dictionary(encoded: Encoded, *, max_order: int, min_df: int) -> tuple[NgramDictionary, NDArray[np.int64]]:
    """Keep the n-grams of 1 to `max_order` tokens that stand in at least `min_df` rows.

    Returns:
        The dictionary, and in how many rows each n-gram stands, `(ngrams,)`.
    """
    kept: list[NDArray[np.int64]] = []
    frequencies: list[NDArray[np.int64]] = []
    found: list[NDArray[np.int64]] = []
    owner = _owners(encoded)
    # An n-gram is nowhere but where its prefix is: what is dropped here has no kept continuation.
    for _, walk in zip(range(max_order), _walk(encoded, found), strict=False):
        keys, rows = np.unique(walk[walk >= 0], return_inverse=True)
        pairs = np.unique(owner[walk >= 0] * len(keys) + rows)
        frequency = np.bincount(pairs % max(len(keys), 1), minlength=len(keys))
        first = sum(map(len, kept)) + 1
        kept.append(keys[frequency >= min_df])
        frequencies.append(frequency[frequency >= min_df])
        found.append(_numbers(walk, kept[-1], first=first))
    every = np.concatenate(kept)
    dictionary = NgramDictionary(
        prefix=(every >> TOKEN_BITS).astype(np.int32),
        token=(every & ((1 << TOKEN_BITS) - 1)).astype(np.int32),
        sizes=tuple(map(len, kept)),
    )
    return dictionary, np.concatenate(frequencies)


TOKEN_BITS = 32
"""A key is the prefix's number, shifted by this many bits, and the token."""


def _keys(prefix: NDArray[np.int32], token: NDArray[np.int32]) -> NDArray[np.int64]:
    return (prefix.astype(np.int64) << TOKEN_BITS) | token


def _owners(encoded: Encoded) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(encoded.lengths)), encoded.lengths)


def _walk(encoded: Encoded, found: list[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
    """For each order the key of the n-gram at each token, -1 where its prefix is not kept or its row ends.

    `found` must hold the numbers of the shorter orders by the time that the next one is asked for.
    """
    yield encoded.ids
    places = np.arange(len(encoded.ids))
    left = encoded.starts[1:][_owners(encoded)] - places
    while True:
        order = len(found) + 1
        # Where the row is too short the n-gram's last token is some other row's: it is looked up and not used.
        last = encoded.ids[np.minimum(places + order - 1, len(places) - 1)]
        usable = (found[-1] != NOT_KEPT) & (left >= order)
        yield np.where(usable, (found[-1] << TOKEN_BITS) | last, -1)


def _numbers(walk: NDArray[np.int64], keys: NDArray[np.int64], *, first: int) -> NDArray[np.int64]:
    """Numbers of the n-grams with these keys; `keys` are sorted, the first of them has number `first`."""
    if not len(keys):
        return np.zeros_like(walk)
    place = np.minimum(np.searchsorted(keys, walk), len(keys) - 1)
    return np.where(keys[place] == walk, place + first, NOT_KEPT)
