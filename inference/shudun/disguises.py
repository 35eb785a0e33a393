"""Disguises that only their context tells from ordinary wording: classes V03 to V10.

`disguise_edits` finds them in a normalised text. An edit that changes something spells a word again that was taken
apart or written with signs; one that changes nothing only reports (homophones, initials, nicknames, emoji words: the
same characters are names, code, fish and satellites elsewhere). It knows no more words than `disguise_patterns` lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from shudun.disguise_patterns import Pattern, gates, patterns
from shudun.edits import Edit


def disguise_edits(text: str) -> list[Edit]:
    """All disguises found, by start; spans of different classes may overlap."""
    opened = [name for name, gate in gates().items() if gate.search(text)]
    if not opened:
        return []
    return sorted(edit for pattern in _behind(*opened) for edit in _matches(pattern, text))


def spellings(edits: Sequence[Edit], text: str) -> list[Edit]:
    """The edits that change something, in order; of two that overlap, the longer one."""
    kept: list[Edit] = []
    for edit in edits:
        if edit.text == text[edit.start : edit.end]:
            continue
        if not kept or edit.start >= kept[-1].end:
            kept.append(edit)
        elif edit.end - edit.start > kept[-1].end - kept[-1].start:
            kept[-1] = edit
    return kept


@cache
def _behind(*opened: str) -> tuple[Pattern, ...]:
    return tuple(pattern for pattern in patterns() if not pattern.gates.isdisjoint(opened))


def _matches(pattern: Pattern, text: str) -> Iterator[Edit]:
    for match in pattern.regex.finditer(text):
        spelt = match[0] if pattern.spelt is None else pattern.spelt(match)
        if pattern.spelt is None or spelt != match[0]:
            yield Edit(*match.span(), spelt, pattern.variant)
