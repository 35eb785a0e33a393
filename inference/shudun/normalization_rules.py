"""The steps of normalisation that look at neighbours: surrogates, emoji, traditional text, marks, flags.

Each step maps a text to the edits it makes, in order. No step makes anything that it or an earlier step would
edit; together with the settled tables that makes normalisation idempotent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from shudun.edits import Edit
from shudun.normalization_tables import tables

HAN = "\u3400-\u4dbf\u4e00-\u9fff\u3007\U00020000-\U000323af"
MARKS = "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u3099\u309a\ufe20-\ufe2f"
SMALL_DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉"

CONTEXTUAL = f"\ud800-\udfff\u200d{SMALL_DIGITS}{MARKS}"
"""Characters that a step here may edit and that the tables lack, as the inside of a regular-expression set."""

SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]|(?:[\ud800-\udbff](?![\udc00-\udfff]))+|[\udc00-\udfff]+")
MARKS_OF_NO_LETTER = re.compile(f"[{MARKS}](?<=[0-9{SMALL_DIGITS}{HAN}○].)[{MARKS}]*")
SMALL_NUMBER = re.compile(f"[{SMALL_DIGITS}]{{3,}}")
FLAG_LETTERS = re.compile("[\U0001f1e6-\U0001f1ff]+")
FLAG_A = 0x1F1E6


def surrogate_edits(text: str) -> list[Edit]:
    """Surrogate pairs become their character, lone surrogates U+FFFD, so that every text can be encoded."""
    found = ((match, match[0].encode("utf-16-le", "surrogatepass")) for match in SURROGATES.finditer(text))
    return [Edit(*match.span(), units.decode("utf-16-le", "replace"), "") for match, units in found]


def emoji_edits(text: str) -> list[Edit]:
    """Keycaps become their digit; variation selectors go, and the tags of regional flags.

    After an emoji neither is a disguise: ❤ with and without U+FE0F are one sign.
    """
    return [
        Edit(match.start(), match.end(), match["keycap"] or match["flag"] or "", "V02" if match["keycap"] else "")
        for match in _emoji().finditer(text)
    ]


def joiner_edits(text: str) -> list[Edit]:
    """Zero-width joiners go, except those that join two emoji into one."""
    return [Edit(*match.span(), "", "V01") for match in _joiners().finditer(text)]


def traditional_edits(text: str) -> list[Edit]:
    """Characters such as 乾 and 於, which simplified text has too, are folded where the text is traditional."""
    if not tables().traditional.search(text):
        return []
    forms = tables().in_context
    return [Edit(*match.span(), match[0].translate(forms), "V11") for match in _in_context().finditer(text)]


def mark_edits(text: str) -> list[Edit]:
    """Combining marks go where no script has them: on Chinese characters and on digits."""
    return [Edit(*match.span(), "", "V01") for match in MARKS_OF_NO_LETTER.finditer(text)]


def small_digit_edits(text: str) -> list[Edit]:
    """Three or more superscript or subscript digits are a number; fewer belong to units and formulas."""
    to_digits = str.maketrans(SMALL_DIGITS, "0123456789" * 2)
    return [Edit(*match.span(), match[0].translate(to_digits), "V02") for match in SMALL_NUMBER.finditer(text)]


def flag_edits(text: str) -> list[Edit]:
    """Regional indicators that make no flag become letters."""
    return [edit for match in FLAG_LETTERS.finditer(text) for edit in _spelt(match[0], match.start())]


def _spelt(run: str, start: int) -> Iterator[Edit]:
    letters = "".join(chr(ord("A") + ord(char) - FLAG_A) for char in run)
    flags = [letters[i : i + 2] in tables().flags for i in range(0, len(letters), 2)]
    begin = 0
    for i, flag in enumerate([*flags, True]):
        if flag and begin < i:
            yield Edit(start + 2 * begin, min(start + 2 * i, start + len(run)), letters[2 * begin : 2 * i], "V02")
        if flag:
            begin = i + 1


@cache
def _emoji() -> re.Pattern[str]:
    regions = "|".join("".join(chr(0xE0000 + ord(c)) for c in region) for region in ("gbeng", "gbsct", "gbwls"))
    return re.compile(
        f"(?P<keycap>[0-9#*])\ufe0f?\u20e3|(?P<flag>\U0001f3f4)(?:{regions})\U000e007f"
        f"|[\ufe0e\ufe0f](?<=[0-9#*{tables().pictographs}].)[\ufe0e\ufe0f]*"
    )


@cache
def _joiners() -> re.Pattern[str]:
    pictographs = tables().pictographs
    return re.compile(f"\u200d(?<![{pictographs}].)\u200d*|\u200d+(?![{pictographs}])")


@cache
def _in_context() -> re.Pattern[str]:
    return re.compile("[" + "".join(map(chr, tables().in_context)) + "]+")
