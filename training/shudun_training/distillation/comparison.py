"""Teachers on the rows of the report, measured by the rules that the student and the baseline are measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from shudun.policy import select_labels
from shudun.taxonomy import Taxonomy
from shudun_training.bootstrap import Predictions
from shudun_training.config import ThresholdConfig
from shudun_training.examples import Example, label_matrix
from shudun_training.thresholds import fit_calibration, fit_operating_points


def teacher_predictions(
    logits: Mapping[str, NDArray[np.float32]],
    split: str,
    rows: Mapping[str, Sequence[Example]],
    taxonomy: Taxonomy,
    thresholds: ThresholdConfig,
) -> Predictions:
    """Scores and decisions on the rows of `split`; calibration and thresholds are fitted on validation.

    `logits`: split → `(n, num_labels)`, NaN in columns of labels that the teacher does not know; so are its scores.
    """
    silent = np.isnan(logits["validation"]).all(axis=0)
    labels = label_matrix(rows["validation"], taxonomy)
    calibration = fit_calibration(np.nan_to_num(logits["validation"]), labels)
    points = fit_operating_points(calibration.apply(np.nan_to_num(logits["validation"])), labels, thresholds)
    applicable = taxonomy.applicable([example.item.kind for example in rows[split]])
    scores = np.where(applicable, calibration.apply(np.nan_to_num(logits[split])), np.float32(0.0))
    exclusive = [(taxonomy.index[a], taxonomy.index[b]) for a, b in taxonomy.exclusive]
    limits = np.array([point.threshold for point in points], dtype=np.float32)
    selected = select_labels(scores, applicable & ~silent, limits, exclusive)
    return Predictions(np.where(silent, np.float32(np.nan), scores), selected, points)
