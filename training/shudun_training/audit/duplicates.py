"""What stands in two places: groups and near-duplicates in two splits, and labels on which near-duplicates differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shudun_training.audit.findings import EXAMPLES, Finding
from shudun_training.audit.table import Columns, RowTable
from shudun_training.examples import NEGATIVE, POSITIVE
from shudun_training.near_duplicates import join_equal
from shudun_training.placement import spread

MANY_DUPLICATES = 0.05
"""Share of repeated rows of a split from which they are reported."""


def leakage(
    check: str, what: str, clusters: NDArray[np.int64], columns: Columns, table: RowTable, splits: Sequence[str]
) -> Finding:
    """Clusters `(n,)` with rows in more than one split, as a finding of `check`."""
    shared = spread(clusters, columns.split)
    examples = []
    for cluster in shared[:EXAMPLES].tolist():
        rows = np.flatnonzero(clusters == cluster)
        _, first = np.unique(columns.split[rows], return_index=True)
        shown = rows[np.sort(first)]
        names = [splits[number] for number in columns.split[shown].tolist()]
        examples.append(" ~ ".join(f"{name}: {line}" for name, line in zip(names, table.excerpts(shown), strict=True)))
    return Finding(check, len(shared), f"{len(shared):,} {what} in more than one split", tuple(examples))


def duplicates_within(clusters: NDArray[np.int64], columns: Columns, splits: Sequence[str]) -> list[Finding]:
    """Splits of which many rows repeat another row of the same split."""
    findings = []
    for number, name in enumerate(splits):
        inside = clusters[columns.split == number]
        repeated = len(inside) - len(np.unique(inside))
        if repeated > MANY_DUPLICATES * len(inside):
            message = f"{name}: {repeated:,} of {len(inside):,} rows ({repeated / len(inside):.1%}) repeat another row"
            findings.append(Finding("duplicates_within_split", repeated, message))
    return findings


def conflicts(
    clusters: NDArray[np.int64], columns: Columns, table: RowTable, label_ids: Sequence[str]
) -> list[Finding]:
    """Labels that are positive on one row and negative on a near-duplicate of it, one finding for each label."""
    inverse, counts = np.unique(clusters, return_inverse=True, return_counts=True)[1:]
    rows = np.flatnonzero(counts[inverse] > 1)
    findings = []
    for index, label in enumerate(label_ids):
        given = columns.labels[rows, index]
        torn = np.intersect1d(clusters[rows[given == POSITIVE]], clusters[rows[given == NEGATIVE]])
        examples = []
        for cluster in torn[:EXAMPLES].tolist():
            members = rows[clusters[rows] == cluster]
            values = columns.labels[members, index]
            pair = [members[values == POSITIVE][0], members[values == NEGATIVE][0]]
            yes, no = table.excerpts(np.array(pair))
            examples.append(f"positive: {yes} ~ negative: {no}")
        message = f"{label}: {len(torn):,} families of near-duplicates hold rows with and without it"
        findings.append(Finding("conflicting_labels", len(torn), message, tuple(examples)))
    return findings


def clusters_of_keys(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Cluster numbers `(n,)` of equal keys; a row with key 0 is alone."""
    return join_equal(np.arange(len(keys), dtype=np.int64), keys)
