"""Evaluation beside the baseline: paired intervals that mean what they say, and complete reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shudun import Comment, Note, Scorer, Taxonomy
from shudun.errors import ShudunError
from shudun_training import bootstrap
from shudun_training.bootstrap import Predictions, paired_bootstrap, paired_differences
from shudun_training.config import ThresholdConfig
from shudun_training.evaluation import baseline_predictions, evaluate_bundle
from shudun_training.examples import NEGATIVE, POSITIVE, UNKNOWN, Example, label_matrix
from shudun_training.metrics import compute_metrics

LABELS = ("a", "b", "c")


def references(seed: int = 0, rows: int = 150, unknown: float = 0.2) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((rows, 3)) < [0.5, 0.3, 0.05]).astype(np.int64)
    labels[rng.random(labels.shape) < unknown] = UNKNOWN
    return labels


def system(truth: NDArray[np.int64], *, skill: float, seed: int, steps: int | None = None) -> Predictions:
    """Scores that follow the truth with some skill; `steps` rounds them, so that many are equal."""
    rng = np.random.default_rng(seed)
    scores = skill * (truth == POSITIVE) + (1 - skill) * rng.random(truth.shape)
    if steps is not None:
        scores = np.round(scores * steps) / steps
    scores = scores.astype(np.float32)
    return Predictions(scores, scores >= 0.5, ())


def figures(predictions: Predictions, truth: NDArray[np.int64], rows: NDArray[np.int64]) -> dict[str, float | None]:
    return compute_metrics(predictions.scores[rows], predictions.selected[rows], truth[rows], LABELS)


def test_identical_systems_differ_by_exactly_nothing() -> None:
    truth = references()
    one = system(truth, skill=0.3, seed=1)
    for value in paired_bootstrap(one, one, truth, seed=0).values():
        assert value == {"delta": 0.0, "low": 0.0, "high": 0.0, "resamples": 1000}


def test_a_better_system_has_an_interval_above_zero_and_a_worse_one_below() -> None:
    truth = references()
    good, bad = system(truth, skill=0.6, seed=1), system(truth, skill=0.1, seed=2)
    for metric in ("macro_f1", "macro_ap"):
        better, worse = paired_bootstrap(good, bad, truth, seed=0)[metric], paired_bootstrap(bad, good, truth, seed=0)
        assert better is not None
        assert 0 < better["low"] <= better["delta"] <= better["high"]
        other = worse[metric]
        assert other is not None
        assert (other["delta"], other["low"], other["high"]) == pytest.approx(
            (-better["delta"], -better["high"], -better["low"])
        )


@pytest.mark.parametrize("steps", [None, 5, 1], ids=["distinct", "ties", "two-scores"])
@pytest.mark.parametrize("seed", [0, 2])
def test_difference_and_interval_are_those_of_the_metrics_on_resampled_rows(
    seed: int, steps: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 12)
    truth = references(seed, rows=40)
    one, two = (system(truth, skill=0.3, seed=10 * seed + i, steps=steps) for i in (1, 2))
    found = paired_bootstrap(one, two, truth, seed=seed)
    # The resampled rows are those of a multinomial draw (Efron 1979); here each is spelt out.
    draws = np.random.default_rng(seed).multinomial(40, np.full(40, 1 / 40), size=12)
    samples = [np.arange(40), *(np.repeat(np.arange(40), draw) for draw in draws)]
    for metric in ("macro_f1", "macro_ap"):
        pairs = [(figures(one, truth, rows)[metric], figures(two, truth, rows)[metric]) for rows in samples]
        deltas = np.array([a - b for a, b in pairs if a is not None and b is not None])
        value = found[metric]
        assert value is not None
        assert value["delta"] == pytest.approx(deltas[0])
        assert (value["low"], value["high"]) == pytest.approx(tuple(np.percentile(deltas[1:], [2.5, 97.5])))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    truth = references()
    one, two = (system(truth, skill=0.2, seed=i) for i in (1, 2))
    first, again, other = (paired_bootstrap(one, two, truth, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_unknown_cells_change_no_interval() -> None:
    truth = references(unknown=0.4)
    one, two = (system(truth, skill=0.2, seed=i) for i in (1, 2))
    unknown = truth == UNKNOWN
    changed = Predictions(np.where(unknown, np.float32(1), one.scores), one.selected | unknown, ())
    assert paired_bootstrap(changed, two, truth, seed=0) == paired_bootstrap(one, two, truth, seed=0)


def test_without_positives_there_is_no_difference_to_report() -> None:
    truth = np.where(references() == POSITIVE, NEGATIVE, references())
    one = system(truth, skill=0.2, seed=1)
    assert paired_bootstrap(one, one, truth, seed=0) == {"macro_f1": None, "macro_ap": None}


def test_differences_of_each_label_are_those_of_the_label_alone() -> None:
    truth = references(rows=60)
    truth[:, 2] = NEGATIVE
    one, two = (system(truth, skill=0.3, seed=i) for i in (1, 2))
    found = paired_differences(one, two, truth, seed=3)
    assert found.macro == paired_bootstrap(one, two, truth, seed=3)
    assert found.per_label[2] == {"f1": None, "ap": None}
    for label in (0, 1):
        only = truth.copy()
        only[:, [i for i in range(3) if i != label]] = NEGATIVE
        alone = paired_bootstrap(one, two, only, seed=3)
        assert found.per_label[label] == {"f1": alone["macro_f1"], "ap": alone["macro_ap"]}


@pytest.fixture(scope="module")
def examples(texts: list[str]) -> list[Example]:
    """Notes and comments, some labels unknown, some rows without labels."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(90):
        text = f"{texts[i % 8]}{i}"
        item = Note(title=text[:5], text=text, id=str(i)) if i % 3 == 0 else Comment(text, id=str(i))
        labels = {"diversion"} if "demo" in text else set()
        if i % 3 == 0 and i % 8 == 4:
            labels |= {"note_only"}
        elif i % 8 == 4:
            labels |= {"shill", "hard_sell"}
        # Notes that could be a hard sell are not reviewed for it, so a baseline gives them both exclusive labels.
        unknown = {"hard_sell"} - labels if "note_only" in labels or rng.random() < 0.3 else set()
        everything = {"diversion", "note_only", "shill", "hard_sell"}
        rows.append(
            Example(item, frozenset(), frozenset(everything))
            if i % 10 == 9
            else Example(item, frozenset(labels), frozenset(unknown))
        )
    return rows


