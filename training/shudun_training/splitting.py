"""Splits that do not leak: near-duplicates and members of one group stay together, labels stay balanced.

Near-duplicates are found by MinHash over character 3-grams of the normalised text (Broder 1997), groups are
assigned as units by iterative stratification on the labels they hold (Sechidis et al. 2011).
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from datasketch import MinHash, MinHashLSH
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from numpy.typing import NDArray

from shudun.errors import ShudunError
from shudun.normalization import normalize_text
from shudun_training.near_duplicates import (
    NEAR_DUPLICATE_JACCARD,
    PERMUTATIONS,
    NearDuplicateIndex,
    join_equal,
    stable_key,
)

SIGNATURE_CHUNK = 4096
"""Texts whose signatures are held in memory at once."""
PARTS = 20
"""Groups are dealt into this many equal parts; shares of a split are multiples of `1 / PARTS`."""


def near_duplicate_clusters(
    texts: Sequence[str], *, groups: Sequence[str | None] | None = None, threshold: float = NEAR_DUPLICATE_JACCARD
) -> NDArray[np.int64]:
    """Cluster number of each text, shape `(n,)`: near-duplicates, and members of one group, share a number.

    Args:
        texts: raw texts.
        groups: optional group name of each text; `None` entries belong to no group.
        threshold: estimated Jaccard similarity of character 3-grams from which two texts are near-duplicates.
    """
    with NearDuplicateIndex(threshold=threshold) as index:
        for start in range(0, len(texts), SIGNATURE_CHUNK):
            index.add(signatures(texts[start : start + SIGNATURE_CHUNK]))
        clusters = index.clusters()
    if groups is None:
        return clusters
    keys = np.array([0 if group is None else stable_key(group) for group in groups], dtype=np.uint64)
    return join_equal(clusters, keys)


def signatures(texts: Sequence[str]) -> NDArray[np.uint32]:
    """MinHash signatures of texts, uint32 `(n, PERMUTATIONS)`: equal values estimate the Jaccard similarity."""
    rows = [minhash.hashvalues.astype(np.uint32) for minhash in _hashes(texts)]
    return np.array(rows, dtype=np.uint32).reshape(-1, PERMUTATIONS)


def text_key(text: str) -> int:
    """A 64-bit hash of the text as near-duplicate search sees it: equal for texts that differ in nothing it counts."""
    return int.from_bytes(hashlib.blake2b(b"\0".join(_shingles(text)), digest_size=8).digest()) or 1


def near_duplicates_of(
    texts: Sequence[str], reference: Sequence[str], *, threshold: float = NEAR_DUPLICATE_JACCARD
) -> NDArray[np.bool_]:
    """Which texts have a near-duplicate among `reference`, shape `(len(texts),)`; see `near_duplicate_clusters`."""
    lsh = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
    known = _hashes(reference)
    for i, minhash in enumerate(known):
        lsh.insert(i, minhash)
    return np.array(
        [any(known[j].jaccard(minhash) >= threshold for j in lsh.query(minhash)) for minhash in _hashes(texts)],
        dtype=np.bool_,
    )


def grouped_split(
    labels: NDArray[np.int64], clusters: NDArray[np.int64], shares: Mapping[str, float], *, seed: int
) -> NDArray[np.str_]:
    """Split name of each row, shape `(n,)`; all rows of a cluster get the same name.

    Args:
        labels: `(n, num_labels)`, 1 where positive; other values count as not positive.
        clusters: cluster number of each row, shape `(n,)`.
        shares: split name → share of the rows, multiples of `1 / PARTS` that sum to 1.
        seed: the same seed gives the same split.

    Raises:
        ShudunError: shares that do not fit, or fewer clusters than `PARTS`.
    """
    counts = {name: share * PARTS for name, share in shares.items()}
    if any(abs(count - round(count)) > 1e-9 for count in counts.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise ShudunError(f"split shares must be multiples of {1 / PARTS:g} and sum to 1, got {dict(shares)}")
    ids, unit_of_row = np.unique(clusters, return_inverse=True)
    if len(ids) < PARTS:
        raise ShudunError(f"a grouped split needs at least {PARTS} groups of rows, got {len(ids)}")
    presence = np.zeros((len(ids), labels.shape[1] + 1), dtype=np.int64)
    positive = labels == 1
    np.maximum.at(presence, unit_of_row, np.column_stack([positive, ~positive.any(axis=1)]).astype(np.int64))
    folds = MultilabelStratifiedKFold(n_splits=PARTS, shuffle=True, random_state=seed)
    names = np.repeat(list(counts), [round(count) for count in counts.values()])
    split_of_unit = np.empty(len(ids), dtype=names.dtype)
    for name, (_, held_out) in zip(names, folds.split(presence, presence), strict=True):
        split_of_unit[held_out] = name
    return split_of_unit[unit_of_row]


def _hashes(texts: Sequence[str]) -> list[MinHash]:
    return list(MinHash.generator([_shingles(text) for text in texts], num_perm=PERMUTATIONS, seed=1))


def _shingles(text: str) -> list[bytes]:
    # The normaliser leaves Chinese punctuation alone; here its width is no difference either.
    plain = "".join(unicodedata.normalize("NFKC", normalize_text(text)).casefold().split())
    return [plain[i : i + 3].encode("utf-8", "surrogatepass") for i in range(max(len(plain) - 2, 1))]
