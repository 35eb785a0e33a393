"""What the text normaliser is worth: recall lost to disguises that training never saw, clean rows wrongly flagged.

python scripts/measure_normalizer.py --splits validation
python scripts/measure_normalizer.py --splits validation test --reviews reviews.csv --column review --json OUT

The linear baseline is trained on the train split once for each way to prepare a text; thresholds (best F1) are fitted
on out-of-fold scores of the same split, so that neither validation nor test chose them. Every operator of
`held_out_disguises` rewrites the evidence spans of positive rows; recall is counted over the labels whose evidence it
changed, on the plain and on the rewritten rows. It also compares the disguise classes that the normaliser reports with
the `variant` field of the rows.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from held_out_disguises import Operator, operators
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.model_selection import GroupKFold

from shudun import Comment, Note
from shudun.items import Item
from shudun.normalization import NORMALIZER_VERSION, normalize, normalize_text, spelt_text
from shudun.policy import select_labels
from shudun.records import Record, read_records
from shudun.taxonomy import Taxonomy
from shudun_training.baseline import LinearBaseline
from shudun_training.config import SourceConfig, ThresholdConfig, load_taxonomy
from shudun_training.examples import Example, label_matrix
from shudun_training.provenance import environment
from shudun_training.sources import load_examples
from shudun_training.thresholds import fit_operating_points

ROOT = Path(__file__).parents[1]
PRIVATE = 0xE000
FOLDS = 3


def with_tags(text: str) -> str:
    """The text spelt out, then one private character for each class of disguise met in context."""
    found = normalize(text)
    classes = sorted({variant.name for variant in found.variants if "V03" <= variant.name <= "V10"})
    return found.spelt().text + "".join(chr(PRIVATE + int(name[1:])) for name in classes)


WAYS: dict[str, Callable[[str], str]] = {
    "raw": lambda text: text,
    "text": normalize_text,
    "spelt": spelt_text,
    "spelt + tags": with_tags,
}


@dataclass(frozen=True)
class System:
    """The baseline on one way to prepare texts, with its thresholds."""

    baseline: LinearBaseline
    thresholds: NDArray[np.float32]
    taxonomy: Taxonomy

    def select(self, items: Sequence[Item]) -> NDArray[np.bool_]:
        """Which labels hold, `(n, num_labels)`."""
        applicable = self.taxonomy.applicable([item.kind for item in items])
        exclusive = [(self.taxonomy.index[a], self.taxonomy.index[b]) for a, b in self.taxonomy.exclusive]
        scores = np.where(applicable, self.baseline.predict_proba(items), np.float32(0))
        return select_labels(scores, applicable, self.thresholds, exclusive)


@dataclass(frozen=True)
class Trial:
    """Numbers of the rows that an operator changed, the rows after it, and the changed cells `(n, num_labels)`."""

    rows: list[int]
    after: list[Item]
    cells: NDArray[np.bool_]


def main() -> None:
    arguments = parse_arguments()
    taxonomy = load_taxonomy(ROOT / "configs" / "taxonomy" / "xhs.yaml")
    rows = {split: load(split, taxonomy) for split in ("train", *arguments.splits)}
    systems = {name: fit(WAYS[name], rows["train"], taxonomy) for name in arguments.ways}
    disguises = operators("\n".join(whole(example.item, WAYS["raw"]) for example in rows["train"]))
    result: dict[str, Any] = {"normalizer": NORMALIZER_VERSION}
    for split in arguments.splits:
        trials = {name: trial(rows[split], operator, taxonomy) for name, operator in disguises.items()}
        result[split] = {
            "recall": recalls(systems, rows[split], trials),
            "clean": clean_rates(systems, rows[split], disguises),
        }
    result["reviews"] = review_rates(systems, read_reviews(arguments))
    result["tags"] = compare_tags([example for examples in rows.values() for example in examples])
    show(result, arguments.splits, arguments.ways)
    if arguments.json is not None:
        result["environment"] = environment()
        arguments.json.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def load(split: str, taxonomy: Taxonomy) -> list[Example]:
    source = SourceConfig(path=str(ROOT / "data_cards" / "shudun-xhs"), split=split)
    return load_examples([source], taxonomy, on_bad_row="fail", rejected_dir=ROOT / "runs" / "rejected")[0]


def whole(item: Item, prepare: Callable[[str], str]) -> str:
    parts = [item.title, item.text] if isinstance(item, Note) else [item.text, item.parent_text]
    return "\n".join(prepare(part) for part in parts)


def fit(prepare: Callable[[str], str], train: Sequence[Example], taxonomy: Taxonomy) -> System:
    """Train on all rows, with thresholds from scores of folds that keep groups together."""
    items, labels = [example.item for example in train], label_matrix(train, taxonomy)
    groups = [str(example.meta["group"]) for example in train]
    scores = np.zeros(labels.shape, dtype=np.float32)
    for rest, fold in GroupKFold(FOLDS, shuffle=True, random_state=0).split(items, groups=groups):
        part = LinearBaseline(lambda item: whole(item, prepare)).fit([items[i] for i in rest], labels[rest])
        scores[fold] = part.predict_proba([items[i] for i in fold])
    points = fit_operating_points(scores, labels, ThresholdConfig())
    baseline = LinearBaseline(lambda item: whole(item, prepare)).fit(items, labels)
    return System(baseline, np.array([point.threshold for point in points], dtype=np.float32), taxonomy)


def trial(examples: Sequence[Example], operator: Operator, taxonomy: Taxonomy) -> Trial:
    rows, after, cells = [], [], []
    for i, example in enumerate(examples):
        changed, labels = disguise(example, operator)
        if labels:
            rows.append(i)
            after.append(changed)
            cells.append([label in labels for label in taxonomy.label_ids])
    return Trial(rows, after, np.array(cells, dtype=np.bool_).reshape(-1, len(taxonomy.labels)))


def disguise(example: Example, operator: Operator) -> tuple[Item, set[str]]:
    """The item with its evidence rewritten, and the labels whose evidence changed."""
    item = example.item
    parts = {"title": item.title, "text": item.text} if isinstance(item, Note) else {"text": item.text}
    labels: set[str] = set()
    for name, part in parts.items():
        spans = [entry for entry in example.meta["evidence"] if entry["field"] == name]
        labels |= {entry["label"] for entry in spans if operator(cut := part[entry["start"] : entry["end"]]) != cut}
        parts[name] = rewritten(part, [(entry["start"], entry["end"]) for entry in spans], operator)
    return (Note(**parts) if isinstance(item, Note) else Comment(parent_text=item.parent_text, **parts)), labels


def rewritten(text: str, spans: Sequence[tuple[int, int]], operator: Operator) -> str:
    inside = np.zeros(len(text) + 2, dtype=np.int8)
    for start, end in spans:
        inside[start + 1 : end + 1] = 1
    edges = np.flatnonzero(np.diff(inside)).tolist()
    pieces, done = [], 0
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        pieces += [text[done:start], operator(text[start:end])]
        done = end
    return "".join([*pieces, text[done:]])


def recalls(systems: dict[str, System], examples: Sequence[Example], trials: dict[str, Trial]) -> dict[str, Any]:
    """By disguise and way: recall over the changed cells, before and after."""
    result: dict[str, Any] = {
        name: {"rows": len(one.rows), "labels": int(one.cells.sum())} for name, one in trials.items()
    }
    for way, system in systems.items():
        plain = system.select([example.item for example in examples])
        for name, one in trials.items():
            hidden = system.select(one.after)[one.cells].mean()
            result[name][way] = {"before": float(plain[one.rows][one.cells].mean()), "after": float(hidden)}
    return result


def clean_rates(
    systems: dict[str, System], examples: Sequence[Example], disguises: dict[str, Operator]
) -> dict[str, Any]:
    """Share of clean rows with any label, as they are and with their whole text in a disguise."""
    clean = [example.item for example in examples if not example.labels and not example.unknown_labels]
    sets = {"as they are": clean}
    for name in ("V01 invisible", "V02 script letters and digits", "V11 traditional", "V12 digit words"):
        changed = [rewrite_all(item, disguises[name]) for item in clean]
        sets[name] = [new for new, old in zip(changed, clean, strict=True) if new != old]
    return {name: {"rows": len(items)} | flagged(systems, items) for name, items in sets.items()}


def review_rates(systems: dict[str, System], reviews: Sequence[Item]) -> dict[str, Any]:
    return {"rows": len(reviews)} | (flagged(systems, reviews) if reviews else {})


def flagged(systems: dict[str, System], items: Sequence[Item]) -> dict[str, float]:
    return {way: float(system.select(items).any(axis=1).mean()) for way, system in systems.items()}


def rewrite_all(item: Item, operator: Operator) -> Item:
    if isinstance(item, Note):
        return Note(operator(item.title), operator(item.text))
    return Comment(operator(item.text), parent_text=item.parent_text)


def read_reviews(arguments: argparse.Namespace) -> list[Item]:
    if arguments.reviews is None:
        return []
    records = (record for record in read_records(arguments.reviews) if isinstance(record, Record))
    found = [str(record.values.get(arguments.column) or "") for record in records]
    return [Comment(text) for text in found[:: max(len(found) // arguments.most_reviews, 1)] if text.strip()]


def compare_tags(examples: Sequence[Example]) -> dict[str, Any]:
    """By class: rows that carry it in `variant`, and how many of them the normaliser reports, and others it reports."""
    marked: dict[str, Counter[str]] = {"positive": Counter(), "clean": Counter()}
    both: dict[str, Counter[str]] = {"positive": Counter(), "clean": Counter()}
    reported: dict[str, Counter[str]] = {"positive": Counter(), "clean": Counter()}
    for example in {example.id: example for example in examples}.values():
        kind = "positive" if example.labels else "clean"
        raw = whole(example.item, WAYS["raw"])
        found, given = {variant.name for variant in normalize(raw).variants}, set(example.meta["variant"])
        marked[kind].update(given)
        both[kind].update(given & found)
        reported[kind].update(found)
    return {
        f"V{i:02}": {
            kind: {
                "marked": marked[kind][f"V{i:02}"],
                "both": both[kind][f"V{i:02}"],
                "reported": reported[kind][f"V{i:02}"],
            }
            for kind in marked
        }
        for i in range(1, 13)
    }


def show(result: dict[str, Any], splits: Sequence[str], ways: Sequence[str]) -> None:
    console = Console(width=150)
    for split in splits:
        table = Table("disguise", "labels", *(f"{way}: before, after" for way in ways), title=f"recall, {split}")
        for name, row in result[split]["recall"].items():
            pairs = [(row[way]["before"], row[way]["after"]) for way in ways]
            table.add_row(name, str(row["labels"]), *(f"{a:.3f} {b:.3f} ({b - a:+.3f})" for a, b in pairs))
        console.print(table)
        table = Table("clean rows flagged", "rows", *ways, title=split)
        for name, row in result[split]["clean"].items():
            table.add_row(name, str(row["rows"]), *(f"{100 * row[way]:.2f} %" for way in ways))
        console.print(table)
    if result["reviews"]["rows"]:
        rates = "  ".join(f"{way} {100 * result['reviews'][way]:.2f} %" for way in ways)
        console.print(f"{result['reviews']['rows']:,} reviews flagged: {rates}")
    counts = ("marked", "both", "reported")
    table = Table(
        "class", *(f"{kind}: {count}" for kind in ("positive", "clean") for count in counts), title="variants"
    )
    for name, row in result["tags"].items():
        table.add_row(name, *(str(row[kind][count]) for kind in ("positive", "clean") for count in counts))
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", nargs="+", choices=("validation", "test"), default=["validation"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["raw", "text", "spelt"], help="to prepare texts")
    parser.add_argument("--reviews", type=Path, help="benign texts: .jsonl, .csv or .parquet")
    parser.add_argument("--column", default="text", help="column of --reviews")
    parser.add_argument("--most-reviews", type=int, default=20000, help="evenly spaced reviews that are used")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
