"""Edits of a text, and what they do to the map back to the raw text.

An edit replaces a span of code points. Where the replacement is as long as the span, each code point maps to its
own; otherwise every new code point maps to the whole span.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Edit(NamedTuple):
    """Replace `[start, end)` by `text`; `variant` is the disguise class it undoes, or empty."""

    start: int
    end: int
    text: str
    variant: str


def apply(text: str, edits: Sequence[Edit]) -> str:
    """The text after edits that are in order and do not overlap."""
    if not edits:
        return text
    parts, done = [], 0
    for edit in edits:
        parts += [text[done : edit.start], edit.text]
        done = edit.end
    return "".join([*parts, text[done:]])


def compose(offsets: NDArray[np.int64], edits: Sequence[Edit]) -> NDArray[np.int64]:
    """Raw spans `(n, 2)` of the code points after the edits, from those before."""
    parts, done = [], 0
    for edit in edits:
        parts.append(offsets[done : edit.start])
        if len(edit.text) == edit.end - edit.start:
            parts.append(offsets[edit.start : edit.end])
        elif edit.text:
            parts.append(np.array([[offsets[edit.start, 0], offsets[edit.end - 1, 1]]]).repeat(len(edit.text), axis=0))
        done = edit.end
    return np.concatenate([*parts, offsets[done:]])