def test_a_report_measures_the_bundle_beside_the_baseline(
    tiny_bundle: Path, examples: list[Example], taxonomy: Taxonomy
) -> None:
    scorer = Scorer.from_bundle(tiny_bundle)
    train, validation, test = examples[:40], examples[40:65], examples[65:]
    config = ThresholdConfig(min_positives=1)
    report = evaluate_bundle(scorer, test, train=train, validation=validation, thresholds=config)
    assert json.loads(json.dumps(report, allow_nan=False)) == report

    items, truth = [example.item for example in test], label_matrix(test, taxonomy)
    baseline = baseline_predictions(items, train, validation, taxonomy, config)
    expected = {
        "model": compute_metrics(scorer.predict_proba(items), scorer.predict(items), truth, taxonomy.label_ids),
        "baseline": compute_metrics(baseline.scores, baseline.selected, truth, taxonomy.label_ids),
    }
    points = {"model": scorer.points, "baseline": baseline.points}
    for name, block in expected.items():
        assert {key: report[name][key] for key in ("macro_f1", "micro_f1", "macro_ap")} == {
            key: block[key] for key in ("macro_f1", "micro_f1", "macro_ap")
        }
        for label, point in zip(taxonomy.label_ids, points[name], strict=True):
            assert report[name]["per_label"][label] == block["per_label"][label] | {"threshold": point.threshold}
    for metric in ("macro_f1", "macro_ap"):
        assert report["difference"][metric]["delta"] == pytest.approx(
            report["model"][metric] - report["baseline"][metric]
        )


def test_the_counts_of_a_report_add_up(tiny_bundle: Path, examples: list[Example]) -> None:
    scorer = Scorer.from_bundle(tiny_bundle)
    counts = evaluate_bundle(
        scorer, examples, train=examples, validation=examples, thresholds=ThresholdConfig(), seed=1
    )["counts"]
    labelled = [example for example in examples if len(example.unknown_labels) < 4]
    assert counts == {
        "rows": 90,
        "notes": sum(example.item.kind == "note" for example in examples),
        "comments": sum(example.item.kind == "comment" for example in examples),
        "clean_rows": sum(not example.labels for example in labelled),
        "unlabelled_rows": 90 - len(labelled),
        # Of four labels three apply to each kind of item.
        "known_labels": sum(3 - len(example.unknown_labels) for example in labelled),
        "positive_labels": sum(len(example.labels) for example in examples),
        "train_rows": 90,
        "validation_rows": 90,
    }


