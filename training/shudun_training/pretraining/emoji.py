"""Emoji that a vocabulary must hold: those of the texts, and common ones whatever the texts hold.

Which characters are emoji, and which are common, stands in `emoji.json` with its origin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class EmojiCover:
    """Collects the emoji of texts that pass by; as an iterable, the common emoji and then those, in first order."""

    def __init__(self) -> None:
        self._met: dict[str, None] = {}

    def watch(self, texts: Iterable[str]) -> Iterator[str]:
        """The same texts, while their emoji are collected."""
        for text in texts:
            self._met.update(dict.fromkeys(_emoji().findall(text)))
            yield text

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*common_emoji(), *self._met]))


def common_emoji() -> tuple[str, ...]:
    """The common emoji, each one code point."""
    return _data().common


@cache
def _emoji() -> re.Pattern[str]:
    spans = "".join(f"{chr(first)}-{chr(last)}" for first, last in _data().runs)
    return re.compile(f"[{spans}]")


class _Data(NamedTuple):
    common: tuple[str, ...]
    runs: list[tuple[int, int]]


@cache
def _data() -> _Data:
    text = files("shudun_training.pretraining").joinpath("emoji.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return _Data(tuple(data["common"]), data["emoji_presentation"])
