"""Metrics: scikit-learn's figures on known cells, without a network."""

from __future__ import annotations

import json
import socket
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from shudun_training import metrics
from shudun_training.examples import POSITIVE, UNKNOWN
from shudun_training.metrics import compute_metrics

LABELS = ("a", "b", "c", "d")


def sample(seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
    """Scores with ties, predictions and labels of which a quarter is unknown."""
    rng = np.random.default_rng(seed)
    scores = (np.round(rng.random((80, 4)) * 30) / 30).astype(np.float32)
    labels = (rng.random((80, 4)) < 0.3 + 0.4 * scores).astype(np.int64)
    labels[rng.random((80, 4)) < 0.25] = UNKNOWN
    return scores, scores > 0.45, labels


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_scikit_learn_on_known_cells(seed: int) -> None:
    scores, predictions, labels = sample(seed)
    result = compute_metrics(scores, predictions, labels, LABELS)
    expected: dict[str, list[float]] = {"f1": [], "ap": []}
    for i, label in enumerate(LABELS):
        known = labels[:, i] != UNKNOWN
        truth, flagged = labels[known, i] == POSITIVE, predictions[known, i]
        row = result["per_label"][label]
        assert row["precision"] == pytest.approx(precision_score(truth, flagged))
        assert row["recall"] == pytest.approx(recall_score(truth, flagged))
        assert row["f1"] == pytest.approx(f1_score(truth, flagged))
        assert row["ap"] == pytest.approx(average_precision_score(truth, scores[known, i]))
        assert (row["positives"], row["negatives"]) == (truth.sum(), (~truth).sum())
        expected["f1"].append(row["f1"])
        expected["ap"].append(row["ap"])
    known = labels != UNKNOWN
    assert result["micro_f1"] == pytest.approx(f1_score(labels[known] == POSITIVE, predictions[known]))
    assert result["macro_f1"] == pytest.approx(np.mean(expected["f1"]))
    assert result["macro_ap"] == pytest.approx(np.mean(expected["ap"]))


@pytest.mark.parametrize("seed", range(5))
def test_operating_figures_are_the_best_over_all_thresholds(seed: int) -> None:
    scores, predictions, labels = sample(seed)
    result = compute_metrics(scores, predictions, labels, LABELS)
    for i, label in enumerate(LABELS):
        known = labels[:, i] != UNKNOWN
        truth, values = labels[known, i] == POSITIVE, scores[known, i]
        curve = [(truth[values >= t].mean(), truth[values >= t].sum() / truth.sum()) for t in np.unique(values)]
        row = result["per_label"][label]
        at_precision = max((recall for precision, recall in curve if precision >= 0.95), default=0.0)
        assert row["recall_at_precision_95"] == pytest.approx(at_precision)
        assert row["precision_at_recall_80"] == pytest.approx(max(p for p, recall in curve if recall >= 0.8))


def test_unknown_cells_change_nothing() -> None:
    scores, predictions, labels = sample(0)
    unknown = labels == UNKNOWN
    changed = compute_metrics(np.where(unknown, np.float32(0.99), scores), predictions ^ unknown, labels, LABELS)
    assert changed == compute_metrics(scores, predictions, labels, LABELS)


def test_the_order_of_rows_changes_nothing() -> None:
    scores, predictions, labels = sample(0)
    turned = compute_metrics(scores[::-1], predictions[::-1], labels[::-1], LABELS)
    straight = compute_metrics(scores, predictions, labels, LABELS)
    assert turned["macro_ap"] == pytest.approx(straight["macro_ap"])
    assert turned["per_label"]["a"] == pytest.approx(straight["per_label"]["a"])


def test_a_label_without_known_positives_is_left_out_of_the_means() -> None:
    scores, predictions, labels = sample(0)
    labels[:, 2] = 0
    labels[:, 3] = UNKNOWN
    result = compute_metrics(scores, predictions, labels, LABELS)
    for label, negatives in (("c", 80), ("d", 0)):
        row = result["per_label"][label]
        assert [row[key] for key in ("recall", "f1", "ap", "recall_at_precision_95")] == [None] * 4
        assert (row["positives"], row["negatives"]) == (0, negatives)
    assert result["per_label"]["c"]["precision"] == 0.0
    assert result["per_label"]["d"]["precision"] is None
    rest = compute_metrics(scores[:, :2], predictions[:, :2], labels[:, :2], LABELS[:2])
    assert (result["macro_f1"], result["macro_ap"]) == (rest["macro_f1"], rest["macro_ap"])


def test_without_any_positive_the_means_are_undefined_and_still_json() -> None:
    scores, predictions, labels = sample(0)
    result = compute_metrics(scores, predictions, np.where(labels == POSITIVE, 0, labels), LABELS)
    assert (result["macro_f1"], result["micro_f1"], result["macro_ap"]) == (None, None, None)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize(
    ("score", "rate", "error"), [(0.9, 0.0, 0.9), (0.25, 0.25, 0.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0)]
)
def test_the_calibration_error_of_one_constant_score_is_its_distance_to_the_rate(
    score: float, rate: float, error: float
) -> None:
    labels = np.repeat([1, 0], [round(rate * 40), 40 - round(rate * 40)])[:, None]
    scores = np.full((40, 1), score, dtype=np.float64)
    result = compute_metrics(scores, scores >= 0.5, labels, ["a"])
    assert result["per_label"]["a"]["ece"] == pytest.approx(error)


def test_metrics_load_and_run_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a metric opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    metrics._module.cache_clear()
    assert compute_metrics(*sample(0), LABELS)["macro_f1"] > 0
