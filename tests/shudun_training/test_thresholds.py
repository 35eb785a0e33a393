"""Calibration and operating points: fitted on known cells, monotone, and as good as brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shudun.calibration import Calibration, OperatingPoint
from shudun_training.config import ThresholdConfig
from shudun_training.examples import NEGATIVE, POSITIVE, UNKNOWN
from shudun_training.thresholds import fit_calibration, fit_operating_points, wilson_interval

SEEDS = st.integers(0, 2**32 - 1)
BEST_F1 = ThresholdConfig(min_positives=1)


def sample(seed: int, rows: int = 60) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits that are wrong in scale and offset, with labels of which a fifth is unknown; three labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, (rows, 3))
    labels = (rng.random((rows, 3)) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    labels[rng.random((rows, 3)) < 0.2] = UNKNOWN
    return (logits * rng.uniform(0.2, 6, 3) + rng.normal(0, 2, 3)).astype(np.float32), labels


def negative_log_likelihood(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum over the known cells of each label."""
    p = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-7)
    terms = np.where(labels == POSITIVE, -np.log(p), -np.log(1 - p))
    return np.where(labels == UNKNOWN, 0.0, terms).sum(axis=0)


def one_label(scores: list[float], truth: list[int], config: ThresholdConfig = BEST_F1) -> OperatingPoint:
    (point,) = fit_operating_points(
        np.array(scores, dtype=np.float32)[:, None], np.array(truth, dtype=np.int64)[:, None], config
    )
    return point


@settings(max_examples=50)
@given(seed=SEEDS)
def test_calibration_never_fits_worse_than_the_plain_sigmoid_and_keeps_the_order(seed: int) -> None:
    logits, labels = sample(seed)
    calibration = fit_calibration(logits, labels)
    plain = negative_log_likelihood(Calibration.identity(3).apply(logits), labels)
    fitted = negative_log_likelihood(calibration.apply(logits), labels)
    assert (fitted <= plain * (1 + 1e-6) + 1e-4).all()
    order = np.argsort(logits, axis=0)
    assert (np.diff(np.take_along_axis(calibration.apply(logits), order, axis=0), axis=0) >= 0).all()
    assert (calibration.slope > 0).all()


def test_calibration_recovers_a_known_scale_and_offset() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(-1, 2, (20_000, 1))
    labels = (rng.random(true.shape) < 1 / (1 + np.exp(-true))).astype(np.int64)
    calibration = fit_calibration(((true - 0.7) / 0.25).astype(np.float32), labels)
    assert calibration.slope[0] == pytest.approx(0.25, rel=0.05)
    assert calibration.intercept[0] == pytest.approx(0.7, abs=0.08)


def test_unknown_cells_change_neither_calibration_nor_thresholds() -> None:
    logits, labels = sample(1)
    garbage = np.where(labels == UNKNOWN, np.float32("nan"), logits)
    first, second = fit_calibration(logits, labels), fit_calibration(garbage, labels)
    np.testing.assert_array_equal(first.slope, second.slope)
    np.testing.assert_array_equal(first.intercept, second.intercept)
    scores = first.apply(logits)
    noisy = np.where(labels == UNKNOWN, np.float32(1), scores)
    assert fit_operating_points(scores, labels, BEST_F1) == fit_operating_points(noisy, labels, BEST_F1)


@pytest.mark.parametrize("value", [NEGATIVE, POSITIVE, UNKNOWN])
def test_a_label_with_one_known_class_keeps_the_identity(value: int) -> None:
    logits, labels = sample(2)
    labels[:, 1] = np.where(labels[:, 1] == UNKNOWN, UNKNOWN, value)
    calibration = fit_calibration(logits, labels)
    assert (calibration.slope[1], calibration.intercept[1]) == (1.0, 0.0)


