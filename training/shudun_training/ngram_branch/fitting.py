"""Fitting the branch on training rows, and its weight beside the encoder on validation rows.

The branch sees the tokens that the encoder sees, cut by the same rule. Known cells alone count, in both steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from shudun.errors import ShudunError
from shudun.items import Item
from shudun.tokenization import ItemTokenizer
from shudun_training.baseline import fit_labels
from shudun_training.examples import POSITIVE, UNKNOWN
from shudun_training.ngram_branch.branch import BlendWeights, NgramBranch
from shudun_training.ngram_branch.dictionary import build_dictionary
from shudun_training.ngram_branch.features import inverse_document_frequency, tfidf

PRIOR_STRENGTH = 2.0
"""Pull of the blend's parameters towards 0, in observations: keeps them finite where the rows can be separated."""


def fit_branch(
    items: Sequence[Item],
    labels: NDArray[np.int64],
    tokenizer: ItemTokenizer,
    *,
    max_order: int,
    min_df: int,
    inverse_regularisation: float,
) -> NgramBranch:
    """Fit one logistic regression per label on training items; the blend's weights are still 1.

    Args:
        items: training rows.
        labels: `(n, num_labels)`, as in `examples`; a label with one known class gets its rate as a bias.
        tokenizer: the encoder's.
        max_order: tokens of the longest n-grams.
        min_df: least number of rows that an n-gram must stand in.
        inverse_regularisation: `C` of the logistic regressions.

    Raises:
        ShudunError: no n-gram stands in enough rows.
    """
    encoded = tokenizer.encode(items)
    dictionary, frequency = build_dictionary(encoded, max_order=max_order, min_df=min_df)
    if not len(dictionary):
        raise ShudunError(f"ngram_branch: no n-gram stands in {min_df} of {len(items)} rows; lower ngram_branch.min_df")
    idf = inverse_document_frequency(frequency, len(items))
    features = tfidf(dictionary.counts(encoded), idf)
    models = fit_labels(features, labels, inverse_regularisation=inverse_regularisation)
    columns = [
        _constant(labels[:, i], len(dictionary)) if isinstance(model, float) else _linear(model)
        for i, model in enumerate(models)
    ]
    return NgramBranch(
        dictionary=dictionary,
        idf=idf,
        coefficients=np.stack([coefficients for coefficients, _ in columns], axis=1).astype(np.float32),
        bias=np.array([bias for _, bias in columns], dtype=np.float32),
        vocab_size=tokenizer.vocab_size,
        max_length=tokenizer.max_length,
        weights=BlendWeights(1.0, 1.0),
    )


def fit_blend(
    encoder_logits: NDArray[np.floating[Any]], branch_logits: NDArray[np.float64], labels: NDArray[np.int64]
) -> BlendWeights:
    """The two weights of least cross-entropy over the known cells of validation rows, at least 0 each.

    An intercept per label is fitted with them and dropped: an encoder trained with weighted positives has biased
    logits, and without the intercepts its bias would decide its weight. The calibration that follows sets its own.

    Args:
        encoder_logits: `(n, num_labels)`.
        branch_logits: `(n, num_labels)`.
        labels: `(n, num_labels)`, as in `examples`; labels with one known class do not count.

    Raises:
        ShudunError: a logit is not finite, or no label has both classes.
    """
    truth, known = labels == POSITIVE, labels != UNKNOWN
    both = truth.any(axis=0) & (known & ~truth).any(axis=0)
    if not both.any():
        raise ShudunError("ngram_branch: no label has positive and negative validation rows to fit the weights on")
    logits = np.stack([encoder_logits[:, both].astype(np.float64), branch_logits[:, both]])
    if not np.isfinite(logits).all():
        raise ShudunError("ngram_branch: encoder or branch gives NaN or Inf on validation rows")
    truth, known = truth[:, both], known[:, both]

    def objective(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = x[0] * logits[0] + x[1] * logits[1] + x[2:]
        loss = np.logaddexp(0.0, margin) - truth * margin
        residual = np.where(known, 0.5 * (1.0 + np.tanh(margin / 2.0)) - truth, 0.0)
        gradient = np.concatenate([(residual * logits).sum(axis=(1, 2)), residual.sum(axis=0)])
        return float(loss[known].sum() + PRIOR_STRENGTH * (x @ x) / 2), gradient + PRIOR_STRENGTH * x

    start = np.concatenate([np.ones(2), np.zeros(truth.shape[1])])
    bounds = [(0.0, None)] * 2 + [(None, None)] * truth.shape[1]
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return BlendWeights(encoder=float(found[0]), branch=float(found[1]))


def _linear(model: LogisticRegression) -> tuple[NDArray[np.float64], float]:
    return model.coef_[0], float(model.intercept_[0])


def _constant(labels: NDArray[np.int64], ngrams: int) -> tuple[NDArray[np.float64], float]:
    """No coefficients, and the log-odds of the positives with half an observation added to each side."""
    positives, negatives = (float((labels == value).sum()) for value in (POSITIVE, 1 - POSITIVE))
    return np.zeros(ngrams), float(np.log((positives + 0.5) / (negatives + 0.5)))
