"""Probes for shortcuts in labelled data: linear models that see nothing of the meaning of a text.

Each probe learns from one view of the rows: lengths, counts of emoji and punctuation, the vertical, or brand names.
What it scores above chance, a text model can learn instead of the rules. Chance is the average precision of the same
scores dealt to the rows at random, so that it fits the label shares and the number of rows at hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from shudun.items import Note
from shudun.taxonomy import Taxonomy
from shudun_training.disguise.readings import pinyin
from shudun_training.examples import POSITIVE, UNKNOWN, Example, label_matrix

PERMUTATIONS = 100

BINS = 12
"""Numbers are seen as one of this many ranges of equal weight, so that a linear probe can follow any curve."""

EMOJI = re.compile("[\u2600-\u27bf\U0001f000-\U0001faff]")
MARKS = ("！!", "？?", "，,", "。.", "、", "~～", "…", "：:", "；;", "#", "|｜", '“”"', "（(", "）)", "\n")
"""Punctuation that is counted; the full and the half width of a mark count as one."""

HANZI_RUN = re.compile("[\u4e00-\u9fff]+")

Seen = list[str] | NDArray[np.float64]
View = Callable[[Sequence[Example]], Seen]
"""What a probe sees of rows: numbers `(n, features)`, or a document of words separated by spaces for each."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """How well a probe ranks the rows of one split, for each label that has positives in it.

    `precision`: label → average precision; `chance`: label → the same over random deals, shape `(PERMUTATIONS,)`.
    """

    precision: Mapping[str, float]
    chance: Mapping[str, NDArray[np.float64]]

    def excess(self, label: str) -> float:
        """Average precision of a label above the mean of chance."""
        return self.precision[label] - float(self.chance[label].mean())

    def macro(self, without: Collection[str] = ()) -> tuple[float, float, float]:
        """Macro average precision, the mean of chance and its 97.5th percentile, over labels not in `without`."""
        labels = [label for label in self.precision if label not in without]
        dealt = np.mean([self.chance[label] for label in labels], axis=0)
        found = float(np.mean([self.precision[label] for label in labels]))
        return found, float(dealt.mean()), float(np.quantile(dealt, 0.975))


def own_text(example: Example) -> str:
    """Title and text, without the parent text."""
    item = example.item
    return f"{item.title}\n{item.text}" if isinstance(item, Note) else item.text


def lengths(examples: Sequence[Example]) -> Seen:
    """Characters of title, text and parent text."""
    fields = ("title", "text", "parent_text")
    return np.array([[len(getattr(x.item, name, "")) for name in fields] for x in examples], dtype=np.float64)


def emoji_and_marks(examples: Sequence[Example]) -> Seen:
    """Counts of emoji and of each punctuation mark in title and text."""
    texts = [own_text(example) for example in examples]
    counts = [[count_emoji(text), *(sum(map(text.count, pair)) for pair in MARKS)] for text in texts]
    return np.array(counts, dtype=np.float64)


def count_emoji(text: str) -> int:
    """Emoji and pictographs in a text."""
    return len(EMOJI.findall(text))


def verticals(examples: Sequence[Example]) -> Seen:
    """The vertical alone."""
    return [str(example.meta.get("vertical", "")) for example in examples]


def brand_names(examples: Sequence[Example]) -> Seen:
    """Characters and pairs of characters of the brand names in each row."""
    return [
        " ".join(part for name in names for part in (*name, *map("".join, pairwise(name))))
        for names in find_brand_names(examples)
    ]


def find_brand_names(examples: Sequence[Example]) -> list[list[str]]:
    """Brand names by row.

    A name is 2 to 4 characters in title or text whose pinyin is a part of the row's `group` (`a-jinhe-nose` names
    槿禾), and that no text of another group holds: everyday words such as 月嫂, of which a group may be named too, are
    none.
    """
    texts = [own_text(example) for example in examples]
    groups = [str(example.meta.get("group", "")) for example in examples]
    found = [_spelled(text, set(group.split("-")[1:])) for text, group in zip(texts, groups, strict=True)]
    holders = {
        name: {group for text, group in zip(texts, groups, strict=True) if name in text} for name in set().union(*found)
    }
    return [sorted(name for name in names if len(holders[name]) == 1) for names in found]


def probe(
    view: View, train: Sequence[Example], tests: Mapping[str, Sequence[Example]], taxonomy: Taxonomy, *, seed: int = 0
) -> dict[str, ProbeResult]:
    """Train a probe for each label on the known cells of `train` and measure it on each split of `tests`."""
    seen, labels = view(train), label_matrix(train, taxonomy)
    reader = _reader(seen)
    features = reader.fit_transform(seen)
    models = [_fitted(features, labels[:, i]) for i in range(labels.shape[1])]
    results = {}
    for name, rows in tests.items():
        given = reader.transform(view(rows))
        scores = np.stack([_predicted(model, given) for model in models], axis=1)
        results[name] = _result(scores, label_matrix(rows, taxonomy), taxonomy, np.random.default_rng(seed))
    return results


def separation(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Chance that a value of the first group is larger than one of the second, ties counted half (Mann-Whitney)."""
    first, second = np.asarray(positive)[:, None], np.asarray(negative)[None, :]
    return float((first > second).mean() + (first == second).mean() / 2)


