"""The one text normalisation of training and scoring, with an exact map back to the raw text.

Undone in every text: invisible characters (V01), styled letters and digits (V02), traditional and Japanese forms
(V11), digit words in contacts (V12). Chinese punctuation, units such as ㎡, letter case and emoji stay. Disguises that
only context tells (V03 to V10) are reported by `normalize` and undone in `NormalizedText.spelt`; homophones, nicknames
and emoji words are never replaced. Normalising twice changes nothing more. It knows nothing of items, labels or models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shudun import edits as editing
from shudun import normalization_rules as rules
from shudun.digit_words import CANDIDATE, digit_word_edits, formal_amount_edits, round_zero_edits
from shudun.disguises import disguise_edits, spellings
from shudun.edits import Edit
from shudun.normalization_tables import CLASSES, FAR, tables

NORMALIZER_VERSION = "1"
"""Changes whenever any text may come out differently; bundles are made for one version."""

IDENTITY_LENGTH = 4096
"""Longest unchanged text whose map is a view of one shared array."""

Step = Callable[[str], list[Edit]]
BEFORE_FOLDING: tuple[Step, ...] = (rules.surrogate_edits, rules.emoji_edits, rules.traditional_edits)
AFTER_FOLDING: tuple[Step, ...] = (
    rules.joiner_edits,
    rules.mark_edits,
    rules.small_digit_edits,
    rules.flag_edits,
    formal_amount_edits,
    round_zero_edits,
    digit_word_edits,
)


class Variant(NamedTuple):
    """A disguise in the raw text: its class ("V01" ...) and its span in code points."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class NormalizedText:
    """A normalised text and where it comes from.

    `offsets`: int64 `(len(text), 2)`, the raw span `[start, end)` in code points of each code point of `text`, both
    columns non-decreasing; `variants`: the disguises met, by start; `spellings`: the edits of `text` that spell out
    words written in disguises of classes V03, V04, V09 and V10.
    """

    text: str
    offsets: NDArray[np.int64]
    variants: tuple[Variant, ...]
    spellings: tuple[Edit, ...]

    def spelt(self) -> NormalizedText:
        """The text with its disguised words spelt out, with its own map to the raw text."""
        text = editing.apply(self.text, self.spellings)
        return NormalizedText(text, editing.compose(self.offsets, self.spellings), self.variants, ())

    def raw_span(self, start: int, end: int) -> tuple[int, int]:
        """The raw span of `text[start:end]`; characters dropped inside it are part of it.

        Raises:
            ValueError: the span is empty or not inside the text.
        """
        if not 0 <= start < end <= len(self.text):
            raise ValueError(f"expected a span inside 0 to {len(self.text)}, got {start} to {end}")
        return int(self.offsets[start, 0]), int(self.offsets[end - 1, 1])


def normalize_text(text: str) -> str:
    """The normalised text alone: equal to `normalize(text).text`, and the same object where nothing changes."""
    if not _trigger().search(text) and not CANDIDATE.search(text):
        return text
    found = text
    for step in BEFORE_FOLDING:
        found = editing.apply(found, step(found))
    found = found.translate(tables().fold)
    for step in AFTER_FOLDING:
        found = editing.apply(found, step(found))
    return text if found == text else found


def spelt_text(text: str) -> str:
    """The normalised text with its disguised words spelt out: equal to `normalize(text).spelt().text`."""
    text = normalize_text(text)
    found = disguise_edits(text)
    return editing.apply(text, spellings(found, text)) if found else text


def normalize(text: str) -> NormalizedText:
    """The normalised text with its map to the raw text, the disguises met, and the text with them spelt out."""
    if not _trigger().search(text) and not CANDIDATE.search(text):
        return _finish(text, _identity(len(text)), ())
    tracked = _Tracked(text)
    for step in BEFORE_FOLDING:
        tracked.edit(step(tracked.text))
    tracked.fold()
    for step in AFTER_FOLDING:
        tracked.edit(step(tracked.text))
    return _finish(tracked.text, tracked.offsets, tracked.variants)


class _Tracked:
    """A text on its way through the steps, with its map to the raw text and the disguises undone so far."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.offsets = _identity(len(text))
        self.variants: list[Variant] = []

    def edit(self, edits: Sequence[Edit]) -> None:
        if not edits:
            return
        self.variants += [_variant(edit, self.offsets) for edit in edits if edit.variant]
        self.offsets = editing.compose(self.offsets, edits)
        self.text = editing.apply(self.text, edits)

    def fold(self) -> None:
        """Fold single characters by the tables, all at once."""
        codes = np.frombuffer(self.text.encode("utf-32-le"), dtype=np.uint32)
        classes = tables().classes[codes]
        first, last = _runs(classes)
        starts, ends = self.offsets[first, 0].tolist(), self.offsets[last, 1].tolist()
        names = [CLASSES[number] for number in classes[first].tolist()]
        self.variants += [Variant(*entry) for entry in zip(names, starts, ends, strict=True) if entry[0]]
        self.offsets = self.offsets.repeat(tables().lengths[codes], axis=0)
        self.text = self.text.translate(tables().fold)


def _runs(classes: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last index of each run of equal values."""
    changes = np.flatnonzero(np.diff(classes))
    return np.concatenate([[0], changes + 1])[: classes.size], np.concatenate([changes, [classes.size - 1]])[
        : classes.size
    ]


def _variant(edit: Edit, offsets: NDArray[np.int64]) -> Variant:
    return Variant(edit.variant, int(offsets[edit.start, 0]), int(offsets[edit.end - 1, 1]))


def _finish(text: str, offsets: NDArray[np.int64], undone: Sequence[Variant]) -> NormalizedText:
    found = disguise_edits(text)
    if not found and not undone:
        return NormalizedText(text, offsets, (), ())
    variants = {*undone, *(_variant(edit, offsets) for edit in found)}
    return NormalizedText(
        text, offsets, tuple(sorted(variants, key=itemgetter(1, 2, 0))), tuple(spellings(found, text))
    )


@cache
def _trigger() -> re.Pattern[str]:
    """Finds a character that some step may edit; it may find others too."""
    return re.compile(f"[{tables().near}{rules.CONTEXTUAL}{FAR}]")


def _identity(length: int) -> NDArray[np.int64]:
    offsets = _long_identity() if length <= IDENTITY_LENGTH else _spans(length)
    return offsets[:length]


@cache
def _long_identity() -> NDArray[np.int64]:
    return _spans(IDENTITY_LENGTH)


def _spans(length: int) -> NDArray[np.int64]:
    starts = np.arange(length, dtype=np.int64)
    spans = np.stack([starts, starts + 1], axis=1)
    spans.flags.writeable = False
    return spans
