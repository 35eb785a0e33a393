"""Calibration and operating points: exact round trip, monotone probabilities, unusable values refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shudun import BundleError
from shudun.calibration import Calibration, OperatingPoint, calibration_from_dict, calibration_to_dict

IDS = ("a", "b", "c")
FITTED = Calibration(np.array([0.1, 1.0, 7.3]), np.array([-2.5, 0.0, 1 / 3]))
POINTS = (
    OperatingPoint(0.31, None, "best F1", 12, 0.5, 0.2, 0.8, 0.4),
    OperatingPoint(0.5, 0.97, "precision >= 0.9", 300, 0.91, 0.87, 0.94, 0.6),
    OperatingPoint(1.0, 1.0, "no positives", 0, None, None, None, None),
)
LOGITS = hnp.arrays(np.float32, (9, 3), elements=st.floats(-(2.0**126), 2.0**126, width=32))


@pytest.fixture
def stored():
    return json.loads(json.dumps(calibration_to_dict(IDS, FITTED, POINTS)))


def test_a_round_trip_through_json_is_exact(stored):
    calibration, points = calibration_from_dict(IDS, stored)
    assert points == POINTS
    assert calibration.slope.tolist() == FITTED.slope.tolist()
    assert calibration.intercept.tolist() == FITTED.intercept.tolist()


@given(logits=LOGITS)
def test_probabilities_are_monotone_per_label_and_between_0_and_1(logits):
    got = FITTED.apply(np.sort(logits, axis=0))
    assert got.dtype == np.float32
    assert ((got >= 0) & (got <= 1)).all()
    assert (np.diff(got, axis=0) >= 0).all()


def test_larger_logits_give_larger_probabilities():
    got = FITTED.apply(np.repeat(np.linspace(-1, 1, 21), 3).reshape(21, 3))
    assert (np.diff(got, axis=0) > 0).all()


def test_each_label_has_its_own_slope_and_intercept():
    got = FITTED.apply(np.array([[25.0, 0.0, -1 / 21.9], [0.0, 2.0, 0.0]]))
    expected = [[0.5, 0.5, 0.5], [1 / (1 + np.exp(2.5)), 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-1 / 3))]]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_identity_is_the_plain_sigmoid_and_extreme_logits_do_not_overflow():
    logits = np.array([[-1000.0, -80.0, 0.0, 1.0, 80.0, 1000.0]])
    expected = [[0.0, np.exp(-80.0), 0.5, 1 / (1 + np.exp(-1.0)), 1.0, 1.0]]
    np.testing.assert_allclose(Calibration.identity(6).apply(logits), expected, rtol=1e-6)


def test_non_finite_logits_stay_recognisable():
    assert np.isnan(Calibration.identity(1).apply(np.array([[np.nan]]))).all()


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [
        ([1.0, 0.0], [0.0, 0.0]),
        ([1.0, -1.0], [0.0, 0.0]),
        ([np.nan, 1.0], [0.0, 0.0]),
        ([np.inf, 1.0], [0.0, 0.0]),
        ([1.0, 1.0], [np.nan, 0.0]),
        ([1.0, 1.0], [0.0, -np.inf]),
        ([1.0, 1.0], [0.0]),
        ([[1.0, 1.0]], [[0.0, 0.0]]),
    ],
)
def test_unusable_parameters_are_refused(slope, intercept):
    with pytest.raises(BundleError, match="calibration:"):
        Calibration(np.array(slope), np.array(intercept))


@pytest.mark.parametrize(
    ("threshold", "automatic"),
    [(0.0, None), (-0.1, None), (1.1, None), (0.6, 0.5), (0.5, 1.01), (float("nan"), None), (0.5, float("nan"))],
)
def test_unusable_thresholds_are_refused(threshold, automatic):
    with pytest.raises(BundleError, match="expected 0 < threshold <= automatic <= 1"):
        OperatingPoint(threshold, automatic, "m", 1, None, None, None, None)


def without(data, key):
    return {name: value for name, value in data.items() if name != key}


@pytest.mark.parametrize(
    "change",
    [
        lambda d: dict(reversed(d.items())),
        lambda d: without(d, "b"),
        lambda d: d | {"d": d["a"]},
        lambda d: without(d, "c") | {"d": d["c"]},
        lambda d: {},
        list,
        lambda d: None,
        lambda d: 5,
    ],
    ids=["permuted", "missing", "extra", "foreign", "empty", "list", "null", "number"],
)
def test_other_labels_or_another_order_are_refused(stored, change):
    with pytest.raises(BundleError, match="in this order, got"):
        calibration_from_dict(IDS, change(stored))


@pytest.mark.parametrize("field", ["slope", "intercept", *OperatingPoint.__slots__])
def test_a_missing_field_is_refused(stored, field):
    del stored["b"][field]
    with pytest.raises(BundleError, match=f"incomplete or mistyped entry: .*{field}"):
        calibration_from_dict(IDS, stored)


@pytest.mark.parametrize("value", ["high", None, [], {}, 10**400])
@pytest.mark.parametrize("field", ["slope", "intercept", "threshold"])
def test_a_mistyped_number_is_refused(stored, field, value):
    broken = copy.deepcopy(stored)
    broken["b"][field] = value
    with pytest.raises(BundleError):
        calibration_from_dict(IDS, broken)
