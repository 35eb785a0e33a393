"""The near-duplicate index finds what datasketch's own index finds, whatever the order and the chunks."""

from __future__ import annotations

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from shudun_training.near_duplicates import (
    NEAR_DUPLICATE_JACCARD,
    PERMUTATIONS,
    NearDuplicateIndex,
    by_first_appearance,
    join_equal,
    stable_key,
)
from shudun_training.splitting import near_duplicate_clusters, signatures, text_key


def families(seed: int, count: int = 60) -> list[str]:
    """Random texts and edits of them, from light to heavy, so that many pairs lie close to the threshold."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        chars = [chr(code) for code in rng.integers(0x4E00, 0x9FA5, rng.integers(3, 60))]
        texts.append("".join(chars))
        for _ in range(rng.integers(0, 4)):
            for place in rng.integers(0, len(chars), rng.integers(1, 5)):
                chars[place] = chr(rng.integers(0x4E00, 0x9FA5))
            texts.append("".join(chars))
    return [texts[i] for i in rng.permutation(len(texts))]


def oracle(texts: list[str]) -> NDArray[np.int64]:
    """The same clusters from datasketch's index, which holds everything in memory."""
    lsh = MinHashLSH(threshold=NEAR_DUPLICATE_JACCARD, num_perm=PERMUTATIONS)
    hashes = [MinHash(hashvalues=row, scheme="affine32") for row in signatures(texts)]
    pairs = []
    for i, minhash in enumerate(hashes):
        pairs += [(i, j) for j in lsh.query(minhash) if hashes[j].jaccard(minhash) >= NEAR_DUPLICATE_JACCARD]
        lsh.insert(i, minhash)
    left, right = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    edges = coo_matrix((np.ones(len(left)), (left, right)), shape=(len(texts), len(texts)))
    return by_first_appearance(connected_components(edges, directed=False)[1])


@pytest.mark.parametrize("seed", range(5))
def test_the_clusters_are_those_of_datasketch(seed: int) -> None:
    texts = families(seed)
    expected = oracle(texts)
    assert 0 < len(np.unique(expected)) < len(texts)
    np.testing.assert_array_equal(near_duplicate_clusters(texts), expected)


def test_chunks_of_adding_do_not_matter() -> None:
    texts = families(9)
    with NearDuplicateIndex() as index:
        for start in range(0, len(texts), 7):
            index.add(signatures(texts[start : start + 7]))
        clusters = index.clusters()
        np.testing.assert_array_equal(index.clusters(), clusters)
    np.testing.assert_array_equal(clusters, near_duplicate_clusters(texts))


def test_one_large_family_and_many_copies_are_one_cluster_each() -> None:
    base = "".join(map(chr, range(0x4E00, 0x4E00 + 80)))
    edited = [base[:place] + "啊" + base[place + 1 :] for place in range(80)]
    clusters = near_duplicate_clusters([*edited, *["求链接求链接"] * 500])
    assert len(set(clusters[:80].tolist())) == 1
    assert clusters[80:].tolist() == [clusters[80]] * 500
    assert clusters[80] != clusters[0]


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, PERMUTATIONS)), np.zeros((2, 3), dtype=np.uint32), np.zeros(PERMUTATIONS, dtype=np.uint32)]
)
def test_other_arrays_are_refused(wrong: NDArray[np.uint32]) -> None:
    with NearDuplicateIndex() as index, pytest.raises(ValueError, match=r"expected uint32 \(n, 128\)"):
        index.add(wrong)


@settings(max_examples=50)
@given(labels=st.lists(st.integers(0, 9), min_size=1), data=st.data())
def test_joining_by_key_keeps_clusters_and_unites_equal_keys(labels: list[int], data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.integers(0, 5), min_size=len(labels), max_size=len(labels)))
    numbers = np.array(labels)
    joined = join_equal(numbers, np.array(keys, dtype=np.uint64))
    for i in range(len(labels)):
        for j in range(i):
            if labels[i] == labels[j] or (keys[i] == keys[j] != 0):
                assert joined[i] == joined[j]
    assert joined[0] == 0
    assert (np.diff(np.unique(joined)) == 1).all()
    if not any(keys):
        np.testing.assert_array_equal(joined, by_first_appearance(numbers))


def test_keys_tell_texts_apart_and_ignore_what_the_search_ignores() -> None:
    assert text_key("加 我 ＶＸ") == text_key("加我vx") != text_key("加我vy")
    keys = [stable_key(text) for text in ("", "a", "b", "\ud800", "a\0")]
    assert len({*keys, 0}) == 6
