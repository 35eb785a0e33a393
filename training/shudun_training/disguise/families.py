"""Disguise operators: each a named family with its variant class, the wording it acts on and how it writes it anew.

A family acts on whole words and whole contact runs, as people do. It knows contact wording, which it prefers, and
ordinary wording, so that it can act on clean texts too. It does not know labels, and it does not check whether a
filter would be deceived.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import TypeAlias

from shudun_training.disguise import glyphs, words
from shudun_training.disguise.readings import homophones, initials, pinyin
from shudun_training.text_edits import Edit

Write: TypeAlias = Callable[[str, Random], str | list[str]]
"""Writes a fragment anew: as a whole, or character by character (one entry for each).

Whatever comes back equal to what it stands for is left alone.
"""

ORDINARY_TOO = 0.15
"""Chance that ordinary wording is disguised as well where a text has contact wording."""

ORDINARY_EVERY = 25
"""Ordinary places are many: at full intensity about one in twice this many characters is written anew, one at least."""

PLAIN = (
    "inserted_symbols",
    "inserted_spaces",
    "plus_sign",
    "homophone_alias",
    "initials",
    "nickname",
    "emoji_word",
    "spoken_digits",
)
"""Families that anyone can type without a table of symbols."""

PLAIN_WEIGHT = 3

HANZI = "[\u4e00-\u9fff]"
RUN = r"(?<![A-Za-z0-9_])(?=[A-Za-z_.\-]*\d)[A-Za-z0-9][A-Za-z0-9_.\-]{3,}[A-Za-z0-9]"
"""What could be dialled or added: a run of letters, digits and joints with a digit in it."""

SYMBOLS = ".·-_~|/*、,'。=+^"
SPACES = (" ", " ", "\u3000", "  ")
EMOJI = ("🌸", "✨", "💕", "🍀", "⭐", "🔥", "🌙", "🎀", "🌈", "💫", "🫧", "🌿", "❗", "👉")
ZERO_WIDTH = ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff")
MARKS = ("\u00ad", "\u200e", "\u200f", "\ufe0f", "\u180e", "\U000e0020")


@dataclass(frozen=True, slots=True)
class Family:
    """One way of disguising: `contact` and `ordinary` find the wording, `write` gives its new form.

    A family that acts `throughout` writes anew whatever it finds, since nobody does it to a single word. `weight` is
    how often it is drawn beside the others: plain disguises are far commoner than exotic ones.
    """

    name: str
    variant: str
    contact: re.Pattern[str] | None
    ordinary: re.Pattern[str]
    write: Write
    throughout: bool = False
    weight: int = 1

    def edits(self, text: str, rng: Random, intensity: float) -> list[Edit]:
        """Edits of `text`, in order and apart; none where the family finds nothing to act on.

        Args:
            text: the text.
            rng: source of every choice.
            intensity: share of the contact wording that is disguised, 0 to 1; at least one place always is.
        """
        contact = self._places(self.contact, text, rng)
        chosen = _sample(contact, rng, sum(rng.random() < intensity for _ in contact[1:]))
        if not contact or rng.random() < ORDINARY_TOO:
            taken = [(place[0].start, place[-1].end) for place in contact]
            ordinary = [place for place in self._places(self.ordinary, text, rng) if _apart(place, taken)]
            more = int(rng.random() * (1 + intensity * len(text) / ORDINARY_EVERY))
            chosen += ordinary if self.throughout else _sample(ordinary, rng, more)
        return sorted((edit for place in chosen for edit in place), key=lambda edit: edit.start)

    def _places(self, pattern: re.Pattern[str] | None, text: str, rng: Random) -> list[list[Edit]]:
        found = [] if pattern is None else pattern.finditer(text)
        places = [_rewritten(match.start(), match[0], self.write(match[0], rng)) for match in found]
        return [place for place in places if place]


def _rewritten(start: int, word: str, new: str | list[str]) -> list[Edit]:
    if isinstance(new, str):
        return [Edit(start, start + len(word), new)] if new != word else []
    pairs = enumerate(zip(word, new, strict=True))
    return [Edit(start + i, start + i + 1, form) for i, (char, form) in pairs if form != char]


def _sample(places: list[list[Edit]], rng: Random, more: int) -> list[list[Edit]]:
    return rng.sample(places, min(1 + more, len(places)))


def _apart(place: list[Edit], taken: list[tuple[int, int]]) -> bool:
    return all(place[-1].end <= start or end <= place[0].start for start, end in taken)


@cache
def families(held_out: frozenset[str] = frozenset()) -> Mapping[str, Family]:
    """All families by name; forms that hold a held-out word are never chosen."""
    found = [*_inserting(), *_lettering(), *_wording(held_out), *_drawing(), *_numbering()]
    return {family.name: replace(family, weight=PLAIN_WEIGHT * (family.name in PLAIN) or 1) for family in found}


def _inserting() -> list[Family]:
    contact = _any_of(_contact_words(), RUN)
    clause = _any_of([], f"{HANZI}{{2,4}}")
    plus = re.compile(
        r"(?<![参增添更附追外])加(?=[我微薇威维vVwWqQ扣群🛰💚个一下])|\+(?=[我微薇威维vVwWqQ扣群🛰💚])|(?<=可)加"
    )
    joint = re.compile(
        rf"(?<={HANZI})(?:(?<![增参更添附追外])加(?![油班拿上盟工入强快深载速热重湿急倍固])|[+与、，]"
        rf"|(?<![温平柔暖随缓共饱总附亲祥])和(?![平谐解尚风服气蔼睦面])|跟(?![着踪前风进]))(?={HANZI})"
    )
    return [
        Family("zero_width", "V01", contact, clause, _between(ZERO_WIDTH)),
        Family("invisible_marks", "V01", contact, clause, _between(MARKS)),
        Family("inserted_symbols", "V03", contact, clause, _between(tuple(SYMBOLS))),
        Family("inserted_spaces", "V03", contact, clause, _between(SPACES)),
        Family("inserted_emoji", "V03", contact, clause, _between(EMOJI)),
        Family("plus_sign", "V04", plus, joint, lambda _, rng: rng.choice(("➕", "➕", "＋", "⊕", "✚"))),
    ]


def _lettering() -> list[Family]:
    run, letters = re.compile(rf"{RUN}|[A-Za-z]{{1,2}}(?=\s*[:：]?\s*{RUN})"), re.compile("[A-Za-z]+")
    any_ascii, digits = re.compile("[A-Za-z0-9]+"), re.compile(r"(?<![\d.])\d{1,5}(?![\d.])")
    return [
        Family("full_width", "V02", run, any_ascii, _glyphs(glyphs.full_width())),
        Family("styled_letters", "V02", run, any_ascii, _glyphs(*glyphs.styled())),
        Family("circled_letters", "V02", run, letters, _glyphs(*glyphs.circled_letters())),
        Family("circled_digits", "V02", re.compile(RUN), digits, _glyphs(*glyphs.circled_digits())),
        Family("keycap_digits", "V02", re.compile(RUN), digits, _glyphs(glyphs.KEYCAPS)),
        Family("confusable_letters", "V10", run, any_ascii, _confusable),
    ]


def _wording(held_out: frozenset[str]) -> list[Family]:
    common, hanzi, contact = _any_of(words.COMMON_WORDS), re.compile(HANZI), _any_of(_contact_words())
    sounds, letters, nicknames, emoji, own_nicknames, own_emoji = (
        {word: left for word, forms in table.items() if (left := _allowed(forms, held_out))} for table in words.TABLES
    )
    return [
        Family("homophone_alias", "V05", _any_of(sounds), hanzi, _chosen(sounds, _homophone)),
        Family("homophone_pinyin", "V05", contact, hanzi, _homophone),
        Family("initials", "V06", _any_of(letters), common, _chosen(letters, lambda word, _: initials(word))),
        Family("full_pinyin", "V06", contact, common, _spelled),
        Family(
            "nickname", "V07", _any_of(nicknames), _any_of(own_nicknames), _chosen(nicknames, _chosen(own_nicknames))
        ),
        Family("emoji_word", "V08", _any_of(emoji), _any_of(own_emoji), _chosen(emoji, _chosen(own_emoji))),
    ]


def _allowed(forms: tuple[str, ...], held_out: frozenset[str]) -> tuple[str, ...]:
    return tuple(form for form in forms if not any(word in form for word in held_out))


def _drawing() -> list[Family]:
    tables: list[tuple[str, str, Mapping[str, object], Write]] = [
        ("split_characters", "V09", glyphs.split(), _glyphs(glyphs.split())),
        ("radical_forms", "V10", glyphs.radicals(), _glyphs(glyphs.radicals())),
        ("similar_characters", "V10", glyphs.similar(), _similar),
    ]
    drawn = [
        Family(name, variant, _words_holding(table), re.compile(_class_of(table)), write)
        for name, variant, table, write in tables
    ]
    old = re.compile(_class_of(glyphs.traditional()))
    return [*drawn, Family("traditional", "V11", None, old, _glyphs(glyphs.traditional()), throughout=True)]


def _numbering() -> list[Family]:
    run, digits = re.compile(RUN), re.compile(r"(?<![\d.])\d{1,5}(?![\d.])")
    return [
        Family("spoken_digits", "V12", run, digits, _glyphs(glyphs.SPOKEN_DIGITS, glyphs.PLAIN_DIGITS)),
        Family("formal_digits", "V12", run, digits, _glyphs(glyphs.FORMAL_DIGITS)),
    ]


def _contact_words() -> list[str]:
    tables = (words.CONTACT_HOMOPHONES, words.CONTACT_INITIALS, words.CONTACT_NICKNAMES, words.CONTACT_EMOJI)
    return [
        word for word in dict.fromkeys(word for table in tables for word in table) if re.fullmatch(HANZI + "+", word)
    ]


def _words_holding(characters: Iterable[str]) -> re.Pattern[str]:
    known = set(characters)
    return _any_of(word for word in _contact_words() if known & set(word))


def _any_of(entries: Iterable[str], *patterns: str) -> re.Pattern[str]:
    literal = [re.escape(word) for word in sorted(entries, key=len, reverse=True)]
    # 加微信 holds 微信, not 加微. Without any entry nothing matches.
    bounded = [f"{word}(?!信)" if word.endswith("微") else word for word in literal]
    return re.compile("|".join([*bounded, *patterns]) or "(?!)")


def _class_of(characters: Iterable[str]) -> str:
    return f"[{re.escape(''.join(characters))}]"


def _chosen(forms: words.Forms, otherwise: Write = lambda word, _: word) -> Write:
    def write(word: str, rng: Random) -> str | list[str]:
        return rng.choice(forms[word]) if word in forms else otherwise(word, rng)

    return write


def _between(fillers: tuple[str, ...]) -> Write:
    def write(word: str, rng: Random) -> list[str]:
        filler = rng.choice(fillers)
        gaps = [rng.random() < 0.7 for _ in word[1:]]
        if gaps and not any(gaps):
            gaps[rng.randrange(len(gaps))] = True
        return [word[0], *(filler * gap + char for gap, char in zip(gaps, word[1:], strict=True))]

    return write


def _glyphs(*tables: glyphs.Glyphs) -> Write:
    def write(word: str, rng: Random) -> list[str]:
        table = rng.choice(tables)
        return [table.get(char, char) for char in word]

    return write


def _confusable(word: str, rng: Random) -> list[str]:
    forms = glyphs.CONFUSABLE_LETTERS
    return [rng.choice(forms[char]) if char in forms else char for char in word]


def _similar(word: str, rng: Random) -> list[str]:
    forms = glyphs.similar()
    return [rng.choice(forms[char]) if char in forms else char for char in word]


def _homophone(word: str, rng: Random) -> str:
    at = [i for i, char in enumerate(word) if homophones(char)]
    if not at:
        return word
    i = rng.choice(at)
    return word[:i] + rng.choice(homophones(word[i])) + word[i + 1 :]


def _spelled(word: str, rng: Random) -> str:
    if len(word) > 1 and rng.random() < 0.4:
        i = rng.randrange(len(word))
        return word[:i] + pinyin(word[i]) + word[i + 1 :]
    return pinyin(word)
