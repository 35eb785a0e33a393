"""Fitting of calibration and operating points, on the validation split only.

Calibration is Platt scaling per label, shrunk towards the identity so that a handful of positives cannot bend
it far. Thresholds reach a precision target with the largest recall, or else the best F1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from shudun.calibration import Calibration, OperatingPoint
from shudun_training.config import ThresholdConfig
from shudun_training.examples import POSITIVE, UNKNOWN

PRIOR_STRENGTH = 2.0
"""Weight of the pull towards the identity, in observations."""

SLOPE_BOUNDS = (math.log(0.05), math.log(20.0))


def fit_calibration(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Calibration:
    """Fit slope and intercept of each label on its known cells.

    Args:
        logits: `(n, num_labels)`.
        labels: `(n, num_labels)`, as in `examples`; labels with one known class only keep the identity.
    """
    fitted = [_fit_label(logits[:, i], labels[:, i]) for i in range(logits.shape[1])]
    slope, intercept = np.array(fitted, dtype=np.float64).T
    return Calibration(slope, intercept)


def fit_operating_points(
    scores: NDArray[np.float32], labels: NDArray[np.int64], config: ThresholdConfig
) -> tuple[OperatingPoint, ...]:
    """Choose thresholds of each label on calibrated scores `(n, num_labels)` and known cells of `labels`."""
    known = labels != UNKNOWN
    return tuple(
        _fit_point(scores[known[:, i], i], labels[known[:, i], i] == POSITIVE, config) for i in range(scores.shape[1])
    )


def wilson_interval(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    rate, shrink = hits / total, 1 + z * z / total
    centre = (rate + z * z / (2 * total)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def _fit_label(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float]:
    known = labels != UNKNOWN
    z, y = logits[known].astype(np.float64), (labels[known] == POSITIVE).astype(np.float64)
    if not 0 < y.sum() < y.size:
        return 1.0, 0.0

    def objective(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slope = math.exp(x[0])
        margin = slope * z + x[1]
        loss = np.logaddexp(0.0, margin) - y * margin
        residual = 0.5 * (1.0 + np.tanh(margin / 2.0)) - y
        gradient = np.array([(residual * slope * z).sum(), residual.sum()])
        return float(loss.sum() + PRIOR_STRENGTH * (x @ x) / 2), gradient + PRIOR_STRENGTH * x

    result = minimize(objective, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[SLOPE_BOUNDS, (None, None)])
    return math.exp(result.x[0]), float(result.x[1])


def _fit_point(scores: NDArray[np.float32], truth: NDArray[np.bool_], config: ThresholdConfig) -> OperatingPoint:
    if truth.sum() < config.min_positives:
        return _point(0.5, None, f"default (fewer than {config.min_positives} positives)", scores, truth)
    if truth.all():
        return _point(0.5, None, "default (no negatives)", scores, truth)
    thresholds, precision, recall, flagged = _curve(scores, truth)
    enough = flagged >= config.min_automatic
    automatic = _reach(thresholds[enough], precision[enough], config.automatic_precision)
    chosen = None if config.precision is None else _reach(thresholds, precision, config.precision)
    method = f"precision >= {config.precision:g}" if chosen is not None else "best F1"
    if chosen is None:
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        chosen = float(thresholds[int(np.argmax(f1))])
    return _point(chosen, None if automatic is None else max(automatic, chosen), method, scores, truth)


def _curve(
    scores: NDArray[np.float32], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Falling thresholds halfway between neighbouring scores; precision, recall and rows flagged at each."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order].astype(np.float64), np.cumsum(truth[order])
    last = np.append(ranked[1:] < ranked[:-1], True)  # the last row of each run of equal scores
    upper, lower = ranked[last], np.append(ranked[1:], 0.0)[last]
    halfway = ((upper + lower) / 2).astype(np.float32).astype(np.float64)
    # Between neighbouring float32 scores there is no third one: halfway would round down to the lower of them.
    thresholds = np.clip(np.where(halfway > lower, halfway, upper), 1e-6, 1.0)
    flagged = np.arange(1, len(ranked) + 1)[last]
    return thresholds, hits[last] / flagged, hits[last] / truth.sum(), flagged


def _reach(thresholds: NDArray[np.float64], precision: NDArray[np.float64], target: float) -> float | None:
    """The lowest threshold, and so the largest recall, with at least this precision."""
    reached = np.flatnonzero(precision >= target)
    return float(thresholds[reached[-1]]) if reached.size else None


def _point(
    threshold: float, automatic: float | None, method: str, scores: NDArray[np.float32], truth: NDArray[Any]
) -> OperatingPoint:
    flagged = scores >= np.float32(threshold)
    hits, total, positives = int((flagged & truth).sum()), int(flagged.sum()), int(truth.sum())
    low, high = wilson_interval(hits, total) if total else (None, None)
    return OperatingPoint(
        threshold=threshold,
        automatic=automatic,
        method=method,
        positives=positives,
        precision=hits / total if total else None,
        precision_low=low,
        precision_high=high,
        recall=hits / positives if positives else None,
    )
