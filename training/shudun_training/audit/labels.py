"""Counts of labels per split, which of them stand together, and labels too rare to learn or to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shudun.items import KINDS
from shudun_training.audit.findings import Finding
from shudun_training.audit.table import Columns
from shudun_training.examples import POSITIVE, UNKNOWN

FEW_POSITIVES = 20
"""Fewer positives than this give no threshold worth the name."""

BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class LabelCounts:
    """Counts per split.

    Shapes: `rows` and `clean` `(num_splits,)`, `kinds` `(num_splits, 2)`, `positives` and `unknown`
    `(num_splits, num_labels)`, `together` `(num_splits, num_labels, num_labels)`: rows positive for both labels.
    `unknown` counts labels that apply to the kind of the row, but are not annotated.
    """

    rows: NDArray[np.int64]
    clean: NDArray[np.int64]
    kinds: NDArray[np.int64]
    positives: NDArray[np.int64]
    unknown: NDArray[np.int64]
    together: NDArray[np.int64]


def count_labels(columns: Columns, applicable: NDArray[np.bool_], splits: int) -> LabelCounts:
    """Count; `applicable` `(len(KINDS), num_labels)` says which labels a kind may have."""
    labels = columns.labels.shape[1]
    counts = LabelCounts(
        rows=np.bincount(columns.split, minlength=splits),
        clean=np.bincount(columns.split[columns.clean], minlength=splits),
        kinds=np.zeros((splits, len(KINDS)), dtype=np.int64),
        positives=np.zeros((splits, labels), dtype=np.int64),
        unknown=np.zeros((splits, labels), dtype=np.int64),
        together=np.zeros((splits, labels, labels), dtype=np.int64),
    )
    for start in range(0, len(columns), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        split, kind, given = columns.split[block], columns.kind[block], columns.labels[block]
        unknown = (given == UNKNOWN) & applicable[kind]
        for number in range(splits):
            rows = split == number
            positive = (given[rows] == POSITIVE).astype(np.int64)
            counts.kinds[number] += np.bincount(kind[rows], minlength=len(KINDS))
            counts.positives[number] += positive.sum(axis=0)
            counts.unknown[number] += unknown[rows].sum(axis=0)
            counts.together[number] += positive.T @ positive
    return counts


def label_findings(counts: LabelCounts, label_ids: Sequence[str], splits: Sequence[str]) -> list[Finding]:
    """Labels without positives, and with few of them, one finding for each split."""
    findings = []
    for number, split in enumerate(splits):
        positives = counts.positives[number]
        none = [label for label, count in zip(label_ids, positives, strict=True) if count == 0]
        few = [
            f"{label} {count}" for label, count in zip(label_ids, positives, strict=True) if 0 < count < FEW_POSITIVES
        ]
        message = f"{split}: no positive row of {', '.join(none)}"
        findings.append(Finding("labels_without_positives", len(none), message))
        message = f"{split}: fewer than {FEW_POSITIVES} positives of {', '.join(few)}"
        findings.append(Finding("few_positives", len(few), message))
    return findings
