"""Augmentation: rows written anew with disguised wording, by seed, row and epoch.

Rows with and without a violation are disguised equally often in every family, or "disguised" would be learned as
"violation": see `Augmenter.match_rates`. Labels never change, since a disguise changes no meaning. Knows nothing of
files and models.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from random import Random

from shudun.items import Item, Note
from shudun_training.disguise.families import Family, families
from shudun_training.disguise.selection import select_families
from shudun_training.examples import Example
from shudun_training.text_edits import Edit, apply_edits, move_span

MOST_FAMILIES = 3
ONE_MORE = 0.3
"""Chance of a second family in a row, and of a third after a second."""

RATE_ROWS = 800
"""Rows of each side on which the reach of a family is measured: a share is known to within two points or so."""


@dataclass(frozen=True, slots=True)
class Change:
    """A span `[start, end)` of a field of the new item that a family wrote."""

    field: str
    start: int
    end: int
    family: str
    variant: str


@dataclass(frozen=True, slots=True)
class Augmented:
    """An item after augmentation: the changed spans, in code points of the new texts, and the way to move others.

    `steps` holds the edits of one family in one field each, in the order in which they were made.
    """

    item: Item
    changes: tuple[Change, ...] = ()
    steps: tuple[tuple[str, tuple[Edit, ...]], ...] = field(default=(), repr=False)

    @property
    def variants(self) -> frozenset[str]:
        """Variant classes that were written into the item."""
        return frozenset(change.variant for change in self.changes)

    @property
    def families(self) -> tuple[str, ...]:
        """Families that acted, in the order in which they did."""
        return tuple(dict.fromkeys(change.family for change in self.changes))

    def move(self, field_name: str, start: int, end: int) -> tuple[int, int]:
        """Where a span of a field of the item before augmentation lies now."""
        for name, edits in self.steps:
            if name == field_name:
                start, end = move_span(start, end, edits)
        return start, end


class Augmenter:
    """Disguises examples; the same seed, row id and epoch give the same text in any order and process."""

    def __init__(
        self,
        *,
        probability: float = 1.0,
        names: Collection[str] | None = None,
        held_out: Collection[str] = (),
        intensity: float = 0.6,
        seed: int,
    ) -> None:
        """Choose families.

        Args:
            probability: share of the rows that are disguised in an epoch, 0 to 1.
            names: families in use; all by default.
            held_out: families and alias words that are never written, so that they can be kept for tests.
            intensity: share of the contact wording of a row that is disguised, 0 to 1.
            seed: seed of every choice.

        Raises:
            ShudunError: an unknown family or alias word, or no family left.
        """
        self.families = select_families(names, held_out)
        self.held_out_words = tuple(sorted(set(held_out) - set(families())))
        self.probability = probability
        self.intensity = intensity
        self.seed = seed
        self.rates: Mapping[tuple[str, bool], float] = {}

    def match_rates(self, examples: Iterable[Example]) -> Augmenter:
        """Make each family act equally often on rows with a violation and on rows without.

        Contact wording stands in violations above all, so a family that finds less to act on in clean rows would mark
        the others. Its reach is measured on up to `RATE_ROWS` rows of each side, chosen by id alone, and the side
        that it reaches more often is disguised by it as often as the other. Rows of one side alone match nothing.
        """
        by_side: dict[bool, list[Example]] = {True: [], False: []}
        for example in examples:
            by_side[bool(example.labels)].append(example)
        reach = {
            (family.name, side): self._reach(family, heapq.nsmallest(RATE_ROWS, rows, key=self._draw_of))
            for side, rows in by_side.items()
            for family in self.families
            if all(by_side.values())
        }
        self.rates = {
            (name, side): min(share, reach[name, not side]) / share for (name, side), share in reach.items() if share
        }
        return self

    def __call__(self, example: Example, epoch: int) -> Augmented:
        """The example's item, disguised or as it is; its labels are left alone."""
        rng = self._rng(example, epoch)
        augmented = Augmented(example.item)
        if rng.random() >= self.probability:
            return augmented
        for family in self._draw(rng):
            if rng.random() < self.rates.get((family.name, bool(example.labels)), 1.0):
                augmented = _extended(augmented, family, self._step(augmented.item, family, rng))
        return augmented

    def _reach(self, family: Family, rows: list[Example]) -> float:
        return sum(bool(self._step(row.item, family, self._rng(row, -1))) for row in rows) / len(rows)

    def _draw_of(self, example: Example) -> float:
        return self._rng(example, -1).random()

    def _rng(self, example: Example, epoch: int) -> Random:
        return Random(f"{self.seed}/{epoch}/{_key(example)}")  # noqa: S311

    def _draw(self, rng: Random) -> list[Family]:
        count = 1
        while count < MOST_FAMILIES and rng.random() < ONE_MORE:
            count += 1
        weights = [family.weight for family in self.families]
        return list(dict.fromkeys(rng.choices(self.families, weights, k=count)))

    def _step(self, item: Item, family: Family, rng: Random) -> dict[str, list[Edit]]:
        """Edits by field; the parent text of a comment is not its writer's and stays."""
        found = {}
        for name in ("title", "text") if isinstance(item, Note) else ("text",):
            text = getattr(item, name)
            edits = family.edits(text, rng, self.intensity)
            if edits and not self._writes_held_out(text, apply_edits(text, edits)):
                found[name] = edits
        return found

    def _writes_held_out(self, before: str, after: str) -> bool:
        return any(after.count(word) > before.count(word) for word in self.held_out_words)


def _key(example: Example) -> str:
    return example.id if example.id is not None else example.item.text


def _extended(before: Augmented, family: Family, found: Mapping[str, list[Edit]]) -> Augmented:
    item, changes, steps = before.item, before.changes, before.steps
    for name, edits in found.items():
        item = _rewritten(item, name, apply_edits(getattr(item, name), edits))
        changes = tuple(_moved(change, name, edits) for change in changes)
        changes += tuple(Change(name, *span, family.name, family.variant) for span in _written(edits))
        steps += ((name, tuple(edits)),)
    return Augmented(item, changes, steps)


def _rewritten(item: Item, name: str, text: str) -> Item:
    if isinstance(item, Note) and name == "title":
        return replace(item, title=text)
    return replace(item, text=text)


def _moved(change: Change, name: str, edits: list[Edit]) -> Change:
    if change.field != name:
        return change
    start, end = move_span(change.start, change.end, edits)
    return replace(change, start=start, end=end)


def _written(edits: list[Edit]) -> list[tuple[int, int]]:
    """Spans of the new text that the edits wrote; neighbours count as one."""
    spans: list[tuple[int, int]] = []
    shift = 0
    for edit in edits:
        start, end = edit.start + shift, edit.start + shift + len(edit.new)
        shift += len(edit.new) - (edit.end - edit.start)
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, end))
    return spans
