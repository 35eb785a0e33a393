"""Which labels of which rows look wrong, judged by cleanlab from probabilities of a model that has not seen them.

Each label is judged on its own known cells (confident learning: Northcutt et al. 2021; its multi-label form:
Thyagarajan et al. 2022). It points at rows, it corrects nothing: to a weak model a rare but right label looks wrong.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
from cleanlab.multilabel_classification.rank import get_label_quality_scores_per_class
from numpy.typing import NDArray

from shudun.errors import ShudunError
from shudun_training.examples import NEGATIVE, POSITIVE, UNKNOWN

LEAST_CELLS = 5
"""Positives and negatives that a label needs to be judged."""


def label_quality(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Quality of each given value and whether it counts as an error, both `(n, num_labels)`.

    Unknown cells, and labels with fewer than `LEAST_CELLS` positives or negatives, have quality NaN. Each label is a
    cleanlab problem of its own, so that a row without a value for one label still counts for the others.

    Args:
        labels: values as in `examples`, `(n, num_labels)`.
        probabilities: of the labels, by a model that has not seen the row, `(n, num_labels)`.
    """
    quality = np.full(labels.shape, np.nan)
    flagged = np.zeros(labels.shape, dtype=np.bool_)
    for column in range(labels.shape[1]):
        known = np.flatnonzero((labels[:, column] != UNKNOWN) & np.isfinite(probabilities[:, column]))
        positive = labels[known, column] == POSITIVE
        if min(positive.sum(), (~positive).sum()) < LEAST_CELLS:
            continue
        given = [[0] if value else [] for value in positive]
        predicted = probabilities[known, column : column + 1].astype(np.float64)
        flagged[known, column] = find_multilabel_issues_per_class(given, predicted, n_jobs=1)[:, 0]
        # Adjusted for how sure the model usually is of each value: a rare label's positives all have low probabilities.
        scores = get_label_quality_scores_per_class(given, predicted, adjust_pred_probs=True)
        quality[known, column] = scores[:, 0]
    if np.isnan(quality).all():
        raise ShudunError(f"no label has {LEAST_CELLS} positive and {LEAST_CELLS} negative rows to be judged by")
    return quality, flagged


def doubtful_first(
    labels: NDArray[np.int64], quality: NDArray[np.float64], flagged: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Cells `(m, 2)` as row and column: flagged ones first, then by their rank among cells of that label and value.

    Quality itself does not compare between labels: the commonest label would fill the top of the queue. Cells without
    quality are left out. All arrays are `(n, num_labels)`.
    """
    rank = np.zeros(labels.shape, dtype=np.int64)
    for column, value in product(range(labels.shape[1]), (POSITIVE, NEGATIVE)):
        cells = np.flatnonzero((labels[:, column] == value) & ~np.isnan(quality[:, column]))
        rank[cells[np.argsort(quality[cells, column], kind="stable")], column] = np.arange(len(cells))
    rows, columns = np.nonzero(~np.isnan(quality))
    order = np.lexsort((quality[rows, columns], rank[rows, columns], ~flagged[rows, columns]))
    return np.stack([rows[order], columns[order]], axis=1)
