"""Policy: which labels hold, in which order, and what the item's suggestion is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shudun import Taxonomy, TaxonomyError
from shudun.calibration import OperatingPoint
from shudun.policy import ACTIONS, Decider, Policy

TIERS = ("T1", "T2*", "T2", "T3", "T4")
LABELS = [
    {"id": f"{tier.replace('*', 's').lower()}_{n}", "name_zh": "", "family": "f", "tier": tier, "applies_to": ["note"]}
    for n in "ab"
    for tier in TIERS
]
TAXONOMY = Taxonomy.from_dict({"id": "t", "version": "1", "labels": LABELS, "exclusive": [["t1_a", "t3_b"]]})
EVERYWHERE = np.ones((1, len(LABELS)), dtype=np.bool_)
POINT = OperatingPoint(0.5, 0.9, "m", 1, None, None, None, None)
PROBABILITIES = hnp.arrays(np.float32, (6, len(LABELS)), elements=st.floats(0, 1, width=32))


@pytest.fixture(scope="module")
def decider(policy) -> Decider:
    return Decider(policy, TAXONOMY, [POINT] * len(LABELS))


def decide(decider, scores):
    probabilities = np.array([scores.get(label, 0.0) for label in TAXONOMY.label_ids], dtype=np.float32)
    return decider.decide(probabilities, decider.select(probabilities[None], EVERYWHERE)[0])


@pytest.mark.parametrize(
    ("label", "score", "action"),
    [
        ("t1_a", 0.49, "pass"),
        ("t1_a", 0.5, "pass"),
        ("t1_a", 0.99, "pass"),
        ("t2s_a", 0.49, "pass"),
        ("t2s_a", 0.5, "review"),
        ("t2s_a", 0.99, "review"),
        ("t2_a", 0.5, "review"),
        ("t2_a", 0.99, "review"),
        ("t3_a", 0.49, "pass"),
        ("t3_a", 0.5, "review"),
        ("t3_a", 0.89, "review"),
        ("t3_a", 0.9, "block"),
        ("t4_a", 0.89, "review"),
        ("t4_a", 0.9, "block"),
    ],
)
def test_the_shipped_policy_by_tier_and_score(decider, label, score, action):
    decision = decide(decider, {label: score})
    assert decision.action == action
    assert decision.labels == ((label,) if score >= 0.5 else ())
    assert decision.primary_label == (label if score >= 0.5 else None)


def test_nothing_above_a_threshold_passes(decider):
    decision = decide(decider, {})
    assert (decision.action, decision.primary_label, decision.labels) == ("pass", None, ())


def test_the_strongest_action_of_all_labels_counts(decider):
    assert decide(decider, {"t1_a": 0.99, "t3_a": 0.95, "t4_a": 0.6}).action == "block"
    assert decide(decider, {"t1_a": 0.99, "t2_a": 0.6}).action == "review"


def test_labels_stand_by_tier_then_by_score(decider):
    scores = {"t1_b": 0.99, "t3_a": 0.6, "t4_a": 0.51, "t4_b": 0.52, "t2s_a": 0.9, "t2_b": 0.7, "t2_a": 0.8}
    decision = decide(decider, scores)
    assert decision.labels == ("t4_b", "t4_a", "t3_a", "t2_a", "t2_b", "t2s_a", "t1_b")
    assert decision.primary_label == "t4_b"


def test_without_an_automatic_threshold_nothing_is_blocked(policy):
    decider = Decider(policy, TAXONOMY, [replace(POINT, automatic=None)] * len(LABELS))
    assert decide(decider, {"t4_a": 1.0, "t3_a": 1.0}).action == "review"


def test_each_label_has_its_own_thresholds(policy):
    points = [replace(POINT, threshold=0.1 + 0.08 * i, automatic=None) for i in range(len(LABELS))]
    decider = Decider(policy, TAXONOMY, points)
    for i, label in enumerate(TAXONOMY.label_ids):
        assert decide(decider, {label: points[i].threshold}).labels == (label,)
        assert decide(decider, {label: points[i].threshold - 0.01}).labels == ()


@pytest.mark.parametrize(
    ("a", "b", "winner"), [(0.8, 0.7, "t1_a"), (0.7, 0.8, "t3_b"), (0.7, 0.7, "t1_a"), (0.6, 0.4, "t1_a")]
)
def test_of_two_exclusive_labels_only_the_likelier_holds(decider, a, b, winner):
    assert decide(decider, {"t1_a": a, "t3_b": b, "t2_a": 0.9}).labels == tuple(
        label for label in ("t3_b", "t2_a", "t1_a") if label in (winner, "t2_a")
    )


def test_an_inapplicable_label_never_holds(decider):
    applicable = EVERYWHERE.copy()
    applicable[0, 3] = False
    selected = decider.select(np.ones((1, len(LABELS)), dtype=np.float32), applicable)
    assert not selected[0, 3]
    assert selected[0, 4]


def test_an_inapplicable_label_does_not_displace_its_exclusive_partner(decider):
    a, b = TAXONOMY.index["t1_a"], TAXONOMY.index["t3_b"]
    probabilities = np.zeros((1, len(LABELS)), dtype=np.float32)
    probabilities[0, [a, b]] = 0.6, 0.99
    applicable = EVERYWHERE.copy()
    applicable[0, b] = False
    assert np.flatnonzero(decider.select(probabilities, applicable)).tolist() == [a]


@given(probabilities=PROBABILITIES)
def test_selection_and_decision_hold_for_any_scores(decider, probabilities):
    applicable = np.arange(probabilities.size).reshape(probabilities.shape) % 3 > 0
    selected = decider.select(probabilities, applicable)
    assert not (selected & ~applicable).any()
    assert not (selected & (probabilities < 0.5)).any()
    a, b = TAXONOMY.index["t1_a"], TAXONOMY.index["t3_b"]
    assert not (selected[:, a] & selected[:, b]).any()
    others = [i for i in range(len(LABELS)) if i not in (a, b)]
    assert (selected == (applicable & (probabilities >= 0.5)))[:, others].all()
    for row, held in zip(probabilities, selected, strict=True):
        decision = decider.decide(row, held)
        columns = [TAXONOMY.index[label] for label in decision.labels]
        assert sorted(columns) == np.flatnonzero(held).tolist()
        assert decision.primary_label == (decision.labels[0] if columns else None)
        order = [(-TAXONOMY.tier_rank[i], -row[i]) for i in columns]
        assert order == sorted(order)


def test_a_rising_score_never_weakens_the_suggestion(decider):
    for label in TAXONOMY.label_ids:
        actions = [decide(decider, {label: score}).action for score in np.linspace(0, 1, 41)]
        assert [ACTIONS.index(x) for x in actions] == sorted(ACTIONS.index(x) for x in actions)


def test_a_round_trip_through_json_keeps_the_policy(policy):
    assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy


RULE = {"above_threshold": "review", "above_automatic": "block"}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"id": "p", "version": "1"},
        {"id": "p", "version": "1", "tiers": []},
        {"id": "p", "version": "1", "tiers": {"T1": RULE}, "more": 1},
        {"id": "p", "version": "1", "tiers": {"T1": None}},
        {"id": "p", "version": "1", "tiers": {"T1": {"above_threshold": "pass"}}},
        {"id": "p", "version": "1", "tiers": {"T1": RULE | {"below": "pass"}}},
        {"id": "p", "version": "1", "tiers": {"T1": RULE | {"above_automatic": "delete"}}},
        {"id": "p", "version": "1", "tiers": {"T1": RULE | {"above_automatic": None}}},
        {"id": "p", "version": "1", "tiers": {"T1": RULE | {"above_automatic": ["block"]}}},
    ],
)
def test_an_unusable_policy_is_refused(data):
    with pytest.raises(TaxonomyError, match="policy: "):
        Policy.from_dict(data)


def test_a_policy_without_a_rule_for_a_tier_is_refused(policy):
    lacking = Policy(policy.id, policy.version, {tier: rule for tier, rule in policy.tiers.items() if tier != "T4"})
    with pytest.raises(TaxonomyError, match=r"no rule for tiers \['T4'\]"):
        Decider(lacking, TAXONOMY, [POINT] * len(LABELS))
