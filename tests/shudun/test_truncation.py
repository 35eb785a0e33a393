"""Windows and cuts: every token in some row, rows within the budget, context repeated, the flag true."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shudun.truncation import CONTEXT_SHARE, OVERLAP_SHARE, cut

COUNTS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60)), min_size=1, max_size=12)


def cuts_of(counts, budget, max_windows):
    judged, context = np.array(counts, dtype=np.int64).T
    return judged, context, cut(judged, context, np.full(len(judged), budget, dtype=np.int64), max_windows=max_windows)


@given(counts=COUNTS, budget=st.integers(5, 90), max_windows=st.integers(1, 9))
def test_rows_keep_the_budget_and_the_flag_says_whether_a_token_is_in_no_row(counts, budget, max_windows):
    judged, context, cuts = cuts_of(counts, budget, max_windows)
    assert (cuts.judged + cuts.context <= budget).all()
    assert cuts.windows.tolist() == np.bincount(cuts.owner, minlength=len(counts)).tolist()
    assert (cuts.windows >= 1).all()
    assert (cuts.windows <= max_windows).all()
    for item in range(len(counts)):
        rows = np.flatnonzero(cuts.owner == item)
        assert rows.tolist() == list(range(rows[0], rows[0] + len(rows)))
        seen = {t for row in rows for t in range(cuts.offset[row], cuts.offset[row] + cuts.judged[row])}
        assert seen <= set(range(judged[item]))
        whole = seen == set(range(judged[item])) and (cuts.context[rows] == context[item]).all()
        assert bool(cuts.truncated[item]) is not whole


@given(counts=COUNTS, budget=st.integers(5, 90))
def test_with_room_for_all_windows_only_the_context_can_be_cut(counts, budget):
    judged, context, cuts = cuts_of(counts, budget, 1000)
    assert (cuts.truncated == (cuts.context[np.searchsorted(cuts.owner, np.arange(len(judged)))] < context)).all()


def test_windows_overlap_by_a_quarter_and_the_last_one_is_full():
    _, _, cuts = cuts_of([(100, 10)], 50, 99)
    room = 50 - 10
    assert (cuts.context == 10).all()
    assert (cuts.judged == room).all()
    step = room - room // OVERLAP_SHARE
    assert cuts.offset.tolist() == [0, step, 100 - room]
    assert 50 // CONTEXT_SHARE >= 10


def test_a_text_that_fits_takes_one_row_whatever_is_allowed():
    _, _, cuts = cuts_of([(30, 20), (50, 0), (0, 0)], 50, 9)
    assert cuts.windows.tolist() == [1, 1, 1]
    assert not cuts.truncated.any()


def test_no_items_make_no_rows():
    none = np.zeros(0, dtype=np.int64)
    assert [len(array) for array in cut(none, none, none, max_windows=3)] == [0] * 6
