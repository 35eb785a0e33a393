"""Paired bootstrap over rows: how much two systems differ on the same rows, with 95 % intervals (Efron 1979).

Works on scores, decisions and references alone; knows nothing of models, runs or reports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shudun.calibration import OperatingPoint
from shudun_training.examples import POSITIVE, UNKNOWN

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)

Interval = dict[str, float]
"""`delta` (observed), `low`, `high`, `resamples`."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Scores and decisions of one system on the same rows, both `(n, num_labels)`, and its thresholds."""

    scores: NDArray[np.float32]
    selected: NDArray[np.bool_]
    points: tuple[OperatingPoint, ...] = ()

    def part(self, rows: slice) -> Predictions:
        """The same of some of the rows."""
        return Predictions(self.scores[rows], self.selected[rows], self.points)


@dataclass(frozen=True, slots=True)
class Differences:
    """One system minus another: `macro_f1` and `macro_ap`, and `f1` and `ap` of each label in column order.

    `None` where a figure is undefined: no known positive.
    """

    macro: dict[str, Interval | None]
    per_label: list[dict[str, Interval | None]]


def paired_bootstrap(
    model: Predictions, baseline: Predictions, references: NDArray[np.int64], *, seed: int
) -> dict[str, Interval | None]:
    """Model minus baseline in macro F1 and macro AP, with 95 % intervals over resampled rows."""
    return paired_differences(model, baseline, references, seed=seed).macro


def paired_differences(
    model: Predictions, baseline: Predictions, references: NDArray[np.int64], *, seed: int
) -> Differences:
    """Model minus baseline, overall and for each label; references `(n, num_labels)` as in `examples`."""
    rows, width = references.shape
    rng = np.random.default_rng(seed)
    # Row 0 weighs every row once: the observed difference.
    weights = np.vstack([np.ones(rows), rng.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES)])
    labels = np.flatnonzero((references == POSITIVE).any(axis=0))
    macro: dict[str, Interval | None] = {}
    per_label: list[dict[str, Interval | None]] = [{"f1": None, "ap": None} for _ in range(width)]
    for name, statistic in _STATISTICS.items():
        ours, theirs = (statistic(system, references, labels, weights) for system in (model, baseline))
        macro[f"macro_{name}"] = _interval(_mean_defined(ours) - _mean_defined(theirs))
        for label, values in zip(labels, (ours - theirs).T, strict=True):
            per_label[label][name] = _interval(values)
    return Differences(macro, per_label)


def _f1(
    predictions: Predictions, references: NDArray[np.int64], labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """F1 `(resamples, labels)` of some label columns under each row of `weights` `(resamples, n)`."""
    truth = (references == POSITIVE)[:, labels].astype(np.float64)
    flagged = (predictions.selected & (references != UNKNOWN))[:, labels].astype(np.float64)
    hits, positives, total = weights @ (truth * flagged), weights @ truth, weights @ (truth + flagged)
    return np.where(positives > 0, 2 * hits / np.maximum(total, 1), np.nan)


def _ap(
    predictions: Predictions, references: NDArray[np.int64], labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average precision `(resamples, labels)` of some label columns under each row of `weights`."""
    columns = []
    for label in labels:
        known = np.flatnonzero(references[:, label] != UNKNOWN)
        order = known[np.argsort(-predictions.scores[known, label], kind="stable")]
        scores, truth = predictions.scores[order, label], (references[order, label] == POSITIVE).astype(np.float64)
        # Rows of equal score are flagged together: the figure may not depend on the order of rows.
        ends = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))
        hits, flagged = (np.cumsum(weights[:, order] * part, axis=1)[:, ends] for part in (truth, 1.0))
        positives = hits[:, -1]
        total = (np.diff(hits, axis=1, prepend=0) * hits / np.maximum(flagged, 1)).sum(axis=1)
        columns.append(np.where(positives > 0, total / np.maximum(positives, 1), np.nan))
    return np.stack(columns, axis=1) if columns else np.empty((len(weights), 0))


_STATISTICS: dict[str, Callable[..., NDArray[np.float64]]] = {"f1": _f1, "ap": _ap}


def _mean_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Row means over the labels that a resample still has, NaN where it has none."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=1)
    return np.where(defined.any(axis=1), total / np.maximum(defined.sum(axis=1), 1), np.nan)


def _interval(values: NDArray[np.float64]) -> Interval | None:
    if np.isnan(values[0]):
        return None
    low, high = np.nanpercentile(values[1:], INTERVAL)
    return {"delta": float(values[0]), "low": float(low), "high": float(high), "resamples": RESAMPLES}
