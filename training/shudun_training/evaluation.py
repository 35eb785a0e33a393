"""Measuring a bundle on labelled rows, always beside the linear baseline and with an interval on the difference.

The bundle is measured as it ships (ONNX graph, its calibration, thresholds and exclusive pairs). Unknown labels
and labels that do not apply to an item are left out of every figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shudun.calibration import OperatingPoint
from shudun.errors import ShudunError
from shudun.items import Item
from shudun.policy import select_labels
from shudun.scorer import Scorer
from shudun.taxonomy import Taxonomy
from shudun_training.baseline import LinearBaseline
from shudun_training.config import ThresholdConfig
from shudun_training.examples import POSITIVE, UNKNOWN, Example, label_matrix
from shudun_training.metrics import compute_metrics
from shudun_training.thresholds import fit_operating_points

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Predictions:
    """Scores and decisions of one system on the same rows, both `(n, num_labels)`, and its thresholds."""

    scores: NDArray[np.float32]
    selected: NDArray[np.bool_]
    points: tuple[OperatingPoint, ...]

    def part(self, rows: slice) -> Predictions:
        """The same of some of the rows."""
        return Predictions(self.scores[rows], self.selected[rows], self.points)


def evaluate_bundle(
    scorer: Scorer,
    examples: Sequence[Example],
    *,
    train: Sequence[Example],
    validation: Sequence[Example],
    thresholds: ThresholdConfig,
    sources: Mapping[str, slice] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare the bundle and a baseline trained on `train` (thresholds from `validation`) on `examples`.

    Args:
        scorer: the bundle.
        examples: rows to measure on.
        train: rows of the baseline.
        validation: rows that the baseline's thresholds are fitted on.
        thresholds: how they are fitted.
        sources: name of each source → where its rows stand in `examples`; more than one are also measured alone.
        seed: of the bootstrap.

    Returns:
        `model` and `baseline` (macro_f1, micro_f1, macro_ap, per_label), `difference` (model minus baseline,
        with paired-bootstrap intervals), `counts` and, for several sources, `sources`, as plain JSON values.

    Raises:
        ShudunError: the bundle gives a row no finite score.
    """
    taxonomy = scorer.taxonomy
    items = [example.item for example in examples]
    references = label_matrix(examples, taxonomy)
    scores, selected = scorer.judge(items)
    if not np.isfinite(scores).all():
        failed = [str(item.id) for item, row in zip(items, scores, strict=True) if not np.isfinite(row).all()]
        raise ShudunError(f"{len(failed)} rows have no finite score, e.g. {failed[0]}; this bundle cannot be measured")
    model = Predictions(scores, selected, scorer.points)
    baseline = baseline_predictions(items, train, validation, taxonomy, thresholds)
    parts = sources if sources is not None and len(sources) > 1 else {}
    return {
        "model": _block(model, references, taxonomy),
        "baseline": _block(baseline, references, taxonomy),
        "difference": paired_bootstrap(model, baseline, references, seed=seed),
        "counts": {
            "rows": len(examples),
            "notes": sum(item.kind == "note" for item in items),
            "comments": sum(item.kind == "comment" for item in items),
            "clean_rows": int((~(references == POSITIVE).any(axis=1) & (references != UNKNOWN).any(axis=1)).sum()),
            "unlabelled_rows": int((references == UNKNOWN).all(axis=1).sum()),
            "known_labels": int((references != UNKNOWN).sum()),
            "positive_labels": int((references == POSITIVE).sum()),
            "train_rows": len(train),
            "validation_rows": len(validation),
        },
        "sources": {
            name: _source_block(model.part(rows), baseline.part(rows), references[rows], taxonomy)
            for name, rows in parts.items()
        },
    }


def baseline_predictions(
    items: Sequence[Item],
    train: Sequence[Example],
    validation: Sequence[Example],
    taxonomy: Taxonomy,
    thresholds: ThresholdConfig,
) -> Predictions:
    """Train the linear baseline and apply it to `items` under the same rules as the model."""
    baseline = LinearBaseline().fit([example.item for example in train], label_matrix(train, taxonomy))
    validation_scores = baseline.predict_proba([example.item for example in validation])
    points = fit_operating_points(validation_scores, label_matrix(validation, taxonomy), thresholds)
    applicable = taxonomy.applicable([item.kind for item in items])
    scores = np.where(applicable, baseline.predict_proba(items), np.float32(0.0))
    exclusive = [(taxonomy.index[a], taxonomy.index[b]) for a, b in taxonomy.exclusive]
    limits = np.array([point.threshold for point in points], dtype=np.float32)
    return Predictions(scores, select_labels(scores, applicable, limits, exclusive), points)


