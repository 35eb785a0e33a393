"""How an item becomes model input text: one rule, used in training and in scoring.

A note becomes the pair (title, text); a comment becomes (text,) or, when it answers something,
(text, parent_text). A note is always a pair, even with an empty title, so the two kinds never look alike. Segments are
normalised with disguised words spelt out; `normalize(text).spelt()` maps places in them back to the raw text.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from shudun.items import Item, Note
from shudun.normalization import spelt_text

Primary: TypeAlias = Literal[0, 1]


class Rendered(NamedTuple):
    """Model input text: `segments` (one or two strings) and the index of the segment that is judged."""

    segments: tuple[str, ...]
    primary: Primary


def render(item: Item) -> Rendered:
    """Render an item; lone surrogates, which no encoder can represent, become U+FFFD."""
    if isinstance(item, Note):
        return Rendered((spelt_text(item.title), spelt_text(item.text)), primary=1)
    if item.parent_text:
        return Rendered((spelt_text(item.text), spelt_text(item.parent_text)), primary=0)
    return Rendered((spelt_text(item.text),), primary=0)


def plain_text(item: Item) -> str:
    """All text of an item in one string, segments joined by a newline (for bag-of-n-gram models and hashing)."""
    return "\n".join(render(item).segments)
