"""Surface cues: can a label be told by length, emoji or punctuation alone?

For each label and cue the AUC between its positive rows and the clean rows of the same kind (Mann and Whitney 1947,
ties count half), averaged over kinds by their positives: 0.5 says nothing is to be seen, 0 and 1 give the label away.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shudun.items import Item, Note
from shudun_training.audit.findings import EXAMPLES, Finding

FEATURES = ("characters", "emoji", "punctuation", "exclamation marks", "digits")

EMOJI = re.compile("[\u203c\u2049\u2194-\u21aa\u231a-\u23ff\u2600-\u27bf\u2b05-\u2b55\U0001f000-\U0001faff]")
PUNCTUATION = re.compile("[^\\w\\s\ufe0f\u200d]")
EXCLAMATION = re.compile("[!！❗‼]")
DIGIT = re.compile(r"\d")


IMBALANCE = 0.3
"""Distance of an AUC from 0.5 at which it is reported."""

LEAST_ROWS = 30
"""Positives and clean rows of a kind that an AUC needs."""


def measure(items: Sequence[Item]) -> NDArray[np.int32]:
    """Counts of `FEATURES` in the judged text (title and body of a note), int32 `(n, len(FEATURES))`."""
    rows = []
    for item in items:
        text = f"{item.title}{item.text}" if isinstance(item, Note) else item.text
        emoji = len(EMOJI.findall(text))
        marks = len(PUNCTUATION.findall(text)) - emoji
        rows.append((len(text), emoji, marks, len(EXCLAMATION.findall(text)), len(DIGIT.findall(text))))
    return np.array(rows, dtype=np.int32).reshape(-1, len(FEATURES))


def surface_auc(
    surface: NDArray[np.int32],
    labels: NDArray[np.int8],
    clean: NDArray[np.bool_],
    kind: NDArray[np.int8],
) -> NDArray[np.float64]:
    """AUC of each cue for each label, `(num_labels, len(FEATURES))`; NaN without `LEAST_ROWS` of each.

    Args:
        surface: counts `(n, len(FEATURES))`.
        labels: `(n, num_labels)`, 1 where positive.
        clean: the rows to tell apart from the positives, shape `(n,)`.
        kind: number of the kind of item, shape `(n,)`.
    """
    total = np.zeros((labels.shape[1], surface.shape[1]))
    weight = np.zeros((labels.shape[1], 1))
    for value in np.unique(kind):
        rows = np.flatnonzero(kind == value)
        positive = labels[rows] == 1
        counts = positive.sum(axis=0)
        usable = np.flatnonzero((counts >= LEAST_ROWS) & (clean[rows].sum() >= LEAST_ROWS))
        for feature in range(surface.shape[1]):
            _, ranks = np.unique(surface[rows, feature], return_inverse=True)
            below = np.bincount(ranks[clean[rows]], minlength=ranks.max(initial=0) + 1)
            for label in usable:
                total[label, feature] += counts[label] * _auc(ranks[positive[:, label]], below)
        weight[usable, 0] += counts[usable]
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def surface_finding(auc: NDArray[np.float64], label_ids: Sequence[str]) -> Finding:
    """Labels that a surface cue gives away, worst first."""
    distance = np.nan_to_num(np.abs(auc - 0.5))
    order = np.argsort(-distance, axis=None)[: int((distance >= IMBALANCE).sum())]
    places = [divmod(int(place), auc.shape[1]) for place in order]
    shown = [f"{label_ids[label]} by {FEATURES[cue]}: AUC {auc[label, cue]:.2f}" for label, cue in places]
    message = (
        f"{len(shown)} pairs of label and surface cue with an AUC beyond {0.5 - IMBALANCE:.1f} or {0.5 + IMBALANCE:.1f}"
    )
    return Finding("surface_imbalance", len(shown), message, tuple(shown[:EXAMPLES]))


def _auc(positive: NDArray[np.int64], clean: NDArray[np.int64]) -> float:
    """AUC from the ranks of the positives and the number of clean rows at each rank."""
    lower = np.cumsum(clean) - clean
    return float((lower[positive] + clean[positive] / 2).mean() / clean.sum())