def paired_bootstrap(
    model: Predictions, baseline: Predictions, references: NDArray[np.int64], *, seed: int
) -> dict[str, dict[str, float] | None]:
    """Model minus baseline in macro F1 and macro AP, with 95 % intervals over resampled rows (Efron 1979)."""
    rows = len(references)
    rng = np.random.default_rng(seed)
    # Row 0 weighs every row once: the observed difference.
    weights = np.vstack([np.ones(rows), rng.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES)])
    return {
        name: _interval(statistic(model, references, weights) - statistic(baseline, references, weights))
        for name, statistic in (("macro_f1", _macro_f1), ("macro_ap", _macro_ap))
    }


def _block(predictions: Predictions, references: NDArray[np.int64], taxonomy: Taxonomy) -> dict[str, Any]:
    result = compute_metrics(predictions.scores, predictions.selected, references, taxonomy.label_ids)
    for label, point in zip(taxonomy.label_ids, predictions.points, strict=True):
        result["per_label"][label]["threshold"] = point.threshold
    return result


def _source_block(
    model: Predictions, baseline: Predictions, references: NDArray[np.int64], taxonomy: Taxonomy
) -> dict[str, Any]:
    """Figures of one source's rows: of the labels it annotates, and how often the others are flagged there."""
    figures = [
        compute_metrics(system.scores, system.selected, references, taxonomy.label_ids)["per_label"]
        for system in (model, baseline)
    ]
    known = references != UNKNOWN
    annotated = [label for i, label in enumerate(taxonomy.label_ids) if known[:, i].any()]
    flagged = {
        label: {
            name: float(system.selected[:, i].mean()) for name, system in (("model", model), ("baseline", baseline))
        }
        for i, label in enumerate(taxonomy.label_ids)
        if label not in annotated
    }
    return {
        "rows": len(references),
        "model": {label: figures[0][label] for label in annotated},
        "baseline": {label: figures[1][label] for label in annotated},
        "flagged_where_not_annotated": flagged,
    }


def _measured_labels(references: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.flatnonzero((references == POSITIVE).any(axis=0))


def _macro_f1(
    predictions: Predictions, references: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Macro F1 under each row of `weights` `(resamples, n)`."""
    labels = _measured_labels(references)
    truth = (references == POSITIVE)[:, labels].astype(np.float64)
    flagged = (predictions.selected & (references != UNKNOWN))[:, labels].astype(np.float64)
    hits, positives, total = weights @ (truth * flagged), weights @ truth, weights @ (truth + flagged)
    return _mean_defined(np.where(positives > 0, 2 * hits / np.maximum(total, 1), np.nan))


def _macro_ap(
    predictions: Predictions, references: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Macro average precision under each row of `weights` `(resamples, n)`."""
    columns = []
    for label in _measured_labels(references):
        known = np.flatnonzero(references[:, label] != UNKNOWN)
        order = known[np.argsort(-predictions.scores[known, label], kind="stable")]
        scores, truth = predictions.scores[order, label], (references[order, label] == POSITIVE).astype(np.float64)
        # Rows of equal score are flagged together: the figure may not depend on the order of rows.
        ends = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))
        hits, flagged = (np.cumsum(weights[:, order] * part, axis=1)[:, ends] for part in (truth, 1.0))
        positives = hits[:, -1]
        total = (np.diff(hits, axis=1, prepend=0) * hits / np.maximum(flagged, 1)).sum(axis=1)
        columns.append(np.where(positives > 0, total / np.maximum(positives, 1), np.nan))
    return _mean_defined(np.stack(columns, axis=1)) if columns else np.full(len(weights), np.nan)


def _mean_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Row means over the labels that a resample still has, NaN where it has none."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=1)
    return np.where(defined.any(axis=1), total / np.maximum(defined.sum(axis=1), 1), np.nan)


def _interval(values: NDArray[np.float64]) -> dict[str, float] | None:
    if np.isnan(values[0]):
        return None
    low, high = np.nanpercentile(values[1:], INTERVAL)
    return {"delta": float(values[0]), "low": float(low), "high": float(high), "resamples": RESAMPLES}
