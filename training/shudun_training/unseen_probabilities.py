"""Label probabilities by a model that has not seen the rows: the baseline out of fold, a bundle, or a scored file.

That a bundle has not seen the rows is for the caller to know: on rows it was trained on, it has learned their errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shudun.errors import RowError, ShudunError
from shudun.items import Item
from shudun.records import BadRecord, read_records
from shudun.rendering import plain_text
from shudun.scorer import Scorer
from shudun.taxonomy import Taxonomy
from shudun_training.baseline import LinearBaseline
from shudun_training.examples import Example
from shudun_training.splitting import grouped_split, near_duplicate_clusters

FOLDS = 5


def out_of_fold(
    items: Sequence[Item], labels: NDArray[np.int64], groups: Sequence[str | None] | None, *, seed: int
) -> NDArray[np.float32]:
    """Probabilities `(n, num_labels)` of the linear baseline, each row by the model of folds it is not in.

    Groups and near-duplicates share a fold: a copy with the same wrong label would vouch for it.
    """
    clusters = near_duplicate_clusters([plain_text(item) for item in items], groups=groups)
    folds = grouped_split(labels, clusters, {str(fold): 1 / FOLDS for fold in range(FOLDS)}, seed=seed)
    probabilities = np.empty(labels.shape, dtype=np.float32)
    for fold in np.unique(folds):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        model = LinearBaseline().fit([items[i] for i in outside.tolist()], labels[outside])
        probabilities[inside] = model.predict_proba([items[i] for i in inside.tolist()])
    return probabilities


def bundle_probabilities(bundle: Path, items: Sequence[Item], taxonomy: Taxonomy) -> NDArray[np.float32]:
    """Calibrated probabilities `(n, num_labels)` of a bundle; NaN where a row could not be scored."""
    scorer = Scorer.from_bundle(bundle)
    if missing := sorted(set(taxonomy.label_ids) - set(scorer.taxonomy.label_ids)):
        raise ShudunError(f"{bundle}: its taxonomy {scorer.taxonomy.id} lacks {', '.join(missing)}")
    columns = [scorer.taxonomy.index[label] for label in taxonomy.label_ids]
    return scorer.predict_proba(items)[:, columns]


def file_probabilities(path: Path, examples: Sequence[Example], taxonomy: Taxonomy) -> NDArray[np.float32]:
    """Probabilities `(n, num_labels)` by id from a file of `shudun score`; NaN where a row there has an error."""
    by_id: dict[str, Any] = {}
    for record in read_records(path):
        if isinstance(record, BadRecord):
            raise RowError(record.problem)
        by_id[str(record.values.get("id"))] = record.values.get("scores") or {}
    rows = np.full((len(examples), len(taxonomy.labels)), np.nan, dtype=np.float32)
    for row, example in enumerate(examples):
        scores = by_id.get(str(example.id))
        if scores is None or (scores and not set(taxonomy.label_ids) <= set(scores)):
            raise ShudunError(f"{path}: expected scores of every label for the row with id {example.id}")
        if scores:
            rows[row] = [scores[label] for label in taxonomy.label_ids]
    return rows
