"""Which positions a masked language model must guess, and what it sees there.

Single tokens, whole words (Cui et al. 2019, arXiv:1906.08101), or spans of one to four tokens (SpanBERT, Joshi et
al. 2020, arXiv:1907.10529; lengths as in MacBERT, Cui et al. 2020, arXiv:2004.13922). Of the chosen positions 80 %
become [MASK], 10 % another token, 10 % stay (BERT, Devlin et al. 2019, arXiv:1810.04805). Nothing chosen crosses
texts, and special tokens are never chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shudun_training.pretraining.config import Unit
from shudun_training.pretraining.packing import Packed

SPAN_SHARES = (0.4, 0.3, 0.2, 0.1)
"""Probability of spans of one, two, three and four tokens."""


@dataclass(frozen=True, slots=True)
class Masked:
    """What the model sees and must guess: `input_ids` and bool `chosen`, both `(rows, row_tokens)`."""

    input_ids: NDArray[np.int64]
    chosen: NDArray[np.bool_]


def mask(
    packed: Packed, *, unit: Unit, share: float, special: NDArray[np.bool_], mask_id: int, rng: np.random.Generator
) -> Masked:
    """Choose about `share` of the ordinary tokens; `special[id]` marks ids that are left alone.

    No span begins before its text, so that first tokens are covered less: in texts of 4, 8 and 16 tokens a `share` of
    0.2 comes out as 0.178, 0.193 and 0.197.
    """
    ordinary = ~special[packed.input_ids] & (packed.piece >= 0)
    if unit == "span":
        drawn = _spans(packed.piece, share, rng)
    elif unit == "word":
        drawn = _words(packed, share, rng)
    else:
        drawn = rng.random(packed.piece.shape) < share
    chosen = drawn & ordinary
    ids = packed.input_ids.copy()
    fate = rng.random(ids.shape)
    other = rng.integers(0, len(special), ids.shape)
    ids[chosen & (fate < 0.8)] = mask_id
    swapped = chosen & (fate >= 0.9) & ~special[other]
    ids[swapped] = other[swapped]
    return Masked(ids, chosen)


def _words(packed: Packed, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    # A piece may begin inside a word; its first token begins one all the same.
    new_piece = np.diff(packed.piece, prepend=-2, axis=1) != 0
    word = np.cumsum(packed.begins_word | new_piece) - 1
    chosen: NDArray[np.bool_] = (rng.random(word[-1] + 1) < share)[word].reshape(packed.piece.shape)
    return chosen


def _spans(piece: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    lengths = 1 + np.arange(len(SPAN_SHARES))
    # Spans may overlap: with starts at rate r a position stays free with the probability of no start before it.
    reach = np.cumsum(np.asarray(SPAN_SHARES)[::-1])[::-1]
    rate = _start_rate(share, reach)
    start = rng.random(piece.shape) < rate
    length = rng.choice(lengths, size=piece.shape, p=SPAN_SHARES)
    chosen = np.zeros(piece.shape, np.bool_)
    for shift in range(len(SPAN_SHARES)):
        begins = (start & (length > shift))[:, : piece.shape[1] - shift]
        same = piece[:, : piece.shape[1] - shift] == piece[:, shift:]
        chosen[:, shift:] |= begins & same
    return chosen


def _start_rate(share: float, reach: NDArray[np.float64]) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        rate = (low + high) / 2
        covered = 1 - np.prod(1 - rate * reach)
        low, high = (rate, high) if covered < share else (low, rate)
    return low
