"""From logits to calibrated probabilities, and the operating points fitted on them.

Plain numpy values; the fitting lives in the training package. Calibration is per-label Platt scaling
(Platt 1999): `sigmoid(slope * logit + intercept)`, monotone because `slope` is positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shudun.errors import BundleError


@dataclass(frozen=True, slots=True)
class Calibration:
    """Per-label Platt scaling; `slope` and `intercept` are float64 of shape `(num_labels,)`."""

    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.slope.shape != self.intercept.shape or self.slope.ndim != 1:
            raise BundleError(f"calibration: shapes {self.slope.shape} and {self.intercept.shape} must match")
        if not (np.isfinite(self.slope).all() and np.isfinite(self.intercept).all() and (self.slope > 0).all()):
            raise BundleError("calibration: expected finite intercepts and positive finite slopes")

    def apply(self, logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Calibrated probabilities of `logits` `(n, num_labels)`, same shape, float32 in [0, 1]."""
        z = logits.astype(np.float64) * self.slope + self.intercept
        return _sigmoid(z).astype(np.float32)

    @classmethod
    def identity(cls, num_labels: int) -> Calibration:
        """Plain sigmoid: slope 1, intercept 0."""
        return cls(np.ones(num_labels), np.zeros(num_labels))


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Thresholds of one label on calibrated probabilities, with what they were fitted on.

    `threshold` decides the label; `automatic` (at least `threshold`) is where an action needs no human, or
    `None`: never. `method` says how `threshold` was found; `precision`, `recall` and `positives` are those on the
    validation split (`precision_low` and `precision_high`: 95 % Wilson interval; null where undefined).
    """

    threshold: float
    automatic: float | None
    method: str
    positives: int
    precision: float | None
    precision_low: float | None
    precision_high: float | None
    recall: float | None

    def __post_init__(self) -> None:
        automatic = 1.0 if self.automatic is None else self.automatic
        if not 0.0 < self.threshold <= automatic <= 1.0:
            raise BundleError(
                f"operating point: expected 0 < threshold <= automatic <= 1, got {self.threshold} and {self.automatic}"
            )


def calibration_to_dict(
    label_ids: Sequence[str], calibration: Calibration, points: Sequence[OperatingPoint]
) -> dict[str, Any]:
    """Calibration and operating points by label id, as plain JSON values."""
    rows = zip(label_ids, calibration.slope, calibration.intercept, points, strict=True)
    return {
        label_id: {"slope": float(slope), "intercept": float(intercept)}
        | {name: getattr(point, name) for name in OperatingPoint.__slots__}
        for label_id, slope, intercept, point in rows
    }


def calibration_from_dict(
    label_ids: Sequence[str], data: Mapping[str, Any]
) -> tuple[Calibration, tuple[OperatingPoint, ...]]:
    """Inverse of `calibration_to_dict`, in the order of `label_ids`.

    Raises:
        BundleError: when labels are missing, foreign or in another order, or a value is unusable.
    """
    if not isinstance(data, Mapping) or list(data) != list(label_ids):
        got = list(data) if isinstance(data, Mapping) else type(data).__name__
        raise BundleError(f"calibration: expected labels {list(label_ids)} in this order, got {got}")
    try:
        calibration = Calibration(
            np.array([float(data[x]["slope"]) for x in label_ids]),
            np.array([float(data[x]["intercept"]) for x in label_ids]),
        )
        points = tuple(OperatingPoint(**{name: data[x][name] for name in OperatingPoint.__slots__}) for x in label_ids)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise BundleError(f"calibration: incomplete or mistyped entry: {error!r}") from error
    return calibration, points


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    # Two branches so that exp never overflows.
    e = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0, 1.0 / (1.0 + e), e / (1.0 + e)))
