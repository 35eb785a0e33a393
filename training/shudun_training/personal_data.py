"""Personal data in texts: mainland phone, identity card and bank card numbers, e-mail, contact handles, links.

Finds what looks real; placeholders (`demo_0000`, `sample0000`, `0000`, `example.com`) are passed over. It sees through
full-width, circled, keycap and Hanzi digits, not through homophones or pictures, and it knows no names or addresses.
A finding never holds the value itself, only its masked form.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache

HANZI_DIGITS = str.maketrans("零〇一二三四五六七八九幺壹贰叁肆伍陆柒捌玖", "001234567891123456789")
PLACEHOLDER_WORDS = ("demo", "sample", "test", "example", "dummy", "0000")
PLACEHOLDER_DOMAIN = re.compile(r"(^|\.)(example(\.\w+)?|test|invalid|localhost)$")

ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
ID_CHECK_CHARACTERS = "10X98765432"
"""GB 11643-1999: the check character is the entry at the weighted digit sum modulo 11."""

HINT = re.compile(r"[0-9@_]|://|[零〇一二三四五六七八九幺壹贰叁肆伍陆柒捌玖]{11}")
"""A text without any of these holds nothing that the patterns below could find."""

HANZI_NUMBER = re.compile(r"[零〇一二三四五六七八九幺壹贰叁肆伍陆柒捌玖]{11}")
ID_CARD = re.compile(r"(?<![0-9A-Za-z])[1-9]\d{16}[0-9Xx](?![0-9A-Za-z])", re.ASCII)
BANK_CARD = re.compile(
    r"(?<![\d.])(?:(?:62\d{2}|4\d{3}|5[1-5]\d{2})\d{12,15}|62\d{2}(?:[ -]\d{4}){3}(?:[ -]\d{1,3})?)(?!\d)",
    re.ASCII,
)
MOBILE = re.compile(r"(?<![\d.])(?:1[3-9]\d([ .-]?)\d{4}\1\d{4}|1(?:([ .-])[3-9])(?:\2\d){9})(?!\d)", re.ASCII)
LANDLINE = re.compile(r"(?<!\d)0(?:10|2\d|[3-9]\d{2})[- ]\d{7,8}(?!\d)", re.ASCII)
EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@((?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24})", re.ASCII
)
LINK = re.compile(r"https?://((?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24})(?:/[\w./?=&%#-]*)?", re.ASCII)
HANDLE = re.compile(
    r"(?:[微薇威维徽卫][信芯❤♥]|[微薇威卫]\s?:|绿泡泡?|wechat|weixin|(?<![a-z])(?:[vw]x|v信|v\s?[:❤♥])|加[v微薇威]|qq|扣扣|企鹅|[q群]号?"
    r"|群号)[号群同步是搜加:\s~❤♥-]{0,4}(?P<value>(?=[a-z_-]{0,19}\d|[a-z0-9-]{0,19}_)[a-z][a-z0-9_-]{5,19}|[1-9]\d{5,10})(?![a-z0-9_])"
    r"|(?<![a-z])(?=wxid_)(?P<id>[a-z0-9_]{8,25})",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class PersonalData:
    """One finding: `kind` (a key of `PATTERNS`) and the value with all but its ends masked."""

    kind: str
    masked: str


def find_personal_data(text: str) -> list[PersonalData]:
    """What looks like real personal data in a text, in no order, placeholders left out."""
    if not HINT.search(folded := _folded(text)):
        return []
    return [PersonalData(kind, mask(value)) for kind, value in _values(folded)]


def without_personal_data(text: str) -> str:
    """The text, width and digit forms folded, with every finding masked: fit to be shown in a report."""
    folded = _folded(text)
    if HINT.search(folded):
        for _, value in _values(folded):
            folded = folded.replace(value, mask(value))
    return folded


def mask(value: str) -> str:
    """The first two characters and the last one, asterisks between them; nothing of very short values."""
    return value[:2] + "*" * (len(value) - 3) + value[-1:] if len(value) > 5 else "*" * len(value)


def _values(folded: str) -> Iterator[tuple[str, str]]:
    for kind, (pattern, is_real) in PATTERNS.items():
        for match in pattern.finditer(folded):
            groups = match.groupdict()
            value = groups.get("value") or groups.get("id") or match[0]
            if is_real(value):
                yield kind, value


def _is_id_card(value: str) -> bool:
    total = sum(int(digit) * weight for digit, weight in zip(value, ID_WEIGHTS, strict=False))
    try:
        date.fromisoformat(f"{value[6:10]}-{value[10:12]}-{value[12:14]}")
    except ValueError:
        return False
    return ID_CHECK_CHARACTERS[total % 11] == value[-1].upper()


def _is_bank_card(value: str) -> bool:
    """Luhn's check (ISO/IEC 7812-1) over 16 to 19 digits that are not all alike."""
    digits = [int(char) for char in value if char.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return 16 <= len(digits) <= 19 and len(set(digits)) > 2 and (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


def _is_phone(value: str) -> bool:
    return "0000" not in "".join(filter(str.isdigit, value))


def _is_hanzi_phone(value: str) -> bool:
    digits = value.translate(HANZI_DIGITS)
    return MOBILE.fullmatch(digits) is not None and _is_phone(digits)


def _is_real_address(value: str) -> bool:
    domain = re.split(r"@|://", value)[-1].partition("/")[0].lower()
    return not PLACEHOLDER_DOMAIN.search(domain)


def _is_real_handle(value: str) -> bool:
    parts = re.split(r"[-_]", value.lower())
    masked = any(re.fullmatch(r"x{2,}|[0x]{3,}", part) for part in parts)
    return not masked and not any(word in "".join(parts) for word in PLACEHOLDER_WORDS)


PATTERNS: Mapping[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "id_card": (ID_CARD, _is_id_card),
    "bank_card": (BANK_CARD, _is_bank_card),
    "phone": (MOBILE, _is_phone),
    "landline": (LANDLINE, _is_phone),
    "phone_in_hanzi": (HANZI_NUMBER, _is_hanzi_phone),
    "email": (EMAIL, _is_real_address),
    "contact_handle": (HANDLE, _is_real_handle),
    "link": (LINK, _is_real_address),
}


def _folded(text: str) -> str:
    return text if text.isascii() else text.translate(_fold_table())


@cache
def _fold_table() -> dict[int, str | None]:
    """Full-width, styled and circled ASCII look-alikes to ASCII; zero-width and keycap marks to nothing.

    The normaliser leaves full-width punctuation alone, which stands between a cue and a handle here.
    """
    ranges = [(0xFF01, 0xFF5F), (0x2460, 0x2469), (0x2776, 0x277F), (0x2780, 0x2789), (0x1D400, 0x1D800)]
    table: dict[int, str | None] = {}
    for start, end in ranges:
        for code in range(start, end):
            plain = unicodedata.normalize("NFKC", chr(code))
            digit = unicodedata.digit(chr(code), None)
            if digit is not None or (len(plain) == 1 and plain.isascii()):
                table[code] = plain if digit is None else str(digit)
    return table | dict.fromkeys((0x200B, 0x200C, 0x200D, 0x2060, 0xFE0F, 0x20E3, 0xFEFF), None)
