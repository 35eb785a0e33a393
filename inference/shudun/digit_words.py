"""Digits written in words or shapes (disguise class V12), told from counting words, dates, prices and idioms.

A run of digit words becomes ASCII digits only where it reads like a contact: long and irregular, spoken with
幺, after a word that announces a contact, or glued to a Latin identifier. Every rule looks at digit words and ASCII
digits alike, so that a second pass decides as the first one did. It knows nothing of which number it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from shudun.edits import Edit
from shudun.normalization_rules import MARKS

WORDS = "零〇○一二三四五六七八九幺壹贰叁肆伍陆柒捌玖"
DIGITS = str.maketrans(WORDS, "0001234567891123456789")

DIGIT = f"0-9{WORDS}"
CANDIDATE = re.compile(
    f"[{DIGIT}](?:[oO]|(?<=[{WORDS}])[ .·_-]?[{DIGIT}]|(?<=[壹贰叁肆伍陆柒捌玖])[拾佰仟万亿千百元块圆毛整折个位天年])"
)
"""Must match somewhere for any rule here to apply."""

RUN = re.compile(f"[{DIGIT}](?:[ .·_-]?[{DIGIT}])+")
ROUND_ZEROS = re.compile(f"(?<![A-Za-z{DIGIT}])[{DIGIT}][{DIGIT}oO]{{6,}}(?![A-Za-z{DIGIT}{MARKS}])")

CUE = re.compile(
    "(?:[微薇威卫][信星❤]?|绿泡泡|[vV][xX]?|[wW][xX]|扣扣|企鹅|[qQ]{1,2}|[🐧🛰]|[群裙号]|号码|电话|手机|致电|拨打|打|热线"
    "|联系(?:方式|我)?|加我?|[☎📞📱📲➕+])[ :：是为，,]{0,3}\\Z"
)
"""What announces a contact, at the end of the text before a run."""

IDENTIFIER = re.compile(f"[A-Za-z][A-Za-z_{DIGIT}-]{{2,}}\\Z")
FORMAL, ORDINARY = "壹贰叁肆伍陆柒捌玖拾佰仟", "一二三四五六七八九十百千"
FORMAL_AMOUNT = re.compile(
    "(?:[壹贰叁肆柒捌玖]|(?<![大登队退入内水着行])[伍陆])(?:[拾佰仟][壹贰叁肆伍陆柒捌玖拾佰仟零]*|(?=[万亿千百元块圆毛整折]))"
    "|[壹贰叁肆柒捌玖](?=[个位天年])"
)
"""Not 大陆元 or 队伍整齐: the two numerals that are in ordinary use need more than a unit."""

ZEROS = frozenset("零〇○")
COUNTING_STEPS = ({0, 1}, {0, -1}, {2}, {-2})
UNITS = re.compile("[十百千万亿拾佰仟年月日号点楼层块元折斤岁个次分秒米]")
LOOKBACK = 24
"""Characters before a run that are looked at."""

PHONE_LENGTH, ACCOUNT_LENGTH = 7, 4
"""Fewest digits of a run that needs no cue, and of one after a cue."""


def formal_amount_edits(text: str) -> list[Edit]:
    """Formal numerals in amounts (叁万, 壹佰贰) become ordinary numerals: the same amount, and no contact."""
    to_ordinary = str.maketrans(FORMAL, ORDINARY)
    return [Edit(*match.span(), match[0].translate(to_ordinary), "V12") for match in FORMAL_AMOUNT.finditer(text)]


def digit_word_edits(text: str) -> list[Edit]:
    """Edits that turn digit words of contact-like runs into ASCII digits, one for one."""
    if not CANDIDATE.search(text):
        return []
    return [Edit(match.start(), match.end(), match[0].translate(DIGITS), "V12") for match in _contacts(text)]


def round_zero_edits(text: str) -> list[Edit]:
    """Edits that turn the letter O inside a long number into zero."""
    return [
        Edit(match.start(), match.end(), re.sub("[oO]", "0", match[0]), "V12")
        for match in ROUND_ZEROS.finditer(text)
        if 0 < len(re.findall("[oO]", match[0])) <= len(match[0]) - 5
    ]


def _contacts(text: str) -> Iterator[re.Match[str]]:
    for match in RUN.finditer(text):
        words = [char for char in match[0] if char in WORDS]
        if words and _is_contact(match, "".join(words), text):
            yield match


def _is_contact(run: re.Match[str], words: str, text: str) -> bool:
    digits = [int(char) for char in run[0].translate(DIGITS) if char.isdigit()]
    if _is_counting(digits):
        return False
    if "幺" in words and len(digits) >= 3:
        return True
    before = text[max(run.start() - LOOKBACK, 0) : run.start()]
    glued = re.match("[A-Za-z_]", text[run.end() : run.end() + 1]) or IDENTIFIER.search(before)
    if glued and len(words) >= 2 and set(words) & ZEROS:
        return True
    if UNITS.match(text, run.end()):
        return False
    if len(digits) >= PHONE_LENGTH and len(words) >= 3:
        return True
    return len(digits) >= ACCOUNT_LENGTH and len(words) >= 2 and bool(CUE.search(before))


def _is_counting(digits: list[int]) -> bool:
    """Whether digits count up or down or repeat, as in 一二三四五, 一三五七 or 六六六六; zeros alone do not count."""
    steps = {b - a for a, b in pairwise(digits)}
    return any(digits) and any(steps <= allowed for allowed in COUNTING_STEPS)