def test_the_baseline_follows_the_rules_of_the_model(examples: list[Example], taxonomy: Taxonomy) -> None:
    items = [example.item for example in examples]
    config = ThresholdConfig(min_positives=1)
    found = baseline_predictions(items, examples, examples, taxonomy, config)
    applicable = taxonomy.applicable([item.kind for item in items])
    limits = np.array([point.threshold for point in found.points], dtype=np.float32)
    above = applicable & (found.scores >= limits)
    assert (found.scores[~applicable] == 0).all()
    assert not (found.selected & ~above).any()
    pair = [taxonomy.index["note_only"], taxonomy.index["hard_sell"]]
    assert not found.selected[:, pair].all(axis=1).any()
    free = ~above[:, pair].all(axis=1)
    assert not free.all()
    np.testing.assert_array_equal(found.selected[free], above[free])
    # It fits what it was trained on: "diversion" is written out in the text.
    truth = label_matrix(examples, taxonomy)[:, 0]
    assert (found.selected[truth != UNKNOWN, 0] == (truth[truth != UNKNOWN] == POSITIVE)).all()


def test_a_bundle_that_gives_a_row_no_finite_score_is_not_measured(
    tiny_bundle: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer.from_bundle(tiny_bundle, "cpu", 1)
    rows = [Example(Comment(text, id=f"r{i}"), frozenset(), frozenset()) for i, text in enumerate(texts)]
    judged = scorer.judge([row.item for row in rows])
    judged[0][2] = np.nan
    monkeypatch.setattr(scorer, "judge", lambda items: judged)
    with pytest.raises(ShudunError, match=r"1 rows have no finite score, e\.g\. r2"):
        evaluate_bundle(scorer, rows, train=rows, validation=rows, thresholds=ThresholdConfig())


def test_each_source_is_measured_alone_on_what_it_annotates(
    tiny_bundle: Path, examples: list[Example], taxonomy: Taxonomy
) -> None:
    scorer = Scorer.from_bundle(tiny_bundle)
    # The second source knows "diversion" only.
    others = frozenset(taxonomy.label_ids) - {"diversion"}
    partial = [Example(x.item, x.labels - others, x.unknown_labels | others) for x in examples]
    rows = examples[:50] + partial[50:]
    sources = {"one": slice(0, 50), "two": slice(50, 90)}
    config = ThresholdConfig(min_positives=1)
    report = evaluate_bundle(scorer, rows, train=rows, validation=rows, thresholds=config, sources=sources)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert {name: list(block["model"]) for name, block in report["sources"].items()} == {
        "one": list(taxonomy.label_ids),
        "two": ["diversion"],
    }
    for name, part in sources.items():
        items, truth = [row.item for row in rows[part]], label_matrix(rows[part], taxonomy)
        alone = compute_metrics(scorer.predict_proba(items), scorer.predict(items), truth, taxonomy.label_ids)
        for label, figures in report["sources"][name]["model"].items():
            assert figures == alone["per_label"][label]
    flagged = report["sources"]["two"]["flagged_where_not_annotated"]
    items = [row.item for row in rows[50:]]
    selected = {
        "model": scorer.predict(items),
        "baseline": baseline_predictions(items, rows, rows, taxonomy, config).selected,
    }
    assert flagged == {
        label: {name: found[:, taxonomy.index[label]].mean() for name, found in selected.items()} for label in others
    }
    whole = report["model"]["per_label"]["diversion"]
    assert whole["positives"] == sum(block["model"]["diversion"]["positives"] for block in report["sources"].values())


def test_one_source_needs_no_figures_of_its_own(tiny_bundle: Path, examples: list[Example]) -> None:
    scorer = Scorer.from_bundle(tiny_bundle)
    arguments = {"train": examples, "validation": examples, "thresholds": ThresholdConfig()}
    report = evaluate_bundle(scorer, examples, sources={"one": slice(0, 90)}, **arguments)
    assert report["sources"] == {}
