"""Masks: the right share, whole units, nothing special, and the same by the same seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from shudun_training.pretraining.batches import Batches, StepRows, masked_batches
from shudun_training.pretraining.config import MaskingConfig
from shudun_training.pretraining.masking import SPAN_SHARES, mask
from shudun_training.pretraining.packing import Packed

VOCABULARY = 500
SPECIAL = np.zeros(VOCABULARY, np.bool_)
SPECIAL[:5] = True
MASK, CLS, SEP = 4, 2, 3


def packed(text_tokens=30, rows=400, row_tokens=128, word=3):
    """Rows of texts of one length, [CLS] and [SEP] included, padded at the end; words are of one length."""
    rng = np.random.default_rng(1)
    place = np.broadcast_to(np.arange(row_tokens), (rows, row_tokens))
    piece = place // text_tokens
    real = piece < row_tokens // text_tokens
    within = place % text_tokens
    ids = rng.integers(5, VOCABULARY, (rows, row_tokens))
    ids[within == 0], ids[within == text_tokens - 1] = CLS, SEP
    ids[~real] = 0
    per_row = row_tokens // text_tokens
    numbered = np.where(real, piece + per_row * np.arange(rows)[:, None], -1)
    begins = (within - 1) % word == 0
    return Packed(ids, numbered, within.copy(), np.zeros_like(ids), begins | (within == 0) | ~real)


def draw(rows, unit="span", share=0.2, seed=0):
    rng = np.random.default_rng(seed)
    return mask(rows, unit=unit, share=share, special=SPECIAL, mask_id=MASK, rng=rng)


@pytest.mark.parametrize("unit", ["span", "token", "word"])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_the_share_is_as_asked_in_long_texts(unit, share):
    rows = packed(text_tokens=128)
    ordinary = ~SPECIAL[rows.input_ids]
    assert draw(rows, unit, share).chosen[ordinary].mean() == pytest.approx(share, rel=0.06)


@pytest.mark.parametrize(("tokens", "share"), [(4, 0.178), (8, 0.193), (16, 0.197)])
def test_spans_lose_a_little_of_their_share_in_short_texts(tokens, share):
    rows = packed(text_tokens=tokens, rows=3000)
    ordinary = ~SPECIAL[rows.input_ids] & (rows.piece >= 0)
    assert draw(rows).chosen[ordinary].mean() == pytest.approx(share, abs=0.002)


@pytest.mark.parametrize("unit", ["span", "token", "word"])
def test_special_tokens_and_padding_are_left_alone(unit):
    rows = packed()
    masked = draw(rows, unit, 0.5)
    untouched = SPECIAL[rows.input_ids]
    assert not masked.chosen[untouched].any()
    assert (masked.input_ids[untouched] == rows.input_ids[untouched]).all()
    assert (masked.input_ids == rows.input_ids)[~masked.chosen].all()


def test_of_the_chosen_most_become_mask_some_another_token_some_stay():
    rows = packed()
    masked = draw(rows, share=0.4)
    seen, true = masked.input_ids[masked.chosen], rows.input_ids[masked.chosen]
    assert (seen == MASK).mean() == pytest.approx(0.8, abs=0.01)
    assert (seen == true).mean() == pytest.approx(0.1, abs=0.01)
    assert not SPECIAL[seen[seen != MASK]].any()


def test_spans_have_their_lengths_and_never_cross_texts():
    rows = packed(text_tokens=128, rows=4000)
    # So few that two hardly ever touch.
    chosen = draw(rows, share=0.004).chosen
    edges = np.diff(chosen.astype(int), axis=1, prepend=0, append=0)
    lengths = np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
    shares = np.bincount(lengths, minlength=6)[1:5] / len(lengths)
    assert shares == pytest.approx(SPAN_SHARES, abs=0.05)
    # Texts of one token behind another: a span that crossed would cover its neighbours.
    lonely = dataclasses.replace(rows, piece=np.arange(rows.piece.size).reshape(rows.piece.shape))
    chosen = draw(lonely, share=0.004).chosen
    assert (chosen[:, 1:] & chosen[:, :-1]).sum() <= 2


def test_words_are_chosen_whole():
    rows = packed(text_tokens=32, word=3)
    chosen = draw(rows, "word", 0.3).chosen
    # Tokens 1-3, 4-6, ... of each text are words.
    words = chosen.reshape(len(chosen), -1, 32)[:, :, 1:31].reshape(-1, 10, 3)
    assert (words.all(axis=2) | ~words.any(axis=2)).all()
    assert 0.25 < words.any(axis=2).mean() < 0.35


def test_a_word_that_is_cut_by_a_row_ends_with_its_piece():
    rows = packed(text_tokens=64)
    # No border at all: each piece is one word.
    rows = dataclasses.replace(rows, begins_word=np.zeros_like(rows.begins_word))
    chosen = draw(rows, "word", 0.5).chosen.reshape(-1, 64)[:, 1:63]
    assert (chosen.all(axis=1) | ~chosen.any(axis=1)).all()
    assert 0.4 < chosen.any(axis=1).mean() < 0.6


def test_the_same_seed_draws_the_same_mask():
    rows = packed()
    assert np.array_equal(draw(rows, seed=3).chosen, draw(rows, seed=3).chosen)
    assert not np.array_equal(draw(rows, seed=3).chosen, draw(rows, seed=4).chosen)


def batches(store, vocabulary, *, parts=1, rank=0, world=1):
    rows = StepRows(store, row_tokens=32, rows_per_step=7, seed=42)
    return Batches(rows, MaskingConfig(), vocabulary, seed=42, parts=parts, rank=rank, world=world)


@pytest.mark.parametrize(("parts", "world"), [(1, 2), (3, 1), (2, 3)])
def test_parts_of_all_processes_are_the_step_of_one(store, vocabulary, parts, world):
    whole = batches(store, vocabulary)(5)
    divided = [batches(store, vocabulary, parts=parts, rank=rank, world=world)(5) for rank in range(world)]
    blocks = [part for step in divided for part in step.parts]
    assert len(blocks) == parts * world
    for name in ("input_ids", "piece", "position_ids", "token_type_ids"):
        joined = np.concatenate([getattr(block, name).numpy() for block in blocks])
        assert np.array_equal(joined, getattr(whole.parts[0], name).numpy())
    assert {block.chosen_in_step for block in blocks} == {len(whole.parts[0].target_ids)}
    assert {block.texts_in_step for block in blocks} == {len(whole.parts[0].bag_rows)}
    assert sum(len(block.target_ids) for block in blocks) == len(whole.parts[0].target_ids)
    assert sum(len(block.bag_token) for block in blocks) == len(whole.parts[0].bag_token)
    assert {step.tokens for step in divided} == {whole.tokens}


def test_batches_made_ahead_are_those_made_when_asked(store, vocabulary):
    make = batches(store, vocabulary)
    for step, ahead in zip(range(3, 7), make.ahead(3, 7), strict=True):
        assert ahead.step == step
        assert np.array_equal(ahead.parts[0].input_ids, make(step).parts[0].input_ids)
    assert list(make.ahead(7, 7)) == []


def test_bags_are_the_distinct_ordinary_tokens_of_texts_that_begin_in_the_row(store, vocabulary):
    rows = StepRows(store, row_tokens=16, rows_per_step=40, seed=1)(0)
    (batch,) = masked_batches(rows, MaskingConfig(), vocabulary, np.random.default_rng(0), range(1), 1)
    pieces = rows.piece[batch.bag_rows, batch.bag_columns]
    assert (rows.input_ids[batch.bag_rows, batch.bag_columns] == vocabulary.cls_id).all()
    # Later pieces of long texts have no [CLS], and no bag.
    assert len(pieces) < len(np.unique(rows.piece[rows.piece >= 0]))
    for number, piece in enumerate(pieces):
        ids = rows.input_ids[rows.piece == piece]
        expected = sorted({int(token) for token in ids if not vocabulary.special[token]})
        assert batch.bag_token[batch.bag_text == number].tolist() == expected
