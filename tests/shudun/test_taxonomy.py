"""Taxonomy: label order kept through storage, and every unusable definition refused with its reason."""

from __future__ import annotations

import copy
import json

import pytest

from shudun import Taxonomy, TaxonomyError
from shudun.taxonomy import TIER_RANK

DEFINITION = {
    "id": "t",
    "version": "2",
    "labels": [
        {"id": "z_last", "name_zh": "甲", "family": "f", "tier": "T2*", "applies_to": ["comment", "note"]},
        {
            "id": "a_first",
            "name_zh": "乙",
            "family": "g",
            "tier": "T4",
            "applies_to": ["note"],
            "definition_zh": "定义",
            "decision_rule_zh": "规则",
            "conditional_on": "account history",
        },
        {"id": "m", "name_zh": "丙", "family": "g", "tier": "T1", "applies_to": ["comment"]},
    ],
    "exclusive": [["z_last", "m"]],
}


@pytest.fixture
def definition():
    return copy.deepcopy(DEFINITION)


def test_a_round_trip_through_json_keeps_everything(definition):
    taxonomy = Taxonomy.from_dict(definition)
    assert Taxonomy.from_dict(json.loads(json.dumps(taxonomy.to_dict()))) == taxonomy
    assert taxonomy.labels[1].conditional_on == "account history"
    assert taxonomy.exclusive == (("z_last", "m"),)


def test_labels_keep_the_order_of_the_definition(definition):
    taxonomy = Taxonomy.from_dict(definition)
    assert taxonomy.label_ids == ("z_last", "a_first", "m")
    assert [taxonomy.index[label] for label in taxonomy.label_ids] == [0, 1, 2]


def test_tiers_are_ranked_by_severity(definition):
    assert Taxonomy.from_dict(definition).tier_rank.tolist() == [TIER_RANK["T2*"], TIER_RANK["T4"], TIER_RANK["T1"]]
    assert sorted(TIER_RANK, key=TIER_RANK.__getitem__) == ["T1", "T2*", "T2", "T3", "T4"]


def test_applicable_labels_follow_the_kind_of_each_item(definition):
    taxonomy = Taxonomy.from_dict(definition)
    note, comment = [True, True, False], [True, False, True]
    assert taxonomy.applicable(["note", "comment", "note"]).tolist() == [note, comment, note]
    assert taxonomy.applicable([]).shape == (0, 3)


def at(*path, value):
    def change(definition):
        place = definition
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def without(*path):
    def change(definition):
        place = definition
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("id"), r"missing keys \['id'\]"),
        (without("version"), r"missing keys \['version'\]"),
        (without("labels"), r"missing keys \['labels'\]"),
        (at("label", value=[]), r"unknown keys \['label'\]"),
        (at("labels", value=[]), "at least one label"),
        (at("labels", value={"a": 1}), "must be lists"),
        (at("labels", value=["a"]), "each label must be a mapping, got str"),
        (at("exclusive", value="z_last"), "must be lists"),
        (at("exclusive", value=[["z_last"]]), "must be a pair"),
        (at("exclusive", value=["zm"]), "must be a pair"),
        (at("exclusive", value=[["z_last", "nobody"]]), "must name two known labels"),
        (at("exclusive", value=[["m", "m"]]), "must name two known labels"),
        (at("labels", 2, "id", value="z_last"), "label ids stand twice: z_last"),
        (at("labels", 0, "id", value=""), "expected ASCII letters"),
        (at("labels", 0, "id", value="导流"), "expected ASCII letters"),
        (at("labels", 0, "id", value="a b"), "expected ASCII letters"),
        (at("labels", 0, "id", value="../x"), "expected ASCII letters"),
        (at("labels", 0, "tier", value="T5"), "tier 'T5' is not one of"),
        (at("labels", 0, "applies_to", value=[]), "non-empty subset"),
        (at("labels", 0, "applies_to", value=["video"]), "non-empty subset"),
        (at("labels", 0, "applies_to", value="note"), "must be a list"),
        (at("labels", 0, "applies_to", value=None), "must be a list"),
        (at("labels", 0, "applies_to", value=[["note"]]), "must be a list"),
        (at("labels", 0, "colour", value="red"), r"label z_last: .*unknown keys \['colour'\]"),
        (without("labels", 1, "tier"), r"label a_first: missing keys \['tier'\]"),
    ],
)
def test_an_unusable_definition_is_refused(definition, change, message):
    change(definition)
    with pytest.raises(TaxonomyError, match=message):
        Taxonomy.from_dict(definition)
