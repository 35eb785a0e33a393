"""Packed rows: whole texts side by side in rows of one length, so that hardly any position is padding.

A text longer than a row is cut into pieces that keep their own positions; texts in one row do not attend to each
other. An epoch's order depends on the seed and the epoch alone: a resumed run sees what an undisturbed one sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shudun.wordpiece import spans
from shudun_training.pretraining.token_store import TokenStore

WINDOW_PIECES = 4096
"""Pieces that are packed together: enough for full rows, few enough to stay random."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows of pieces, all `(rows, row_tokens)`.

    `input_ids`: int64. `piece`: int64, which piece of the row a position belongs to, -1 for padding. `position_ids`:
    int64, the position within the text. `token_type_ids`: int64. `begins_word`: bool, whether a position is the first
    of a word; all `True` where the store knows no words.
    """

    input_ids: NDArray[np.int64]
    piece: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    begins_word: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where each piece of an epoch goes.

    Piece `i` is `length[i]` tokens from `begin[i]` of text `text[i]`, in row `row[i]` from column `column[i]`; all
    int64 `(pieces,)`, ordered by row.
    """

    text: NDArray[np.int64]
    begin: NDArray[np.int64]
    length: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.row[-1]) + 1 if len(self.row) else 0


def plan_epoch(lengths: NDArray[np.int64], row_tokens: int, *, seed: int, epoch: int) -> Plan:
    """Place all texts of `lengths` tokens into rows of `row_tokens`, in an order drawn from `seed` and `epoch`."""
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    count = -(-lengths[order] // row_tokens)
    text = np.repeat(order, count)
    begin = (np.arange(len(text)) - np.repeat(np.cumsum(count) - count, count)) * row_tokens
    length = np.minimum(lengths[text] - begin, row_tokens)
    row, column = np.empty(len(text), np.int64), np.empty(len(text), np.int64)
    done = 0
    for at in range(0, len(text), WINDOW_PIECES):
        window = slice(at, at + WINDOW_PIECES)
        row[window], column[window], used = _pack(length[window], row_tokens)
        row[window] += done
        done += used
    shuffled = rng.permutation(done)
    row = shuffled[row]
    by_row = np.lexsort((column, row))
    return Plan(text[by_row], begin[by_row], length[by_row], row[by_row], column[by_row])


def _pack(length: NDArray[np.int64], row_tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Best-fit decreasing: longest piece first, into the fullest row that has room."""
    row, column = np.empty(len(length), np.int64), np.empty(len(length), np.int64)
    open_rows: list[list[int]] = [[] for _ in range(row_tokens + 1)]
    used = 0
    for piece in np.argsort(-length, kind="stable"):
        need = int(length[piece])
        room = next((room for room in range(need, row_tokens + 1) if open_rows[room]), None)
        if room is None:
            target, room, used = used, row_tokens, used + 1
        else:
            target = open_rows[room].pop()
        row[piece], column[piece] = target, row_tokens - room
        if room > need:
            open_rows[room - need].append(target)
    return row, column, used


def packed_rows(store: TokenStore, plan: Plan, first: int, last: int, row_tokens: int) -> Packed:
    """Rows `first` to `last` (exclusive) of a plan; padding has id 0 and piece -1."""
    low, high = np.searchsorted(plan.row, [first, last])
    text, begin, length = plan.text[low:high], plan.begin[low:high], plan.length[low:high]
    source = spans(store.starts[text] + begin, length)
    target = spans((plan.row[low:high] - first) * row_tokens + plan.column[low:high], length)
    offset = spans(begin, length)
    shape = (last - first, row_tokens)
    ids, piece, position, types = (np.full(shape, fill, np.int64) for fill in (0, -1, 0, 0))
    ids.flat[target] = store.ids[source]
    piece.flat[target] = np.repeat(np.arange(high - low), length)
    position.flat[target] = offset
    types.flat[target] = offset >= np.repeat(store.first[text], length)
    begins = np.ones(shape, np.bool_)
    if store.begins_word is not None:
        begins.flat[target] = store.begins_word[source]
    return Packed(ids, piece, position, types, begins)
