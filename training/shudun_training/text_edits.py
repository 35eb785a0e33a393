"""Edits of a text, and where its spans lie afterwards.

Positions are code points of the text before the edits. Knows nothing of what is edited or why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace `text[start:end]` by `new`."""

    start: int
    end: int
    new: str


def apply_edits(text: str, edits: Sequence[Edit]) -> str:
    """The text with all edits made at once.

    Raises:
        ValueError: edits out of order, overlapping or outside the text.
    """
    parts, position = [], 0
    for edit in edits:
        if not position <= edit.start < edit.end <= len(text):
            raise ValueError(f"edits must be ordered, apart and inside {len(text)} characters, got {edit}")
        parts += [text[position : edit.start], edit.new]
        position = edit.end
    return "".join([*parts, text[position:]])


def move_span(start: int, end: int, edits: Sequence[Edit]) -> tuple[int, int]:
    """The span `[start, end)` after the edits; an edit that crosses a border of the span lies wholly inside it."""
    return _moved(start, edits, after=False), _moved(end, edits, after=True)


def _moved(position: int, edits: Sequence[Edit], *, after: bool) -> int:
    shift = 0
    for edit in edits:
        if edit.end <= position:
            shift += len(edit.new) - (edit.end - edit.start)
        elif edit.start < position:
            return edit.start + shift + (len(edit.new) if after else 0)
        else:
            break
    return position + shift
