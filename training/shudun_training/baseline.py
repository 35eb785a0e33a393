"""The linear baseline every figure stands beside: character 1-3-gram TF-IDF and logistic regression.

One classifier per label, trained on that label's known cells only, with thresholds fitted on validation by the
same rule as the model's. Whoever cannot beat it should ship it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from shudun.items import Item
from shudun.rendering import plain_text
from shudun_training.examples import POSITIVE, UNKNOWN

INVERSE_REGULARISATION = 4.0
"""`C` of the logistic regression; chosen on the validation splits of COLD and shudun-xhs."""


class LinearBaseline:
    """TF-IDF features and one logistic regression per label; a label with one known class gets its base rate."""

    def __init__(self, text: Callable[[Item], str] = plain_text) -> None:
        """Take the text of an item from `text`."""
        self._text = text
        self._vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2, sublinear_tf=True)
        self._models: list[LogisticRegression | float] = []

    def fit(self, items: Sequence[Item], labels: NDArray[np.int64]) -> LinearBaseline:
        """Fit on items and their labels `(n, num_labels)`, as in `examples`."""
        features = self._vectorizer.fit_transform([self._text(item) for item in items])
        self._models = fit_labels(features, labels, inverse_regularisation=INVERSE_REGULARISATION)
        return self

    def predict_proba(self, items: Sequence[Item]) -> NDArray[np.float32]:
        """Probabilities `(n, num_labels)`."""
        features = self._vectorizer.transform([self._text(item) for item in items])
        columns = [
            np.full(features.shape[0], model) if isinstance(model, float) else model.predict_proba(features)[:, 1]
            for model in self._models
        ]
        return np.stack(columns, axis=1).astype(np.float32)


def fit_labels(
    features: object, labels: NDArray[np.int64], *, inverse_regularisation: float
) -> list[LogisticRegression | float]:
    """One logistic regression per label on its known cells, or the share of positives where it has no two classes.

    Args:
        features: scipy matrix `(n, features)`.
        labels: `(n, num_labels)`, as in `examples`.
        inverse_regularisation: `C` of the logistic regressions.
    """
    # Threads of BLAS only wait for each other on vectors this short: 36 CPU seconds instead of 1.2 on busy cores.
    with threadpool_limits(limits=1, user_api="blas"):
        return [_fit_label(features, labels[:, i], inverse_regularisation) for i in range(labels.shape[1])]


def _fit_label(
    features: object, labels: NDArray[np.int64], inverse_regularisation: float
) -> LogisticRegression | float:
    known = labels != UNKNOWN
    truth = labels[known] == POSITIVE
    if truth.size == 0 or truth.all() or not truth.any():
        return float(truth.mean()) if truth.size else 0.0
    model = LogisticRegression(C=inverse_regularisation, max_iter=1000)
    return model.fit(features[known], truth)  # type: ignore[index]  # a scipy matrix
