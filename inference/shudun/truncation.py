"""What of an item fits into a row of limited length: the truncation rule and windows, as arithmetic on token counts.

An item has judged tokens and context tokens (title or parent text). The context keeps at most a quarter of the
budget, or more where the judged tokens leave room; the judged tokens take the rest, in one row or in several
overlapping ones. Knows counts only, no tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONTEXT_SHARE = 4
"""The context is guaranteed at most one `CONTEXT_SHARE`-th of the token budget."""

OVERLAP_SHARE = 4
"""Neighbouring windows share one `OVERLAP_SHARE`-th of their judged tokens."""


class Cuts(NamedTuple):
    """Rows of items. All arrays are int64 but `truncated`, which is bool.

    By item: `windows`, its consecutive rows; `truncated`, whether some token is in none of them. By row: `owner`,
    the number of its item; `offset` and `judged`, its first judged token and how many; `context`, its context tokens.
    """

    windows: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    owner: NDArray[np.int64]
    offset: NDArray[np.int64]
    judged: NDArray[np.int64]
    context: NDArray[np.int64]


def cut(judged: NDArray[np.int64], context: NDArray[np.int64], budget: NDArray[np.int64], *, max_windows: int) -> Cuts:
    """Cut items to their budgets.

    Args:
        judged: judged tokens of each item, shape `(items,)`.
        context: context tokens of each item.
        budget: tokens that a row of the item has room for, special tokens not counted.
        max_windows: most rows of an item.
    """
    wanted = np.maximum(budget // CONTEXT_SHARE, budget - judged)
    kept = np.where(judged + context > budget, np.minimum(context, wanted), context)
    room = budget - kept
    beyond = np.maximum(judged - room, 0)
    step = np.maximum(room - room // OVERLAP_SHARE, 1)
    needed = 1 - (-beyond // step)
    windows = np.minimum(needed, max_windows)
    owner = np.repeat(np.arange(len(windows)), windows)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(windows) - windows, windows)
    return Cuts(
        windows=windows,
        truncated=(kept < context) | (needed > windows),
        owner=owner,
        # The last window ends where the text ends, so that it is as long as the others.
        offset=np.minimum(number * step[owner], beyond[owner]),
        judged=np.minimum(judged, room)[owner],
        context=kept[owner],
    )
