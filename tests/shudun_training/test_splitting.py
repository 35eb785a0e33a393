"""Splits: near-duplicates and groups stay together, shares and labels are kept, seeds repeat."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shudun import ShudunError
from shudun_training.splitting import grouped_split, near_duplicate_clusters, near_duplicates_of

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
BASE = "姐妹们这家店真的绝了，老板人特别好，牛肉面分量足，排队二十分钟也值得，下次还来"


def partition(clusters: Sequence[int] | NDArray[np.int64]) -> set[frozenset[int]]:
    numbers = np.asarray(clusters)
    return {frozenset(np.flatnonzero(numbers == number).tolist()) for number in numbers}


def texts(rows: int, seed: int = 0) -> list[str]:
    """Unrelated texts: random characters hardly share a 3-gram."""
    rng = np.random.default_rng(seed)
    return ["".join(map(chr, rng.integers(0x4E00, 0x9FA5, rng.integers(12, 40)))) for _ in range(rows)]


@pytest.mark.parametrize(
    "variant",
    [
        BASE,
        BASE + "！",
        BASE.replace("，", "", 1),
        BASE.replace("二十", "30"),
        "　".join(BASE),
        BASE + " 😀",
    ],
    ids=["copy", "more", "punctuation", "number", "spaced", "emoji"],
)
def test_near_duplicates_share_a_cluster(variant: str) -> None:
    assert partition(near_duplicate_clusters([BASE, "完全不同的一句话，讲的是猫", variant])) == {
        frozenset({0, 2}),
        frozenset({1}),
    }


def test_width_and_case_do_not_matter() -> None:
    found = near_duplicate_clusters(["ＡＢＣ １２３ 加我微信", "abc 123 加我微信"])
    assert found[0] == found[1]


def test_different_texts_stay_apart() -> None:
    assert len(set(near_duplicate_clusters(texts(200)).tolist())) == 200


def test_short_and_empty_texts_are_compared_too() -> None:
    found = near_duplicate_clusters(["", "  ", "求", "求", "蹲", "\ud800"])
    assert partition(found) == {frozenset({0, 1}), frozenset({2, 3}), frozenset({4}), frozenset({5})}


def test_groups_and_near_duplicates_join_transitively() -> None:
    rows = [BASE, BASE + "！", *texts(4)]
    groups = [None, "g", "g", None, "h", "h"]
    assert partition(near_duplicate_clusters(rows, groups=groups)) == {
        frozenset({0, 1, 2}),
        frozenset({3}),
        frozenset({4, 5}),
    }


def test_the_order_of_rows_does_not_change_the_clusters() -> None:
    rows = [variant for text in texts(30) for variant in (text, text + "。")]
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = near_duplicate_clusters([rows[i] for i in order])
    back = np.empty(len(rows), dtype=np.int64)
    back[order] = shuffled
    assert partition(back) == partition(near_duplicate_clusters(rows))
    assert len(partition(back)) == 30


def test_no_rows_have_no_clusters() -> None:
    assert near_duplicate_clusters([]).tolist() == []


def _labels(rows: int, seed: int = 0) -> NDArray[np.int64]:
    return (np.random.default_rng(seed).random((rows, 3)) < [0.5, 0.2, 0.1]).astype(np.int64)


@settings(max_examples=30)
@given(
    clusters=st.lists(st.integers(0, 60), min_size=80, max_size=200).filter(lambda x: len(set(x)) >= 20),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_cluster_is_never_parted(clusters: list[int], seed: int) -> None:
    numbers = np.array(clusters)
    split = grouped_split(_labels(len(numbers)), numbers, SHARES, seed=seed)
    assert len(split) == len(numbers)
    assert set(split.tolist()) <= set(SHARES)
    for number in set(clusters):
        assert len(set(split[numbers == number].tolist())) == 1


@pytest.mark.parametrize("seed", range(3))
def test_shares_and_labels_are_about_right_in_each_split(seed: int) -> None:
    labels = _labels(1000, seed)
    split = grouped_split(labels, np.arange(1000) // 2, SHARES, seed=seed)
    for name, share in SHARES.items():
        rows = split == name
        assert rows.mean() == pytest.approx(share, abs=0.03)
        np.testing.assert_allclose(labels[rows].mean(axis=0), labels.mean(axis=0), atol=0.08)


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    labels, clusters = _labels(200), np.arange(200)
    first, again, other = (grouped_split(labels, clusters, SHARES, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_unknown_labels_do_not_count_as_positives() -> None:
    labels, clusters = _labels(200), np.arange(200)
    masked = np.where(labels == 0, -100, labels)
    first, second = (grouped_split(matrix, clusters, SHARES, seed=0) for matrix in (labels, masked))
    assert (first == second).all()


def test_no_text_of_one_split_has_a_near_duplicate_in_another() -> None:
    """Copies, light edits and chains of edits of 60 texts: 3-gram overlap across splits stays below the limit."""
    rows = []
    for text in texts(60):
        edited = text + "，真的"
        rows += [text, text, edited, edited + "！"]
    order = np.random.default_rng(1).permutation(len(rows))
    rows = [rows[i] for i in order]
    clusters = near_duplicate_clusters(rows)
    split = grouped_split(np.ones((len(rows), 1), dtype=np.int64), clusters, SHARES, seed=3)
    assert set(split.tolist()) == set(SHARES)
    grams = [{text[i : i + 3] for i in range(len(text) - 2)} for text in rows]
    for i, j in combinations(range(len(rows)), 2):
        if split[i] != split[j]:
            assert len(grams[i] & grams[j]) / len(grams[i] | grams[j]) < 0.5


@pytest.mark.parametrize(
    "shares", [{"train": 0.5}, {"train": 0.71, "test": 0.29}, {"train": 0.9, "test": 0.2}], ids=str
)
def test_shares_that_do_not_fit_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ShudunError, match=r"multiples of 0\.05 and sum to 1"):
        grouped_split(_labels(100), np.arange(100), shares, seed=0)


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(ShudunError, match="at least 20 groups of rows, got 5"):
        grouped_split(_labels(100), np.arange(100) % 5, SHARES, seed=0)


def test_near_duplicates_of_other_texts_are_found_one_by_one() -> None:
    reference = [BASE, *texts(50)]
    found = near_duplicates_of([BASE + "！", "完全不同的一句话，讲的是猫", reference[7], *texts(30, seed=1)], reference)
    assert found.tolist() == [True, False, True, *[False] * 30]
    assert near_duplicates_of([], reference).shape == (0,)
    assert near_duplicates_of([BASE], []).tolist() == [False]


def test_texts_that_are_merely_alike_are_no_near_duplicates() -> None:
    # About six tenths of the 3-grams shared: the index proposes some of these, none is above the threshold.
    alike = [BASE[:29] + text[:8] for text in texts(150, seed=2)]
    assert not near_duplicates_of(alike, [BASE]).any()
    assert near_duplicates_of(alike, [BASE], threshold=0.3).all()
