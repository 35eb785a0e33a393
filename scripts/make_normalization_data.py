"""Generate the character tables of the text normaliser, inference/shudun/normalization_data.json.

python scripts/make_normalization_data.py --chaizi CHAIZI_JT_TXT

Sources: the Unicode character database by way of Python's `unicodedata` and the `regex` package (Unicode License
v3); the tz database (public domain) for country codes; OpenCC's dictionaries (Apache-2.0) for traditional and
Japanese forms; chaizi-jt.txt of github.com/kfcd/chaizi (CC BY 3.0) for split characters. Without --chaizi those of
the present file are kept.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import unicodedata
from collections.abc import Iterable
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import opencc
import regex

TARGET = Path(__file__).parents[1] / "inference" / "shudun" / "normalization_data.json"

PUNCTUATION = set("！（），：；？［］｛｝～＂＇｟｠￣﹐﹑﹒﹔﹕﹖﹗﹘﹙﹚﹛﹜﹝﹞")
"""Wide and small forms that stay: Chinese punctuation, brackets and the overline of kaomoji."""

LAYOUT_CONTROLS = set("\t\n\v\f\r\x85")
OVERLAYS = [0x305, *range(0x332, 0x339), 0x33F, *range(0x20D0, 0x20F1)]
"""Combining lines and enclosures: no script is spelt with them."""

NAMEABLE = re.compile(r"[A-Za-z0-9().,]*[A-Za-z0-9][A-Za-z0-9().,]*|\(?[\u4e00-\u9fff]\)?|[Α-Ωα-ω]")
"""Plain forms that are wanted: Latin, digits, one ideograph, Greek."""

NAMED = re.compile(
    r"^(?:DINGBAT )?(?:CROSSED )?(?:NEGATIVE|DOUBLE|DINGBAT)? ?(?:NEGATIVE )?(?:CIRCLED|SQUARED)(?: SANS-SERIF)?"
    r" (?:DIGIT|NUMBER|LATIN (?:CAPITAL|SMALL) LETTER [A-Z]$)"
    r"|^(?:NEGATIVE|CROSSED NEGATIVE) SQUARED LATIN CAPITAL LETTER [A-Z]$"
)
SMALL_CAPITAL = re.compile(r"^LATIN LETTER SMALL CAPITAL ([A-Z])$")
COMPATIBLE = [(0x2160, 0x217F), (0x2474, 0x24B5), (0x3220, 0x3243), (0x1F100, 0x1F10A), (0x1F110, 0x1F129)]
"""Roman numerals, and numbers, letters and ideographs in parentheses or with a full stop."""

SIMPLIFIED_TOO = "乾吒夥徵於著薹袷麽剋劄扞昇氾祕脩苧蒐谿釐陞"
"""Traditional forms that simplified text uses in another sense or in names: those that the General Standard list of
8,105 characters (2013) holds. They are folded only in a text that is traditional otherwise."""

IDEOGRAPHS = [(0x2E80, 0x2FDF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)]
OTHER_FLAGS = ("AC", "CP", "DG", "EA", "EU", "IC", "TA", "UN", "XK")
"""Flag emoji beyond ISO 3166 (Unicode Technical Standard 51)."""

CHARACTERS = [
    chr(cp) for low, high in ((0, 0x20000), (0x2F800, 0x2FA20), (0xE0000, 0xE1000)) for cp in range(low, high)
]
"""All that is assigned but for the rarest ideographs, which only `IDEOGRAPHS` has."""

PICTOGRAPH = regex.compile(r"(?![\x00-\x7f])[\p{Extended_Pictographic}\p{EMod}]")
BOUND_LEFT = "讠亻扌氵纟钅饣犭忄阝礻衤冫彳疒罒冖"
BOUND_RIGHT = "阝刂攵灬彡卩"
"""Components that never stand alone in a text, so that one beside its other half is a split character.