def _spelled(text: str, parts: set[str]) -> set[str]:
    found = set()
    for run in HANZI_RUN.findall(text):
        syllables = [_syllable(char) for char in run]
        for start in range(len(run) - 1):
            for end in range(start + 2, min(start + 4, len(run)) + 1):
                if "".join(syllables[start:end]) in parts:
                    found.add(run[start:end])
    return found


@cache
def _syllable(char: str) -> str:
    return pinyin(char)


def _reader(seen: Seen) -> Any:
    if isinstance(seen, list):
        return CountVectorizer(binary=True, analyzer=str.split)
    return Pipeline([("ranges", Ranges()), ("one_hot", OneHotEncoder(handle_unknown="ignore"))])


class Ranges:
    """Numbers as the range of equal weight into which they fall, by column; counts of few values keep them."""

    def fit(self, values: NDArray[np.float64], _: object = None) -> Ranges:
        """Find the borders of the ranges."""
        quantiles = np.linspace(0, 1, BINS + 1)[1:-1]
        self.borders = [np.unique(np.quantile(column, quantiles)) for column in values.T]
        return self

    def fit_transform(self, values: NDArray[np.float64], _: object = None) -> NDArray[np.int64]:
        """Fit and transform."""
        return self.fit(values).transform(values)

    def transform(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """The number of the range of each value, same shape."""
        columns = [np.searchsorted(borders, column) for borders, column in zip(self.borders, values.T, strict=True)]
        return np.stack(columns, axis=1).astype(np.int64)


def _fitted(features: Any, labels: NDArray[np.int64]) -> LogisticRegression | None:
    """A model of one label, or `None` where its known cells are all alike."""
    known = labels != UNKNOWN
    truth = labels[known] == POSITIVE
    return LogisticRegression(max_iter=1000).fit(features[known], truth) if 0 < truth.sum() < truth.size else None


def _predicted(model: LogisticRegression | None, features: Any) -> NDArray[np.float64]:
    return np.zeros(features.shape[0]) if model is None else model.predict_proba(features)[:, 1]


def _result(
    scores: NDArray[np.float64], labels: NDArray[np.int64], taxonomy: Taxonomy, rng: np.random.Generator
) -> ProbeResult:
    precision, chance = {}, {}
    for i, name in enumerate(taxonomy.label_ids):
        known = labels[:, i] != UNKNOWN
        truth, score = labels[known, i] == POSITIVE, scores[known, i]
        if truth.any():
            precision[name] = float(average_precision(truth[None, :], score)[0])
            chance[name] = average_precision(rng.permuted(np.tile(truth, (PERMUTATIONS, 1)), axis=1), score)
    return ProbeResult(precision, chance)


def average_precision(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average precision of the same scores `(n,)` for several truths `(deals, n)`, shape `(deals,)`.

    The sum over thresholds of precision times the recall gained, as in scikit-learn; rows of equal score come together.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(truth[:, order], axis=1)[:, last]
    gained = np.diff(hits, axis=1, prepend=0)
    return np.asarray((gained * hits / (last + 1)).sum(axis=1) / hits[:, -1])
