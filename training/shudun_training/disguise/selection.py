"""Which families are in use, and which families and alias words are kept for tests."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

from shudun.errors import ShudunError
from shudun_training.disguise import words
from shudun_training.disguise.families import Family, families


def select_families(names: Collection[str] | None, held_out: Collection[str]) -> tuple[Family, ...]:
    """Families in use, in the order of their definition.

    Raises:
        ShudunError: an unknown family or alias word, or no family left.
    """
    known = families()
    if unknown := sorted(set(names or ()) - set(known)):
        raise ShudunError(f"unknown disguise families: {', '.join(unknown)}; known: {', '.join(known)}")
    if unknown := sorted(set(held_out) - set(known) - alias_words()):
        raise ShudunError(f"held out, but neither a family nor an alias word: {', '.join(unknown)}")
    chosen = tuple(
        family for name, family in known.items() if (names is None or name in names) and name not in held_out
    )
    if not chosen:
        raise ShudunError("no disguise family is left: all are held out")
    return chosen


def alias_words() -> frozenset[str]:
    """Every alias that stands in a table."""
    return frozenset(chain.from_iterable(forms for table in words.TABLES for forms in table.values()))
