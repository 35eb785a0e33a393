"""What disguising the training rows does for wording that was never trained on.

python scripts/measure_augmentation.py             the linear baseline, several seeds, in a few minutes
python scripts/measure_augmentation.py --bundle B  a trained bundle on the same rows
python scripts/measure_augmentation.py --held-out  the families and alias words that are kept out of training

Trains on the train split of shudun-xhs and measures on its validation split: plain, disguised as the training rows may
be, by held-out alias words, and by held-out families. Figures of disguised rows are over the rows that a disguise
changed, beside the same rows in plain wording.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shudun import Scorer
from shudun.items import Item
from shudun.rendering import plain_text
from shudun.rows import RowReader
from shudun_training.augmentation import Augmenter
from shudun_training.baseline import LinearBaseline
from shudun_training.config import ThresholdConfig, load_taxonomy
from shudun_training.disguise.families import families
from shudun_training.disguise.selection import alias_words
from shudun_training.examples import POSITIVE, Example, ExampleParser, label_matrix
from shudun_training.metrics import compute_metrics
from shudun_training.thresholds import fit_operating_points

ROOT = Path(__file__).parents[1]
TAXONOMY = load_taxonomy(ROOT / "configs" / "taxonomy" / "xhs.yaml")
LABELS = list(TAXONOMY.label_ids)

HELD_OUT_FAMILIES = (
    "invisible_marks",
    "styled_letters",
    "inserted_emoji",
    "full_pinyin",
    "split_characters",
    "similar_characters",
    "formal_digits",
)
ALIAS_FAMILIES = ("homophone_alias", "initials", "nickname", "emoji_word")
CONDITIONS = {"none": 1, "copied": 1, "1 copy": 3, "2 copies": 1}
"""How the training rows are augmented, and how many seeds are run; without a disguise there is nothing to draw."""

CONTACT_LABELS = ("off_platform_diversion", "dm_solicitation")
DISGUISE_SEEDS = (1001, 1002, 1003)

Predict = Callable[[Sequence[Item]], NDArray[np.float32]]


def held_out_words(train: Sequence[Example]) -> list[str]:
    """A third of the alias words, drawn by hash, less those that stand in training rows or hold another alias."""
    text = "\n".join(plain_text(example.item) for example in train)
    known = alias_words()
    third = [word for word in sorted(known) if hashlib.sha256(word.encode()).digest()[0] % 3 == 0]
    return [word for word in third if word not in text and not any(x in word for x in known if x != word)]


def disguised(rows: Sequence[Example], names: Sequence[str], held_out: Sequence[str], seed: int) -> list[Example]:
    """Rows in disguise, contact wording throughout."""
    augmenter = Augmenter(names=names, held_out=held_out, intensity=1.0, seed=seed).match_rates(rows)
    return [replace(row, item=augmenter(row, 0).item) for row in rows]


def copies(rows: Sequence[Example], number: int, held_out: Sequence[str], seed: int) -> list[Example]:
    """The rows and `number` disguised copies of each."""
    augmenter = Augmenter(held_out=held_out, seed=seed).match_rates(rows)
    return [*rows, *(replace(row, item=augmenter(row, epoch).item) for epoch in range(number) for row in rows)]


def training_rows(condition: str, rows: Sequence[Example], held_out: Sequence[str], seed: int) -> list[Example]:
    if condition == "none":
        return list(rows)
    if condition == "copied":
        return [*rows, *rows]
    return copies(rows, int(condition[0]), held_out, seed)


def figures(scores: NDArray[np.float32], thresholds: NDArray[np.float64], rows: Sequence[Example]) -> list[float]:
    """Macro-AP, mean AP of the contact labels, recall of all positive cells, share of clean rows with any label."""
    labels = label_matrix(rows, TAXONOMY)
    flagged = scores >= thresholds
    metrics = compute_metrics(scores, flagged, labels, LABELS)
    clean = np.array([not row.labels and not row.unknown_labels for row in rows])
    applicable = labels != -100
    contact = np.mean([metrics["per_label"][label]["ap"] for label in CONTACT_LABELS])
    false_positives = (flagged & applicable)[clean].any(axis=1).mean()
    return [metrics["macro_ap"], contact, flagged[labels == POSITIVE].mean(), false_positives]


def measure(predict: Predict, validation: Sequence[Example], words: Sequence[str]) -> dict[str, list[float]]:
    """Figures per set of rows, means over disguise seeds."""
    plain = predict([row.item for row in validation])
    points = fit_operating_points(plain, label_matrix(validation, TAXONOMY), ThresholdConfig())
    thresholds = np.array([point.threshold for point in points])
    found = {"plain, all rows": [figures(plain, thresholds, validation)]}
    other_words = sorted(alias_words() - set(words))
    known = [name for name in families() if name not in HELD_OUT_FAMILIES]
    for name, arguments in (
        ("trained families and words", (known, words)),
        ("held-out alias words", (ALIAS_FAMILIES, other_words)),
        ("held-out families", (HELD_OUT_FAMILIES, ())),
    ):
        for seed in DISGUISE_SEEDS:
            rows = disguised(validation, *arguments, seed)
            changed = [i for i, row in enumerate(rows) if row.item != validation[i].item]
            scores = predict([rows[i].item for i in changed])
            before = figures(plain[changed], thresholds, [validation[i] for i in changed])
            found.setdefault(f"{name}: the rows in plain wording", []).append(before)
            found.setdefault(f"{name}: disguised", []).append(figures(scores, thresholds, [rows[i] for i in changed]))
    return {name: list(np.mean(values, axis=0)) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--held-out", action="store_true")
    arguments = parser.parse_args()
    parse = ExampleParser(TAXONOMY)
    folder = ROOT / "data_cards" / "shudun-xhs"
    train, validation = (list(RowReader(folder / f"{split}.jsonl", parse)) for split in ("train", "validation"))
    words = held_out_words(train)
    held_out = [*HELD_OUT_FAMILIES, *words]
    if arguments.held_out:
        print(", ".join(held_out))
    elif arguments.bundle:
        scorer = Scorer.from_bundle(arguments.bundle)
        show(str(arguments.bundle), [measure(lambda items: scores_of(scorer, items), validation, words)])
    else:
        print(f"{len(families())} families, {len(HELD_OUT_FAMILIES)} of them held out, and {len(words)} alias words")
        for condition, seeds in CONDITIONS.items():
            show(condition, [linear(condition, seed, train, validation, held_out, words) for seed in range(seeds)])


def linear(
    condition: str,
    seed: int,
    train: Sequence[Example],
    validation: Sequence[Example],
    held_out: Sequence[str],
    words: Sequence[str],
) -> dict[str, list[float]]:
    rows = training_rows(condition, train, held_out, seed)
    model = LinearBaseline().fit([row.item for row in rows], label_matrix(rows, TAXONOMY))
    return measure(model.predict_proba, validation, words)


def scores_of(scorer: Scorer, items: Sequence[Item]) -> NDArray[np.float32]:
    return np.array([[row.scores.get(label, 0.0) for label in LABELS] for row in scorer.score(items)], dtype=np.float32)


def show(condition: str, runs: Sequence[dict[str, list[float]]]) -> None:
    for name in runs[0]:
        values = np.array([run[name] for run in runs])
        cells = [f"{mean:.3f} ±{spread:.3f}" for mean, spread in zip(values.mean(0), values.std(0), strict=True)]
        print(f"| {condition} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