Without 艹 (a swear word of its own) and without 彳亍 (a word)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chaizi", type=Path, help="chaizi-jt.txt of github.com/kfcd/chaizi")
    parser.add_argument("--output", type=Path, default=TARGET)
    arguments = parser.parse_args()
    if arguments.chaizi is None:
        split = json.loads(TARGET.read_text(encoding="utf-8"))["split"]
    else:
        split = split_characters(arguments.chaizi.read_text(encoding="utf-8"))
    text = json.dumps(tables() | {"split": split}, ensure_ascii=True, indent=1, sort_keys=True)
    arguments.output.write_text(text + "\n", encoding="utf-8")
    print(f"{arguments.output}: {len(text):,} characters", file=sys.stderr)


def tables() -> dict[str, Any]:
    """Everything but the split characters; `fold` maps a disguise class to replacement → characters."""
    certain, ambiguous = hanzi_forms()
    fold = {"V02": styled_letters(), "V10": radicals(), "": symbols_and_spaces()}
    every = {source: target for group in fold.values() for source, target in group.items()}
    return {
        "versions": {"unicode": unicodedata.unidata_version, "opencc": version("opencc"), "regex": version("regex")},
        "dropped": ranges(filter(invisible, CHARACTERS)),
        "fold": {
            name: by_target({source: settle(target, every, certain, ambiguous) for source, target in group.items()})
            for name, group in fold.items()
        },
        "traditional": ["".join(certain), "".join(certain.values())],
        "traditional_in_context": ["".join(ambiguous), "".join(ambiguous.values())],
        "bound": [BOUND_LEFT, BOUND_RIGHT],
        "flags": sorted({*countries(), *OTHER_FLAGS}),
        "pictographs": ranges(char for char in CHARACTERS if PICTOGRAPH.match(char)),
    }


def invisible(char: str) -> bool:
    """Characters that show nothing, and overlays. ZWJ depends on its neighbours and is not among them."""
    if unicodedata.category(char) == "Cc":
        return char not in LAYOUT_CONTROLS
    ignorable = regex.match(r"\p{Default_Ignorable_Code_Point}", char) and char != "\u200d"
    return bool(ignorable) or ord(char) in OVERLAYS


def styled_letters() -> dict[str, str]:
    """Letters, digits and ideographs of another width or style, with their plain form."""
    plain = {char: styled(char) for char in CHARACTERS[0x80:]}
    return {char: text for char, text in plain.items() if text and NAMEABLE.fullmatch(text)}


def styled(char: str) -> str | None:
    """The plain form by Unicode's decomposition, or by name where it has none. Units such as ㎡ stay."""
    cp, kind, name = ord(char), decomposition_kind(char), unicodedata.name(char, "")
    plain = unicodedata.normalize("NFKC", char)
    if kind == "font" and PICTOGRAPH.match(char):
        return None
    if kind in ("font", "wide", "circle") or any(low <= cp <= high for low, high in COMPATIBLE):
        return plain
    if kind in ("square", "super", "sub"):
        return plain if len(plain) == 1 and plain.isalpha() and char not in "ªº" else None
    if 0x1D00 <= cp < 0x1D80 and (match := SMALL_CAPITAL.match(name)):
        return match[1]
    if kind == "" and NAMED.match(name):
        number = unicodedata.numeric(char, None)
        return name[-1] if number is None else str(int(number))
    return None


def decomposition_kind(char: str) -> str:
    """`wide`, `font`, `circle` ...; empty without a compatibility decomposition."""
    tag, bracket, _ = unicodedata.decomposition(char).partition(">")
    return tag.lstrip("<") if bracket else ""


def radicals() -> dict[str, str]:
    """Kangxi radicals, and ideographs that Unicode encodes twice."""
    found = {}
    for low, high in ((0x2E80, 0x2FDF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)):
        for char in map(chr, range(low, high + 1)):
            plain = unicodedata.normalize("NFKC", char)
            if plain != char and unicodedata.category(plain) == "Lo":
                found[char] = plain
    return found


def symbols_and_spaces() -> dict[str, str]:
    """Symbols and spaces of another width, and the blank braille pattern; they disguise no word."""
    found = {"\u2800": " "}
    for char in CHARACTERS[0x80:]:
        plain = unicodedata.normalize("NFKC", char)
        if unicodedata.category(char) == "Zs":
            found[char] = " "
        elif (
            decomposition_kind(char) in ("wide", "small") and char not in PUNCTUATION and not plain.isalnum()
        ) or char in "⁺₊":
            found[char] = plain
    return found


