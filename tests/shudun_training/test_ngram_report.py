"""The parts of a bundle with an n-gram branch, measured alone beside the whole."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from shudun import Comment, Scorer
from shudun_training.config import ThresholdConfig
from shudun_training.evaluation import evaluate_bundle
from shudun_training.examples import Example, label_matrix
from shudun_training.metrics import compute_metrics
from shudun_training.ngram_branch.ablation import part_scorers
from shudun_training.ngram_branch.fitting import fit_branch
from shudun_training.ngram_branch.graph import add_branch
from shudun_training.reporting import print_report, write_report
from shudun_training.thresholds import fit_calibration, fit_operating_points

THRESHOLDS = ThresholdConfig(min_positives=1)


@pytest.fixture(scope="module")
def examples(texts):
    rows = [(f"{text}{i}", "demo" in text) for i in range(6) for text in texts]
    return [
        Example(Comment(text, id=text), frozenset({"diversion"} if found else ()), frozenset()) for text, found in rows
    ]


@pytest.fixture(scope="module")
def branch(trained, taxonomy, examples):
    items = [example.item for example in examples]
    options = {"max_order": 2, "min_df": 2, "inverse_regularisation": 4.0}
    return fit_branch(items, label_matrix(examples, taxonomy), trained.encoder, **options)


@pytest.fixture(scope="module")
def scorer(trained, branch, make_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("blended") / "bundle"
    provenance = {"ngram_branch": branch.summary()}
    return Scorer.from_bundle(make_bundle(folder, graph=add_branch(trained.graph, branch), provenance=provenance))


@pytest.fixture(scope="module")
def report(scorer, examples):
    return evaluate_bundle(scorer, examples, train=examples, validation=examples[:24], thresholds=THRESHOLDS) | {
        "split": "test"
    }


def test_parts_are_scored_by_the_shipped_graph_under_the_rules_of_the_whole(
    scorer, report, examples, branch, trained, taxonomy, tiny_bundle
):
    items, truth = [x.item for x in examples], label_matrix(examples, taxonomy)
    logits = {
        "encoder": Scorer.from_bundle(tiny_bundle).run(items).logits,
        "ngram_branch": branch.logits(trained.encoder.encode(items)).astype(np.float32),
    }
    assert report["parts"].keys() == logits.keys()
    for name, part in part_scorers(scorer, items[:24], truth[:24], THRESHOLDS).items():
        calibration = fit_calibration(logits[name][:24], truth[:24])
        scores, selected = part.judge(items)
        applicable = taxonomy.applicable([item.kind for item in items])
        np.testing.assert_allclose(scores, np.where(applicable, calibration.apply(logits[name]), 0), atol=1e-4)
        points = fit_operating_points(calibration.apply(logits[name][:24]), truth[:24], THRESHOLDS)
        assert [p.threshold for p in part.points] == pytest.approx([p.threshold for p in points], abs=1e-4)
        figures = compute_metrics(scores, selected, truth, taxonomy.label_ids)
        assert {key: report["parts"][name][key] for key in ("macro_f1", "macro_ap")} == {
            key: figures[key] for key in ("macro_f1", "macro_ap")
        }
    # "diversion" is written out in the texts: the branch has learned it, random weights have not.
    ap = {name: part["per_label"]["diversion"]["ap"] for name, part in report["parts"].items()}
    assert ap["encoder"] < 0.9 < ap["ngram_branch"]
    for part in report["parts"].values():
        delta = part["difference"]["macro_ap"]["delta"]
        assert delta == pytest.approx(report["model"]["macro_ap"] - part["macro_ap"])


def test_a_bundle_of_an_encoder_alone_has_no_parts(tiny_bundle, examples):
    report = evaluate_bundle(
        Scorer.from_bundle(tiny_bundle), examples, train=examples, validation=examples, thresholds=THRESHOLDS
    )
    assert "parts" not in report


def test_the_report_shows_parts_whole_and_baseline_on_the_same_rows(report, tmp_path):
    write_report(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == report
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("## Parts of the model") + 2
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + 6]]
    assert [row[0] for row in table] == [
        "system", "---", "encoder alone", "n-gram branch alone", "both", "linear baseline",
    ]  # fmt: skip
    blocks = [*report["parts"].values(), report["model"], report["baseline"]]
    for row, block in zip(table[2:], blocks, strict=True):
        assert row[1:] == [f"{block[key]:.3f}" for key in ("macro_f1", "micro_f1", "macro_ap")]
    value = report["parts"]["encoder"]["difference"]["macro_ap"]
    expected = f"macro_ap: {value['delta']:+.3f} (95 % interval {value['low']:+.3f} to {value['high']:+.3f})"
    assert f"- both - encoder alone, {expected}" in lines
    console = Console(file=io.StringIO(), width=160)
    print_report(report, console)
    assert f"model - encoder alone, {expected}" in console.file.getvalue()
