"""Readings of Chinese characters, by pypinyin: spelled words, initials and characters of the same sound.

Characters of the same sound are taken from level 1 of GB 2312, the 3,755 commonest characters: rarer ones would be
guessed by nobody. Tones are ignored, as people do.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache

from pypinyin import Style, lazy_pinyin

LEVEL_1 = range(0xB0, 0xD8)
"""First bytes of the GB 2312 rows that hold level 1."""


def pinyin(word: str) -> str:
    """A word spelled out without tones; what is no Chinese character stays."""
    return "".join(lazy_pinyin(word))


def initials(word: str) -> str:
    """The first letter of each syllable; what is no Chinese character stays."""
    return "".join(lazy_pinyin(word, style=Style.FIRST_LETTER))


def homophones(char: str) -> tuple[str, ...]:
    """Common characters of the same syllable, tones ignored, without `char` itself."""
    if not "\u4e00" <= char <= "\u9fff":
        return ()
    return tuple(other for other in _by_syllable().get(_syllable(char), ()) if other != char)


@cache
def _syllable(char: str) -> str:
    return str(lazy_pinyin(char)[0])


@cache
def _by_syllable() -> dict[str, tuple[str, ...]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for first in LEVEL_1:
        for second in range(0xA1, 0xFF):
            # The last row of level 1 is not full.
            char = bytes((first, second)).decode("gb2312", "ignore")
            if char:
                found[_syllable(char)].append(char)
    return {syllable: tuple(chars) for syllable, chars in found.items()}
