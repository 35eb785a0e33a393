"""Labels and their order: the only place that knows which column of a score matrix is which label.

A taxonomy is a dated, versioned definition apart from any weights. It knows families, tiers and exclusive
pairs, but not thresholds or actions (see `policy`), nor how it is stored (YAML for people, JSON in bundles).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from shudun.errors import TaxonomyError
from shudun.items import KINDS, Kind

TIER_RANK = {"T1": 1, "T2*": 2, "T2": 3, "T3": 4, "T4": 5}
"""Severity order of tiers; `T2*` holds only together with an outside signal and so ranks below `T2`."""


@dataclass(frozen=True, slots=True)
class Label:
    """One violation class: identity, family, tier, where it applies and how it is decided."""

    id: str
    name_zh: str
    family: str
    tier: str
    applies_to: tuple[Kind, ...]
    definition_zh: str = ""
    definition_en: str = ""
    decision_rule_zh: str = ""
    conditional_on: str = ""

    def __post_init__(self) -> None:
        if not self.id or not self.id.replace("_", "").isalnum() or not self.id.isascii():
            raise TaxonomyError(f"label id {self.id!r}: expected ASCII letters, digits and underscores")
        if self.tier not in TIER_RANK:
            raise TaxonomyError(f"label {self.id}: tier {self.tier!r} is not one of {', '.join(TIER_RANK)}")
        if not self.applies_to or not set(self.applies_to) <= set(KINDS):
            raise TaxonomyError(
                f"label {self.id}: applies_to {list(self.applies_to)} must be a non-empty subset of {list(KINDS)}"
            )


@dataclass(frozen=True)
class Taxonomy:
    """An ordered, versioned set of labels with exclusive pairs.

    `labels[i]` is column `i` of every array of shape `(n, num_labels)` in this project.
    """

    id: str
    version: str
    labels: tuple[Label, ...]
    exclusive: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.labels:
            raise TaxonomyError(f"taxonomy {self.id}: expected at least one label")
        duplicates = sorted({x for x in self.label_ids if self.label_ids.count(x) > 1})
        if duplicates:
            raise TaxonomyError(f"taxonomy {self.id}: label ids stand twice: {', '.join(duplicates)}")
        for pair in self.exclusive:
            if len(set(pair)) != 2 or not set(pair) <= set(self.label_ids):
                raise TaxonomyError(f"taxonomy {self.id}: exclusive pair {list(pair)} must name two known labels")

    @cached_property
    def label_ids(self) -> tuple[str, ...]:
        """Label ids in column order."""
        return tuple(label.id for label in self.labels)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Label id → column."""
        return {label_id: i for i, label_id in enumerate(self.label_ids)}

    @cached_property
    def tier_rank(self) -> NDArray[np.int64]:
        """Severity of each label, shape `(num_labels,)`."""
        return np.array([TIER_RANK[label.tier] for label in self.labels], dtype=np.int64)

    def applicable(self, kinds: Sequence[Kind]) -> NDArray[np.bool_]:
        """Which labels may hold for items of these kinds, shape `(len(kinds), num_labels)`."""
        per_kind = {kind: [kind in label.applies_to for label in self.labels] for kind in KINDS}
        mask = np.array([per_kind[kind] for kind in kinds], dtype=np.bool_)
        return mask.reshape(len(kinds), len(self.labels))

    def to_dict(self) -> dict[str, Any]:
        """The taxonomy as plain JSON values; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Taxonomy:
        """Build a taxonomy from parsed YAML or JSON.

        Raises:
            TaxonomyError: on unknown or missing keys, wrong types, duplicate labels, unknown tiers or kinds.
        """
        _require_keys("taxonomy", data, required={"id", "version", "labels"}, allowed={"exclusive"})
        exclusive = data.get("exclusive", ())
        if not isinstance(data["labels"], list | tuple) or not isinstance(exclusive, list | tuple):
            raise TaxonomyError("taxonomy: 'labels' and 'exclusive' must be lists")
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in exclusive):
            raise TaxonomyError("taxonomy: each entry of 'exclusive' must be a pair of label ids")
        return cls(
            id=str(data["id"]),
            version=str(data["version"]),
            labels=tuple(_label(entry) for entry in data["labels"]),
            exclusive=tuple((str(a), str(b)) for a, b in exclusive),
        )


def _label(entry: Any) -> Label:
    if not isinstance(entry, Mapping):
        raise TaxonomyError(f"taxonomy: each label must be a mapping, got {type(entry).__name__}")
    required = {"id", "name_zh", "family", "tier", "applies_to"}
    _require_keys(f"label {entry.get('id')}", entry, required, {field.name for field in fields(Label)})
    applies_to = entry["applies_to"]
    if not isinstance(applies_to, list | tuple) or not all(isinstance(kind, str) for kind in applies_to):
        raise TaxonomyError(f"label {entry['id']}: applies_to must be a list of {list(KINDS)}, got {applies_to!r}")
    values = {key: str(value) for key, value in entry.items() if key != "applies_to"}
    return Label(**values, applies_to=cast("tuple[Kind, ...]", tuple(applies_to)))


def _require_keys(what: str, data: Mapping[str, Any], required: set[str], allowed: set[str]) -> None:
    missing, unknown = sorted(required - set(data)), sorted(set(data) - required - allowed)
    if missing or unknown:
        raise TaxonomyError(f"{what}: missing keys {missing}, unknown keys {unknown}")
