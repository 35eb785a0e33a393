"""The linear baseline: learns from known cells only, and survives labels with one class."""

from __future__ import annotations

import numpy as np
import pytest

from shudun import Comment, Note
from shudun.items import Item
from shudun_training.baseline import LinearBaseline
from shudun_training.examples import NEGATIVE, POSITIVE, UNKNOWN

SPAM = [Comment(f"加我微信 demo_{i:04d} 领优惠") for i in range(12)]
CLEAN = [Comment(f"今天的晚霞真好看，走了{i}公里") for i in range(12)]
ITEMS: list[Item] = [*SPAM, *CLEAN]
TRUTH = np.repeat([POSITIVE, NEGATIVE], 12)


def scores(*columns: object, items: list[Item] = ITEMS) -> np.ndarray:
    labels = np.column_stack([np.broadcast_to(column, 24) for column in columns]).astype(np.int64)
    return LinearBaseline().fit(ITEMS, labels).predict_proba(items)


def test_it_learns_what_separates_two_kinds_of_text() -> None:
    unseen: list[Item] = [Comment("加我微信 demo_9999"), Note("领优惠", "加我微信"), Comment("晚霞好看"), Comment("")]
    found = scores(TRUTH, items=unseen)
    assert found.shape == (4, 1)
    assert found.dtype == np.float32
    assert (found[:2] > 0.6).all()
    assert (found[2] < 0.4).all()


def test_unknown_rows_teach_nothing() -> None:
    """Eleven of twelve spam rows are unknown: counted as negatives they would outvote the one that is known."""
    hidden = TRUTH.copy()
    hidden[1:12] = UNKNOWN
    negative = np.where(hidden == UNKNOWN, NEGATIVE, hidden)
    found = scores(hidden, negative, items=[Comment("加我微信 demo_9999 领优惠")])[0]
    assert found[0] > 2 * found[1]


def test_each_label_is_fitted_on_its_own() -> None:
    together = scores(TRUTH, 1 - TRUTH, np.roll(TRUTH, 6))
    for i, column in enumerate((TRUTH, 1 - TRUTH, np.roll(TRUTH, 6))):
        np.testing.assert_array_equal(together[:, i], scores(column)[:, 0])


@pytest.mark.parametrize(("value", "score"), [(NEGATIVE, 0.0), (POSITIVE, 1.0), (UNKNOWN, 0.0)])
def test_a_label_with_one_known_class_gets_its_rate(value: int, score: float) -> None:
    mixed = np.full(24, UNKNOWN)
    mixed[3] = value
    assert scores(value, mixed).tolist() == [[score, score]] * 24
