"""One output for each item, however many windows it had; nothing non-finite is hidden."""

from __future__ import annotations

import numpy as np
import pytest

from shudun import Comment, Note, Scorer
from shudun.pooling import pool_windows
from shudun.tokenization import Encoded


def encoded(windows):
    rows = sum(windows)
    return Encoded(
        ids=np.arange(rows),
        starts=np.arange(rows + 1),
        first=np.ones(rows, dtype=np.int64),
        truncated=np.zeros(rows, dtype=bool),
        windows=np.array(windows, dtype=np.int64),
        pad_id=0,
        max_length=8,
    )


def test_the_largest_logit_and_the_mean_embedding():
    logits = np.array([[1, -5], [3, -9], [2, -7], [0, 4]], dtype=np.float32)
    embeddings = np.array([[0.0], [1.0], [5.0], [7.0]], dtype=np.float32)
    pooled, means = pool_windows(encoded([3, 1]), (logits, embeddings))
    assert pooled.tolist() == [[3, -5], [0, 4]]
    assert means.tolist() == [[2.0], [7.0]]
    assert pooled.dtype == means.dtype == np.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_window_is_not_hidden_by_another(bad):
    logits = np.array([[1, 2], [bad, 2], [0, 0]], dtype=np.float32)
    pooled, _ = pool_windows(encoded([2, 1]), (logits, logits))
    assert np.isnan(pooled[0, 0])
    assert pooled[1].tolist() == [0, 0]


def test_the_end_of_a_long_note_is_seen_with_windows_alone(bundle):
    harmless, end = "今天天气很好我们去公园散步" * 12, "加微信demo_0000领资料"
    note = Note("周末", harmless + end)
    cut, spread = (Scorer.from_bundle(bundle, "cpu", max_windows=n) for n in (1, 50))
    assert [cut.score([note])[0].truncated, spread.score([note])[0].truncated] == [True, False]
    assert (spread.run([note]).logits >= cut.run([note]).logits).all()
    assert spread.count_tokens([note])[0] > cut.count_tokens([note])[0]
    assert (cut.run([note]).logits == cut.run([Note("周末", harmless)]).logits).all()
    assert (spread.run([note]).embeddings != spread.run([Note("周末", harmless)]).embeddings).any()


def test_windows_change_nothing_for_what_fits_and_neighbours_change_nothing(bundle):
    short, long = [Comment("求链接"), Note("标题", "正文")], Comment("私我领优惠" * 40)
    cut, spread = (Scorer.from_bundle(bundle, "cpu", max_windows=n) for n in (1, 6))
    expected = cut.run(short).logits
    assert (spread.run(short).logits == expected).all()
    mixed = spread.run([short[0], long, short[1], long]).logits
    assert (mixed[[0, 2]] == expected).all()
    assert (mixed[1] == mixed[3]).all()
    assert (mixed[1] == spread.run([long]).logits[0]).all()


def test_at_least_one_window(bundle):
    with pytest.raises(ValueError, match="max_windows"):
        Scorer.from_bundle(bundle, "cpu", max_windows=0)
