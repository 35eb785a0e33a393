"""From texts to rows: nothing is lost, nothing is mixed, and the same run sees the same rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shudun import Comment, Note
from shudun.errors import ShudunError
from shudun_training.pretraining.batches import StepRows
from shudun_training.pretraining.packing import packed_rows, plan_epoch
from shudun_training.pretraining.token_store import META, StoreWriter, TokenStore, read_store

LENGTHS = st.lists(st.integers(2, 70), min_size=1, max_size=60)


def numbered(lengths):
    """A store whose every token is unique, so that it can be followed."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    first = np.minimum(np.asarray(lengths), 5).astype(np.int32)
    return TokenStore(np.arange(1, starts[-1] + 1, dtype=np.uint32), starts, first)


@given(LENGTHS, st.integers(8, 32), st.integers(0, 3))
def test_every_token_of_every_text_stands_once_in_an_epoch(lengths, row_tokens, epoch):
    store = numbered(lengths)
    plan = plan_epoch(store.lengths, row_tokens, seed=1, epoch=epoch)
    packed = packed_rows(store, plan, 0, plan.rows, row_tokens)
    real = packed.piece >= 0
    assert sorted(packed.input_ids[real]) == list(range(1, sum(lengths) + 1))
    assert not packed.input_ids[~real].any()


@given(LENGTHS, st.integers(8, 32))
def test_a_piece_is_a_run_of_one_text_with_its_own_positions_and_segments(lengths, row_tokens):
    store = numbered(lengths)
    plan = plan_epoch(store.lengths, row_tokens, seed=1, epoch=0)
    packed = packed_rows(store, plan, 0, plan.rows, row_tokens)
    for piece in range(packed.piece.max() + 1):
        row, column = np.nonzero(packed.piece == piece)
        assert len(set(row)) == 1
        ids = packed.input_ids[row, column]
        text = np.searchsorted(store.starts, ids - 1, side="right") - 1
        assert len(set(text)) == 1
        position = ids - 1 - store.starts[text]
        assert (packed.position_ids[row, column] == position).all()
        assert (packed.token_type_ids[row, column] == (position >= store.first[text])).all()
        assert (np.diff(column) == 1).all()
        assert position[0] % row_tokens == 0


def test_rows_are_nearly_full():
    store = numbered(np.random.default_rng(0).integers(4, 60, 3000))
    plan = plan_epoch(store.lengths, 128, seed=0, epoch=0)
    assert store.starts[-1] / (plan.rows * 128) > 0.98


def test_the_order_depends_on_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).integers(4, 60, 300)

    def order(seed, epoch):
        return plan_epoch(lengths, 64, seed=seed, epoch=epoch).text.tolist()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3) != order(2, 3)


def test_steps_take_the_rows_of_an_epoch_in_turn_and_then_those_of_the_next():
    store = numbered(np.random.default_rng(0).integers(4, 30, 200))
    rows = StepRows(store, row_tokens=32, rows_per_step=4, seed=5)
    per_epoch = rows.steps_per_epoch
    seen = np.concatenate([rows(step).input_ids.ravel() for step in range(per_epoch)])
    seen = seen[seen > 0]
    assert len(set(seen)) == len(seen)
    assert len(seen) > 0.9 * store.starts[-1]
    again = rows(per_epoch)
    assert not np.array_equal(again.input_ids, rows(0).input_ids)
    # In any order: a resumed run asks for a step in the middle of an epoch.
    fresh = StepRows(store, row_tokens=32, rows_per_step=4, seed=5)
    assert np.array_equal(fresh(per_epoch).input_ids, again.input_ids)


def test_texts_that_do_not_fill_a_step_are_refused():
    with pytest.raises(ShudunError, match=r"fill 1 rows of 32 tokens, a step takes 8: lower training\.rows_per_step"):
        StepRows(numbered([10, 10]), row_tokens=32, rows_per_step=8, seed=0)


def test_a_store_gives_back_the_tokens_of_the_tokenizer(corpus, store, tokenizer):
    encoded = tokenizer.encode(corpus)
    assert np.array_equal(store.ids, encoded.ids)
    assert np.array_equal(store.starts, encoded.starts)
    assert np.array_equal(store.first, encoded.first)
    assert store.ids.dtype == np.uint16


def test_rows_may_be_repeated_or_left_out(tmp_path, tokenizer):
    encoded = tokenizer.encode([Comment("好吃"), Note("晚霞", "路上看到")])
    with StoreWriter(tmp_path, "x", vocab_size=70_000, words=True) as writer:
        writer.add(encoded, np.array([1, 1]), np.arange(len(encoded.ids)) % 2 == 0)
    store = read_store(tmp_path, "x")
    assert store is not None
    second = encoded.ids[encoded.starts[1] :]
    assert store.ids.dtype == np.uint32
    assert store.ids.tolist() == [*second, *second]
    assert store.begins_word is not None
    begins = (np.arange(len(encoded.ids)) % 2 == 0)[encoded.starts[1] :]
    assert store.begins_word.tolist() == [*begins, *begins]


def test_a_store_of_other_texts_or_one_that_was_cut_off_is_none(tmp_path, tokenizer):
    encoded = tokenizer.encode([Comment("好吃")])
    with StoreWriter(tmp_path, "x", vocab_size=100, words=False) as writer:
        writer.add(encoded, np.array([0]))
    assert read_store(tmp_path, "x") is not None
    assert read_store(tmp_path, "y") is None
    with pytest.raises(RuntimeError), StoreWriter(tmp_path, "x", vocab_size=100, words=False) as writer:
        raise RuntimeError("cut off")
    assert read_store(tmp_path, "x") is None


@pytest.mark.parametrize("name", ["ids.bin", "starts.npy", "first.npy"])
def test_a_damaged_store_is_refused(tmp_path: Path, tokenizer, name):
    encoded = tokenizer.encode([Comment("好吃")] * 9)
    with StoreWriter(tmp_path, "x", vocab_size=100, words=False) as writer:
        writer.add(encoded, np.arange(9))
    assert (tmp_path / META).exists()
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-2])
    with pytest.raises(ShudunError, match=r"damaged.*remove it"):
        read_store(tmp_path, "x")


def test_word_borders_are_for_all_texts_or_none(tmp_path, tokenizer):
    encoded = tokenizer.encode([Comment("好吃")])
    with (
        StoreWriter(tmp_path, "x", vocab_size=100, words=True) as writer,
        pytest.raises(ValueError, match="for all texts of a store or for none"),
    ):
        writer.add(encoded, np.array([0]))
