"""Several teachers as one: the weighted mean of their logits, label by label, over those who know the label.

A mean of logits is the geometric mean of the odds (a logarithmic opinion pool: Genest and Zidek 1986). Teachers whose
logits differ in scale would count by their scale, so each is calibrated on the validation rows first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shudun.calibration import Calibration
from shudun_training.thresholds import fit_calibration


@dataclass(frozen=True, slots=True)
class Voice:
    """What one teacher has to say in terms of the taxonomy.

    `columns`: its column for each label, `None` where it is silent; `calibration`: of the taxonomy's labels.
    """

    weight: float
    columns: Sequence[int | None]
    calibration: Calibration

    def speak(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated logits in the taxonomy's order, `(n, num_labels)`, NaN where silent, from the teacher's own."""
        placed = placed_logits(logits, self.columns)
        return (placed * self.calibration.slope + self.calibration.intercept).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "weight": self.weight,
            "columns": list(self.columns),
            "slope": self.calibration.slope.tolist(),
            "intercept": self.calibration.intercept.tolist(),
        }


def placed_logits(logits: NDArray[np.float32], columns: Sequence[int | None]) -> NDArray[np.float32]:
    """Columns in the taxonomy's order, NaN where there is none: `(n, len(columns))`."""
    silent = np.full(len(logits), np.nan, dtype=np.float32)
    return np.stack([silent if column is None else logits[:, column] for column in columns], axis=1)


def voice(
    weight: float,
    columns: Sequence[int | None],
    validation_logits: NDArray[np.float32],
    validation_labels: NDArray[np.int64],
    *,
    calibrate: bool,
) -> Voice:
    """A teacher's voice, calibrated on its own logits `(n, its labels)` and the labels `(n, num_labels)` if asked."""
    calibration = Calibration.identity(len(columns))
    if calibrate:
        # A silent column has no logits to fit; it stays NaN whatever its slope.
        placed = np.nan_to_num(placed_logits(validation_logits, columns))
        calibration = fit_calibration(placed, validation_labels)
    return Voice(weight, columns, calibration)


def mean_logits(spoken: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> NDArray[np.float32]:
    """Weighted mean of what the teachers say, `(n, num_labels)` each; NaN where all are silent."""
    total = np.zeros(spoken[0].shape, dtype=np.float64)
    weight = np.zeros(spoken[0].shape, dtype=np.float64)
    for logits, share in zip(spoken, weights, strict=True):
        said = ~np.isnan(logits)
        total[said] += share * logits[said]
        weight += share * said
    mean = np.full(total.shape, np.nan)
    np.divide(total, weight, out=mean, where=weight > 0)
    return mean.astype(np.float32)