def test_a_few_separable_rows_cannot_bend_the_calibration_far() -> None:
    logits = np.array([[-1.0], [-1.0], [-1.0], [1.0]], dtype=np.float32)
    calibration = fit_calibration(logits, np.array([[0], [0], [0], [1]]))
    assert 0.5 < calibration.slope[0] < 3


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, table I, method 3 (score, without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_the_wilson_interval_has_its_published_values(hits: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(hits, total) == pytest.approx((low, high), abs=5e-5)


def _brute_force(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> list[tuple[float, float, float]]:
    """Precision, recall and F1 of every possible set of flagged rows."""
    found = []
    for threshold in np.unique(scores):
        flagged = scores >= threshold
        hits = (flagged & truth).sum()
        found.append((hits / flagged.sum(), hits / truth.sum(), 2 * hits / (flagged.sum() + truth.sum())))
    return found


@settings(max_examples=150)
@given(
    cells=st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=2, max_size=40),
    target=st.sampled_from([None, 0.5, 0.8, 1.0]),
    automatic=st.sampled_from([0.6, 0.95, 1.0]),
)
def test_thresholds_are_as_good_as_trying_every_one(
    cells: list[tuple[int, bool]], target: float | None, automatic: float
) -> None:
    scores = np.array([score / 41 for score, _ in cells], dtype=np.float32)
    truth = np.array([positive for _, positive in cells])
    if not truth.any() or truth.all():
        return
    config = ThresholdConfig(precision=target, automatic_precision=automatic, min_positives=1, min_automatic=1)
    point = one_label(scores.tolist(), truth.astype(int).tolist(), config)
    possible = _brute_force(scores, truth)
    assert point.precision is not None
    assert point.recall is not None
    reached = [recall for precision, recall, _ in possible if target is not None and precision >= target]
    if reached:
        assert point.method == f"precision >= {target:g}"
        assert point.precision >= target
        assert point.recall == max(reached)
    else:
        assert point.method == "best F1"
        f1 = 2 * point.precision * point.recall / max(point.precision + point.recall, 1e-12)
        assert f1 == pytest.approx(max(value for _, _, value in possible))
    if point.automatic is None:
        assert all(precision < automatic for precision, _, _ in possible)
    else:
        sure = scores >= np.float32(point.automatic)
        assert point.automatic >= point.threshold
        assert truth[sure].mean() >= automatic


@pytest.mark.parametrize("start", [1e-3, 0.5, 0.9999])
def test_the_target_holds_between_neighbouring_floats(start: float) -> None:
    scores = [np.float32(start)]
    for _ in range(39):
        scores.append(np.nextafter(scores[-1], np.float32(2)))
    truth = [0] * 20 + [1] * 20
    config = ThresholdConfig(precision=1.0, automatic_precision=1.0)
    point = one_label(scores[::-1], truth[::-1], config)
    assert (point.precision, point.recall) == (1.0, 1.0)
    assert point.automatic == point.threshold


def test_a_threshold_lies_halfway_between_the_scores_it_parts() -> None:
    point = one_label([0.9, 0.8, 0.4, 0.3], [1, 1, 0, 0])
    assert point.threshold == pytest.approx(0.6)


def test_rows_of_equal_score_are_never_parted() -> None:
    point = one_label([0.9, 0.7, 0.7, 0.7, 0.2], [1, 1, 0, 1, 0], ThresholdConfig(precision=0.9, min_positives=1))
    assert (point.precision, point.recall) == (1.0, pytest.approx(1 / 3))
    point = one_label([0.7] * 4, [1, 0, 1, 0], ThresholdConfig(precision=0.9, min_positives=1))
    assert (point.method, point.precision, point.recall) == ("best F1", 0.5, 1.0)


@pytest.mark.parametrize("positives", [0, 1, 4])
def test_too_few_positives_keep_one_half_and_are_never_automatic(positives: int) -> None:
    truth = [1] * positives + [0] * 20
    point = one_label(np.linspace(0.9, 0.1, len(truth)).tolist(), truth, ThresholdConfig(min_positives=5))
    assert (point.threshold, point.automatic, point.positives) == (0.5, None, positives)
    assert point.method.startswith("default")


def test_without_negatives_there_is_nothing_to_fit() -> None:
    point = one_label([0.9] * 8, [1] * 8)
    assert (point.threshold, point.automatic) == (0.5, None)


def test_a_label_without_known_cells_has_no_figures() -> None:
    point = one_label([0.9] * 8, [UNKNOWN] * 8)
    assert (point.threshold, point.positives) == (0.5, 0)
    assert (point.precision, point.precision_low, point.precision_high, point.recall) == (None,) * 4


@settings(max_examples=40)
@given(seed=SEEDS)
def test_reported_figures_are_those_of_the_threshold(seed: int) -> None:
    logits, labels = sample(seed)
    scores = Calibration.identity(3).apply(logits)
    for i, point in enumerate(fit_operating_points(scores, labels, ThresholdConfig(precision=0.7))):
        flagged = scores[:, i] >= np.float32(point.threshold)
        hits = int((flagged & (labels[:, i] == POSITIVE)).sum())
        total = int((flagged & (labels[:, i] != UNKNOWN)).sum())
        positives = int((labels[:, i] == POSITIVE).sum())
        assert point.positives == positives
        assert point.precision == (hits / total if total else None)
        assert point.recall == (hits / positives if positives else None)
        if total:
            assert (point.precision_low, point.precision_high) == wilson_interval(hits, total)


def test_an_automatic_threshold_rests_on_enough_rows():
    scores = np.linspace(0.99, 0.01, 60, dtype=np.float32)[:, None]
    labels = np.where(np.arange(60)[:, None] < 9, POSITIVE, 0)
    lucky = fit_operating_points(scores, labels, ThresholdConfig(min_automatic=10))[0]
    proven = fit_operating_points(scores, labels, ThresholdConfig(min_automatic=9))[0]
    assert lucky.automatic is None
    assert proven.automatic is not None
    assert (scores[:, 0] >= proven.automatic).sum() == 9
