"""Training rows: an item with three-valued labels.

A label of a row is positive, negative or unknown. Unknown labels carry no loss and no metric; they come from
`unknown_labels`, from a source that does not annotate a label, from rows without `labels`, and from labels
that do not apply to the kind of item.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shudun.items import Item, is_blank
from shudun.rows import Row, parse_item
from shudun.taxonomy import Taxonomy
from shudun_training.evidence import parse_evidence

POSITIVE, NEGATIVE, UNKNOWN = 1, 0, -100
"""Values in label matrices; -100 is torch's ignore index, so that Trainer counts known labels correctly."""

ITEM_FIELDS = frozenset({"id", "kind", "title", "text", "parent_text", "labels", "unknown_labels"})


@dataclass(frozen=True, slots=True)
class Example:
    """One validated row. `labels` and `unknown_labels` are disjoint label ids; all others are negative.

    `meta` holds the row's other columns as they stand there (group, vertical, evidence, ...).
    """

    item: Item
    labels: frozenset[str]
    unknown_labels: frozenset[str]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str | None:
        """The item's id."""
        return self.item.id


class ExampleParser:
    """Parses rows into examples against a taxonomy; `annotated` limits which labels the source annotates."""

    def __init__(self, taxonomy: Taxonomy, annotated: Collection[str] | None = None) -> None:
        self._known = frozenset(taxonomy.label_ids)
        self._annotated = self._known if annotated is None else frozenset(annotated)
        self._applies = {label.id: frozenset(label.applies_to) for label in taxonomy.labels}
        self._exclusive = taxonomy.exclusive
        if unknown := sorted(self._annotated - self._known):
            raise ValueError(f"annotated_labels: not in taxonomy {taxonomy.id}: {', '.join(unknown)}")

    def __call__(self, row: Row) -> Example:
        """Parse one row.

        Raises:
            RowError: a bad item field, an unknown, repeated, inapplicable or contradictory label, or
                evidence that does not fit the row.
        """
        item = parse_item(row)
        if is_blank(item):
            raise row.problem("text", "a non-blank text", row.get("text"), "Remove the row: there is nothing to label.")
        labels = self._label_set(row, "labels")
        unknown = self._label_set(row, "unknown_labels") or frozenset()
        if labels is None:
            unknown, labels = self._known, frozenset()
        else:
            self._check(row, item, labels, unknown)
            unknown |= self._known - self._annotated
        parse_evidence(row, labels, self._known)
        meta = {key: value for key, value in row.record.values.items() if key not in ITEM_FIELDS}
        return Example(item=item, labels=labels, unknown_labels=unknown, meta=meta)

    def _label_set(self, row: Row, field_name: str) -> frozenset[str] | None:
        names = row.string_list(field_name)
        if names is None:
            return None
        if unknown := sorted(set(names) - self._known):
            known = ", ".join(sorted(self._known))
            raise row.problem(field_name, f"labels of the taxonomy ({known})", unknown[0], "Correct the label name.")
        if len(set(names)) != len(names):
            raise row.problem(field_name, "each label once", names, "Remove the repetition.")
        return frozenset(names)

    def _check(self, row: Row, item: Item, labels: frozenset[str], unknown: frozenset[str]) -> None:
        for label in sorted(labels):
            if item.kind not in self._applies[label]:
                kinds = " or ".join(sorted(self._applies[label]))
                raise row.problem("labels", f"{label} on a {kinds} only", item.kind, "Remove the label, or fix kind.")
            if label not in self._annotated:
                hint = "Add it to annotated_labels of the source, or remove it."
                raise row.problem("labels", "labels that this source annotates", label, hint)
        if both := sorted(labels & unknown):
            raise row.problem("unknown_labels", "no label that stands in labels", both[0], "Keep it in one of the two.")
        for a, b in self._exclusive:
            if a in labels and b in labels:
                raise row.problem("labels", f"at most one of {a} and {b}", sorted(labels), "They exclude each other.")


def label_matrix(examples: Sequence[Example], taxonomy: Taxonomy) -> NDArray[np.int64]:
    """Labels as an array `(n, num_labels)` of `POSITIVE`, `NEGATIVE` and `UNKNOWN`, in taxonomy order."""
    matrix = np.where(taxonomy.applicable([example.item.kind for example in examples]), NEGATIVE, UNKNOWN)
    for row, example in enumerate(examples):
        for label in example.unknown_labels:
            matrix[row, taxonomy.index[label]] = UNKNOWN
        for label in example.labels:
            matrix[row, taxonomy.index[label]] = POSITIVE
    return matrix.astype(np.int64)