def hanzi_forms() -> tuple[dict[str, str], dict[str, str]]:
    """Traditional, regional and Japanese forms → simplified, and those that simplified text uses too."""
    every = [chr(cp) for low, high in IDEOGRAPHS for cp in range(low, high + 1)]
    every = [char for char in every if unicodedata.normalize("NFKC", char) == char]
    forms = {char: simple for char, simple in zip(every, simple_forms(every), strict=True) if char != simple}
    certain = {c: s for c, s in forms.items() if c not in SIMPLIFIED_TOO}
    ambiguous = {c: s for c, s in forms.items() if c in SIMPLIFIED_TOO}
    if len(ambiguous) != len(SIMPLIFIED_TOO):
        sys.exit(f"OpenCC no longer folds {set(SIMPLIFIED_TOO) - set(ambiguous)}; revise SIMPLIFIED_TOO")
    return {c: settle(s, certain, ambiguous) for c, s in certain.items()}, {
        c: settle(s, certain, ambiguous) for c, s in ambiguous.items()
    }


def simple_forms(chars: list[str]) -> list[str]:
    """OpenCC's first simplified form; a Japanese form only where simplified Chinese has the one and not the other."""
    mainland, taiwan, hong_kong = (convert(name, chars) for name in ("t2s", "tw2s", "hk2s"))
    japanese = convert("t2s", convert("jp2t", chars))
    found = []
    for i, char in enumerate(chars):
        regional = next((forms[i] for forms in (mainland, taiwan, hong_kong) if forms[i] != char), None)
        if regional is not None:
            found.append(char if char in "么后" else regional)
        else:
            found.append(japanese[i] if simplified(japanese[i]) and not simplified(char) else char)
    return found


def convert(name: str, chars: list[str]) -> list[str]:
    """Each character by itself."""
    return str(opencc.OpenCC(name).convert("\n".join(chars))).split("\n")


def simplified(char: str) -> bool:
    """Whether GB 2312, the character set of simplified text, has the character."""
    try:
        char.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


def settle(text: str, *folds: dict[str, str]) -> str:
    """Fold until nothing changes, so that a second pass finds nothing."""
    while True:
        folded = text
        for fold in folds:
            folded = "".join(fold.get(c, c) for c in folded)
        if folded == text:
            return text
        text = folded


def by_target(fold: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for source, target in fold.items():
        found[target] = found.get(target, "") + source
    return found


def split_characters(chaizi: str) -> str:
    """Triples (first, second, whole) in one string, for pairs that hold a bound component."""
    found: dict[str, str] = {}
    for line in chaizi.splitlines():
        whole, *ways = line.rstrip("\n").split("\t")
        for way in ways:
            parts = way.split()
            bound = len(parts) == 2 and way != "彳 亍" and (parts[0] in BOUND_LEFT or parts[1] in BOUND_RIGHT)
            if not bound or not all(len(part) == 1 and simplified_or_bound(part) for part in parts):
                continue
            if simplified(whole) and rank(whole) < rank(found.get("".join(parts), "\u9fff")):
                found["".join(parts)] = whole
    return "".join(f"{parts}{whole}" for parts, whole in sorted(found.items()))


def simplified_or_bound(part: str) -> bool:
    return part in BOUND_LEFT or part in BOUND_RIGHT or simplified(part)


def rank(char: str) -> tuple[bool, bytes]:
    """Common characters (level 1 of GB 2312) before others."""
    code = char.encode("gb2312", "replace")
    return (not b"\xb0\xa1" <= code <= b"\xd7\xf9", code)


def countries() -> list[str]:
    """Two-letter codes of ISO 3166 by way of the tz database (public domain)."""
    lines = (resources.files("tzdata") / "zoneinfo" / "iso3166.tab").read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[0] for line in lines if not line.startswith("#")]


def ranges(chars: Iterable[str]) -> list[list[int]]:
    """Sorted characters as inclusive ranges of code points."""
    found: list[list[int]] = []
    for cp in map(ord, chars):
        if found and found[-1][1] == cp - 1:
            found[-1][1] = cp
        else:
            found.append([cp, cp])
    return found


if __name__ == "__main__":
    main()
