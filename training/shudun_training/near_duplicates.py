"""Which of many texts are near-duplicates, from their MinHash signatures alone, in bounded memory.

Signatures and band keys lie in temporary files; one band at a time is sorted, and only texts that share a band
are compared (locality-sensitive hashing: Indyk and Motwani 1998; banding as in Leskovec et al., ch. 3). The index
knows nothing of texts, labels or splits. On disk: about 640 bytes a text; in memory: about 100 bytes a text while
`clusters` runs, and 1 KiB for each distinct text of the largest family that shares a band.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack
from typing import IO

import numpy as np
from datasketch import MinHashLSH
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

NEAR_DUPLICATE_JACCARD = 0.7
PERMUTATIONS = 128

FNV_PRIME = np.uint64(0x100000001B3)
"""Multiplier of the FNV-1a hash, which joins the values of a band to one key."""


class NearDuplicateIndex:
    """Collects signatures, then clusters them; use it as a context manager."""

    def __init__(self, *, threshold: float = NEAR_DUPLICATE_JACCARD, permutations: int = PERMUTATIONS) -> None:
        """`threshold`: share of equal signature values from which two texts are near-duplicates, 0 to 1."""
        lsh = MinHashLSH(threshold=threshold, num_perm=permutations)
        self._bands, self._values = lsh.b, lsh.r
        self._threshold = threshold
        self._permutations = permutations
        self._count = 0

    def __enter__(self) -> NearDuplicateIndex:
        self._stack = ExitStack()
        self._signatures, self._digests, *self._keys = [
            self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  the stack closes it
            for _ in range(self._bands + 2)
        ]
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def add(self, signatures: NDArray[np.uint32]) -> None:
        """Append texts by their signatures, uint32 `(n, permutations)`."""
        if signatures.dtype != np.uint32 or signatures.shape[1:] != (self._permutations,):
            raise ValueError(
                f"signatures: expected uint32 (n, {self._permutations}), got {signatures.dtype} {signatures.shape}"
            )
        self._signatures.write(signatures.tobytes())
        self._digests.write(b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in signatures))
        used = signatures[:, : self._bands * self._values].reshape(-1, self._bands, self._values)
        keys = np.zeros(used.shape[:2], dtype=np.uint64)
        for value in range(self._values):
            keys = (keys ^ used[:, :, value]) * FNV_PRIME
        for file, column in zip(self._keys, keys.T, strict=True):
            file.write(np.ascontiguousarray(column).tobytes())
        self._count += len(signatures)

    def clusters(self) -> NDArray[np.int64]:
        """Cluster number of each text in the order of adding, shape `(n,)`; numbers rise by first appearance."""
        if not self._count:
            return np.empty(0, dtype=np.int64)
        _, first, copies = np.unique(_column(self._digests), return_index=True, return_inverse=True)
        labels = np.arange(len(first), dtype=np.int64)
        for file in self._keys:
            labels = self._joined(_column(file)[first], labels, first)
        return by_first_appearance(labels[copies])

    def _joined(
        self, keys: NDArray[np.uint64], labels: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Labels after joining the texts that one band brings together and their signatures confirm."""
        order = np.lexsort((labels, keys))
        starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]))
        ends = np.append(starts[1:], len(order))
        # Within a run labels rise: where the first equals the last, everything is joined already.
        open_runs = labels[order[starts]] != labels[order[ends - 1]]
        links = [np.empty((0, 2), dtype=np.int64)]
        for start, end in zip(starts[open_runs].tolist(), ends[open_runs].tolist(), strict=True):
            members = order[start:end]
            links.append(members[self._links(self._read(rows[members]))])
        left, right = labels[np.concatenate(links)].T
        return join(labels, left, right)

    def _links(self, signatures: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Links `(m, 2)` that hold together what belongs together among the members of one run."""
        links = []
        remaining = np.arange(len(signatures))
        frontier: list[int] = []
        while remaining.size:
            if not frontier:
                frontier, remaining = [int(remaining[0])], remaining[1:]
            here = frontier.pop()
            alike = (signatures[remaining] == signatures[here]).mean(axis=1) >= self._threshold
            links += [(here, int(there)) for there in remaining[alike]]
            frontier += remaining[alike].tolist()
            remaining = remaining[~alike]
        return np.array(links, dtype=np.int64).reshape(-1, 2)

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        size = 4 * self._permutations
        data = bytearray()
        for row in rows.tolist():
            self._signatures.seek(row * size)
            data += self._signatures.read(size)
        return np.frombuffer(data, dtype=np.uint32).reshape(-1, self._permutations)


def join(labels: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cluster numbers after uniting cluster `left[i]` with `right[i]`; numbers stay below `len(labels)`."""
    size = int(labels.max(initial=-1)) + 1
    if not left.size:
        return labels
    edges = coo_matrix((np.ones(len(left), dtype=np.int8), (left, right)), shape=(size, size))
    return np.asarray(connected_components(edges, directed=False)[1], dtype=np.int64)[labels]


def join_equal(labels: NDArray[np.int64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Cluster numbers after uniting rows of equal non-zero `keys` `(n,)`, by first appearance; 0 stands for none."""
    rows = np.flatnonzero(keys)
    _, first, copies = np.unique(keys[rows], return_index=True, return_inverse=True)
    return by_first_appearance(join(labels, labels[rows], labels[rows[first[copies]]]))


def by_first_appearance(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same clusters, numbered 0, 1, ... in the order in which they first appear."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def stable_key(text: str) -> int:
    """A 64-bit hash of a text, the same on every machine and never 0."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) or 1


def _column(file: IO[bytes]) -> NDArray[np.uint64]:
    file.seek(0)
    return np.fromfile(file, dtype=np.uint64)
