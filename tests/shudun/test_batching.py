"""Batching: every row once, the token budget kept, the input order restored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shudun.batching import plan_batches, run_batches
from shudun.tokenization import Encoded

LENGTHS = st.lists(st.integers(0, 300), max_size=80)


def encoded(lengths):
    """Rows of the given lengths; every token of row `i` has the id `i + 1`."""
    return Encoded(
        ids=np.repeat(np.arange(1, len(lengths) + 1), lengths).astype(np.int64),
        starts=np.cumsum([0, *lengths]).astype(np.int64),
        first=np.array(lengths, dtype=np.int64),
        truncated=np.zeros(len(lengths), dtype=np.bool_),
        pad_id=0,
    )


@given(lengths=LENGTHS, budget=st.integers(1, 2000))
def test_every_row_stands_in_exactly_one_batch_within_the_budget(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    batches = plan_batches(lengths, batch_tokens=budget)
    assert sorted(np.concatenate([*batches, np.arange(0)]).tolist()) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * max(lengths[rows].max(), 1) <= budget


@given(lengths=LENGTHS, budget=st.integers(1, 2000))
def test_batches_are_full_and_hold_rows_of_similar_length(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    batches = plan_batches(lengths, batch_tokens=budget)
    in_order = np.concatenate([*(lengths[rows] for rows in batches), np.arange(0)])
    assert (np.diff(in_order) <= 0).all()
    for rows in batches[:-1]:
        assert (len(rows) + 1) * max(lengths[rows].max(), 1) > budget


@given(lengths=LENGTHS, budget=st.integers(1, 2000))
def test_outputs_come_back_in_input_order(lengths, budget):
    rows_run = []

    def run(batch):
        rows_run.append(len(batch.input_ids))
        total = batch.input_ids.sum(axis=1, keepdims=True).astype(np.float32)
        size = batch.attention_mask.sum(axis=1, keepdims=True).astype(np.float32)
        return np.concatenate([total, size], axis=1), size

    logits, embeddings = run_batches(encoded(lengths), run, widths=(2, 1), batch_tokens=budget)
    assert logits[:, 0].tolist() == [(i + 1) * length for i, length in enumerate(lengths)]
    assert logits[:, 1].tolist() == lengths
    assert embeddings[:, 0].tolist() == lengths
    assert sum(rows_run) == len(lengths)


def test_no_rows_have_the_model_s_width_and_run_nothing():
    def run(batch):
        raise AssertionError("nothing to run")

    logits, embeddings = run_batches(encoded([]), run, widths=(4, 32), batch_tokens=512)
    assert (logits.shape, embeddings.shape) == ((0, 4), (0, 32))
    assert logits.dtype == embeddings.dtype == np.float32


def test_an_error_of_the_model_is_not_swallowed():
    def run(batch):
        raise RuntimeError("model")

    with pytest.raises(RuntimeError, match="model"):
        run_batches(encoded([3, 4]), run, widths=(1, 1), batch_tokens=8)
