"""The character tables of the normaliser: generated data, loaded on first use and kept.

The data file is made by scripts/make_normalization_data.py from Unicode data (Unicode License v3), OpenCC
(Apache-2.0), chaizi (CC BY 3.0, github.com/kfcd/chaizi) and the tz database (public domain). This module knows
which character becomes what; which contexts matter is in `normalization_rules`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = ("", "V01", "V02", "V10", "V11")
"""Disguise classes of folded characters by their number in `Tables.classes`; the empty one is no disguise."""

FAR = "\U0001bca0-\U0001f1ff\U00020000-\U0010ffff"
"""Blocks beyond U+FFFF that hold folded characters: a few wide ranges keep the search for them fast."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Folds of single characters, and the sets that the contextual rules need.

    `fold`: argument of `str.translate`; `lengths`, `classes`: uint8 `(0x110000,)`, by code point the length after
    folding and the index in `CLASSES`; `near`: folded characters up to U+FFFF; `traditional`: finds a character up
    to U+FFFF that only traditional or Japanese text has; `in_context`: forms folded only beside such; `flags`: country
    codes with a flag; `split`: two halves → the character; `bound`: halves that never stand alone, left and right ones.
    `near` and `pictographs` (emoji) are the insides of regular-expression sets.
    """

    fold: Mapping[int, str]
    lengths: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    near: str
    traditional: re.Pattern[str]
    in_context: Mapping[int, int]
    pictographs: str
    flags: frozenset[str]
    split: Mapping[str, str]
    bound: tuple[str, str]


@cache
def tables() -> Tables:
    """The tables; the first call reads the data file (some 20 ms)."""
    data = json.loads((resources.files("shudun") / "normalization_data.json").read_text(encoding="utf-8"))
    folds = _folds(data)
    mapping = {ord(source): target for fold in folds.values() for source, target in fold.items()}
    lengths = np.ones(sys.maxunicode + 1, dtype=np.uint8)
    classes = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    lengths[list(mapping)] = [len(target) for target in mapping.values()]
    for name, fold in folds.items():
        classes[[ord(source) for source in fold]] = CLASSES.index(name)
    split = data["split"]
    near = "".join(chr(cp) for cp in sorted(mapping) if cp <= 0xFFFF)
    sources, targets = data["traditional_in_context"]
    return Tables(
        fold=mapping,
        lengths=lengths,
        classes=classes,
        near=re.escape(near),
        traditional=re.compile("[" + "".join(c for c in data["traditional"][0] if c <= "\uffff") + "]"),
        in_context=str.maketrans(sources, targets),
        pictographs=as_set(data["pictographs"]),
        flags=frozenset(data["flags"]),
        split={split[i : i + 2]: split[i + 2] for i in range(0, len(split), 3)},
        bound=(data["bound"][0], data["bound"][1]),
    )


def as_set(ranges: Iterable[tuple[int, int]]) -> str:
    """Ranges of code points as the inside of a regular-expression set."""
    return "".join(re.escape(chr(low)) + "-" + re.escape(chr(high)) for low, high in ranges)


def _folds(data: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Disguise class → character → replacement; one that shows nothing is replaced by nothing."""
    folds = {
        name: {source: target for target, sources in group.items() for source in sources}
        for name, group in data["fold"].items()
    }
    folds["V01"] = dict.fromkeys((chr(cp) for low, high in data["dropped"] for cp in range(low, high + 1)), "")
    folds["V11"] = dict(zip(*data["traditional"], strict=True))
    return folds
