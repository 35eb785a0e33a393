"""Multi-label metrics over known labels, as an `evaluate` module that loads offline from its own folder.

References are 1 (positive), 0 (negative) or -100 (unknown: the cell is left out). Labels without a known
positive have no recall and no average precision; they are left out of the macro means.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve

_DESCRIPTION = "Macro and micro F1, macro average precision and per-label figures with masks for unknown labels."
_INPUTS = """
Args:
    predictions: 0 or 1 per label, shape (n, num_labels).
    references: 1, 0 or -100 (unknown) per label, shape (n, num_labels).
    scores: probabilities per label, shape (n, num_labels), passed to compute().
    label_ids: names of the labels in column order, passed to compute().
Returns:
    macro_f1, micro_f1, macro_ap, and per_label: accuracy, precision, recall, f1, ap, ece (15 equal-width bins),
    recall_at_precision_95, precision_at_recall_80, positives, negatives. A figure is None where it is undefined.
"""


class MultiLabel(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """The metric; see `_INPUTS`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("int32")),
                    "references": datasets.Sequence(datasets.Value("int32")),
                }
            ),
        )

    def _compute(self, predictions: Any, references: Any, scores: Any, label_ids: list[str]) -> dict[str, Any]:
        predicted = np.asarray(predictions).astype(bool)
        truth, values = np.asarray(references), np.asarray(scores)
        known = truth >= 0
        per_label = {
            label: _label_metrics(predicted[known[:, i], i], truth[known[:, i], i] == 1, values[known[:, i], i])
            for i, label in enumerate(label_ids)
        }
        measured = [row for row in per_label.values() if row["positives"] > 0]
        hits = (predicted & (truth == 1)).sum()
        return {
            "macro_f1": _mean([row["f1"] for row in measured]),
            "micro_f1": _f1(hits, (predicted & known).sum(), (truth == 1).sum()),
            "macro_ap": _mean([row["ap"] for row in measured]),
            "per_label": per_label,
        }


def _label_metrics(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], scores: NDArray[np.floating[Any]]
) -> dict[str, Any]:
    hits, flagged, positives = int((predicted & truth).sum()), int(predicted.sum()), int(truth.sum())
    row: dict[str, Any] = {
        "accuracy": float((predicted == truth).mean()) if truth.size else None,
        "precision": hits / flagged if flagged else None,
        "recall": hits / positives if positives else None,
        "f1": _f1(hits, flagged, positives),
        "ap": None,
        "ece": _ece(truth, scores) if truth.size else None,
        "recall_at_precision_95": None,
        "precision_at_recall_80": None,
        "positives": positives,
        "negatives": int(truth.size) - positives,
    }
    if positives:
        precision, recall, _ = precision_recall_curve(truth, scores)
        row["ap"] = float(average_precision_score(truth, scores))
        row["recall_at_precision_95"] = float(recall[precision >= 0.95].max(initial=0.0))
        row["precision_at_recall_80"] = float(precision[recall >= 0.8].max())
    return row


def _f1(hits: Any, flagged: Any, positives: Any) -> float | None:
    return float(2 * hits / (flagged + positives)) if positives else None


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _ece(truth: NDArray[np.bool_], scores: NDArray[np.floating[Any]], bins: int = 15) -> float:
    """Expected calibration error (Naeini et al. 2015): mean |observed rate - mean score| weighted by bin size."""
    bin_of = np.minimum((scores * bins).astype(int), bins - 1)
    totals = [(truth[bin_of == b], scores[bin_of == b]) for b in range(bins)]
    return float(sum(abs(t.mean() - s.mean()) * t.size for t, s in totals if t.size) / truth.size)
