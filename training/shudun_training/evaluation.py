"""Measuring a bundle on labelled rows, always beside the linear baseline and with an interval on the difference.

The bundle is measured as it ships (ONNX graph, its calibration, thresholds and exclusive pairs). Unknown labels
and labels that do not apply to an item are left out of every figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shudun.errors import ShudunError
from shudun.items import Item
from shudun.policy import select_labels
from shudun.scorer import Scorer
from shudun.taxonomy import Taxonomy
from shudun_training.baseline import LinearBaseline
from shudun_training.bootstrap import Predictions, paired_bootstrap
from shudun_training.config import ThresholdConfig
from shudun_training.examples import POSITIVE, UNKNOWN, Example, label_matrix
from shudun_training.metrics import compute_metrics
from shudun_training.ngram_branch.ablation import part_scorers
from shudun_training.row_scores import row_scores
from shudun_training.thresholds import fit_operating_points


def evaluate_bundle(
    scorer: Scorer,
    examples: Sequence[Example],
    *,
    train: Sequence[Example],
    validation: Sequence[Example],
    thresholds: ThresholdConfig,
    sources: Mapping[str, slice] | None = None,
    others: Mapping[str, Predictions] | None = None,
    seed: int = 0,
    scores_path: Path | None = None,
) -> dict[str, Any]:
    """Compare the bundle and a baseline trained on `train` (thresholds from `validation`) on `examples`.

    Args:
        scorer: the bundle.
        examples: rows to measure on.
        train: rows of the baseline.
        validation: rows that the baseline's thresholds are fitted on.
        thresholds: how they are fitted.
        sources: name of each source → where its rows stand in `examples`; more than one are also measured alone.
        others: name of each further system → its predictions on `examples`; scores are NaN in the columns of labels
            that it does not know, and such labels are left out of its comparison.
        seed: of the bootstrap.
        scores_path: where the bundle's scores of each row are written, to compare it with others row by row.

    Returns:
        `model` and `baseline` (macro_f1, micro_f1, macro_ap, per_label), `difference` (model minus baseline,
        with paired-bootstrap intervals), `counts`, for several sources `sources`, and for further systems `others`,
        as plain JSON values. Of a bundle with an n-gram branch also `parts`: each part alone, with model minus part as
        its `difference`.

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
    if scores_path is not None:
        row_scores(taxonomy.label_ids, items, scores, selected, references).save(scores_path)
    parts = sources if sources is not None and len(sources) > 1 else {}
    alone = part_scorers(
        scorer, [example.item for example in validation], label_matrix(validation, taxonomy), thresholds
    )
    ablation = {name: _part_block(part, model, items, references, seed=seed) for name, part in alone.items()}
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
        "others": {
            name: _other_block(model, other, references, taxonomy, seed) for name, other in (others or {}).items()
        },
        **({"parts": ablation} if ablation else {}),
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


def _block(predictions: Predictions, references: NDArray[np.int64], taxonomy: Taxonomy) -> dict[str, Any]:
    result = compute_metrics(predictions.scores, predictions.selected, references, taxonomy.label_ids)
    for label, point in zip(taxonomy.label_ids, predictions.points, strict=True):
        result["per_label"][label]["threshold"] = point.threshold
    return result


def _other_block(
    model: Predictions, other: Predictions, references: NDArray[np.int64], taxonomy: Taxonomy, seed: int
) -> dict[str, Any]:
    """Figures of another system, and the model minus it, on the labels that it knows."""
    unknown = np.isnan(other.scores).all(axis=0)
    asked = np.where(unknown, UNKNOWN, references)
    known = Predictions(np.nan_to_num(other.scores), other.selected, other.points)
    return {"figures": _block(known, asked, taxonomy), "difference": paired_bootstrap(model, known, asked, seed=seed)}


def _part_block(
    part: Scorer, model: Predictions, items: Sequence[Item], references: NDArray[np.int64], *, seed: int
) -> dict[str, Any]:
    """Figures of one part of the model, and what the whole has more than it."""
    alone = Predictions(*part.judge(items), part.points)
    difference = paired_bootstrap(model, alone, references, seed=seed)
    return _block(alone, references, part.taxonomy) | {"difference": difference}


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
