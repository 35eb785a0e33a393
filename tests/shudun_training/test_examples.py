"""Training rows: three-valued labels, and errors that name file, line and field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shudun import RowError, Taxonomy
from shudun.records import Record
from shudun.rows import Row
from shudun_training.examples import NEGATIVE, POSITIVE, UNKNOWN, Example, ExampleParser, label_matrix

LABELS = ("diversion", "note_only", "shill", "hard_sell")


def parse(taxonomy: Taxonomy, values: dict[str, Any], annotated: list[str] | None = None) -> Example:
    return ExampleParser(taxonomy, annotated)(Row("rows.jsonl", Record(3, {"text": "文"} | values, "")))


def cells(taxonomy: Taxonomy, *examples: Example) -> list[list[int]]:
    return label_matrix(examples, taxonomy).tolist()


@pytest.mark.parametrize(
    ("values", "annotated", "expected"),
    [
        pytest.param({"labels": ["diversion"]}, None, [1, -100, 0, 0], id="comment"),
        pytest.param({"labels": []}, None, [0, -100, 0, 0], id="reviewed-and-clean"),
        pytest.param({"kind": "note", "labels": []}, None, [0, 0, -100, 0], id="note"),
        pytest.param({}, None, [-100] * 4, id="not-labelled"),
        pytest.param({"labels": None}, None, [-100] * 4, id="null"),
        pytest.param({"unknown_labels": ["shill"]}, None, [-100] * 4, id="not-labelled-with-unknown"),
        pytest.param({"labels": [], "unknown_labels": ["shill"]}, None, [0, -100, -100, 0], id="unknown"),
        pytest.param({"labels": ["shill"], "unknown_labels": []}, None, [0, -100, 1, 0], id="none-unknown"),
        pytest.param({"labels": []}, ["diversion"], [0, -100, -100, -100], id="source-annotates-one"),
        pytest.param({"labels": ["diversion"]}, ["diversion"], [1, -100, -100, -100], id="annotated-positive"),
        pytest.param({"labels": []}, [], [-100] * 4, id="source-annotates-none"),
        pytest.param({"labels": '["shill"]'}, None, [0, -100, 1, 0], id="csv-list"),
        pytest.param({"labels": "[]"}, None, [0, -100, 0, 0], id="csv-empty-list"),
    ],
)
def test_a_label_is_positive_negative_or_unknown(
    taxonomy: Taxonomy, values: dict[str, Any], annotated: list[str] | None, expected: list[int]
) -> None:
    assert cells(taxonomy, parse(taxonomy, values, annotated)) == [expected]


@pytest.mark.parametrize(
    ("values", "annotated", "field", "reason"),
    [
        pytest.param({"labels": ["ad"]}, None, "labels", "labels of the taxonomy", id="not-in-taxonomy"),
        pytest.param({"labels": ["shill"] * 2}, None, "labels", "each label once", id="repeated"),
        pytest.param({"labels": ["note_only"]}, None, "labels", "note_only on a note only", id="not-on-a-comment"),
        pytest.param(
            {"kind": "note", "labels": ["shill"]}, None, "labels", "shill on a comment only", id="not-on-note"
        ),
        pytest.param({"labels": ["shill"]}, ["diversion"], "labels", "this source annotates", id="not-annotated"),
        pytest.param({"labels": ["shill"], "unknown_labels": ["shill"]}, None, "unknown_labels", "no label", id="both"),
        pytest.param({"labels": [], "unknown_labels": ["ad"]}, None, "unknown_labels", "labels of", id="unknown-name"),
        pytest.param({"unknown_labels": ["shill"] * 2}, None, "unknown_labels", "once", id="unknown-repeated"),
        pytest.param(
            {"kind": "note", "labels": ["note_only", "hard_sell"]}, None, "labels", "at most one of", id="exclusive"
        ),
        pytest.param({"labels": "diversion"}, None, "labels", "a list of strings", id="no-list"),
        pytest.param({"labels": {"diversion": 1}}, None, "labels", "a list of strings", id="mapping"),
        pytest.param({"labels": [1]}, None, "labels", "a list of strings", id="numbers"),
        pytest.param({"labels": [], "text": " "}, None, "text", "non-blank", id="blank-text"),
    ],
)
def test_a_wrong_row_is_refused_with_file_line_and_field(
    taxonomy: Taxonomy, values: dict[str, Any], annotated: list[str] | None, field: str, reason: str
) -> None:
    with pytest.raises(RowError) as caught:
        parse(taxonomy, values, annotated)
    problem = caught.value.problem
    assert (problem.file, problem.line, problem.field) == ("rows.jsonl", 3, field)
    assert reason in problem.expected
    assert problem.hint
    assert str(caught.value).startswith(f"rows.jsonl:3: field '{field}'")


def test_a_source_cannot_annotate_labels_outside_the_taxonomy(taxonomy: Taxonomy) -> None:
    with pytest.raises(ValueError, match="not in taxonomy test: ad, zzz"):
        ExampleParser(taxonomy, ["diversion", "zzz", "ad"])


def test_other_columns_are_kept_as_meta_and_item_fields_are_not(taxonomy: Taxonomy) -> None:
    example = parse(taxonomy, {"id": 7, "labels": [], "group": "g1", "vertical": "home", "parent_text": "问"})
    assert example.meta == {"group": "g1", "vertical": "home"}
    assert (example.id, example.item.parent_text) == ("7", "问")


def test_columns_follow_the_taxonomy_whatever_the_order_in_the_row(taxonomy: Taxonomy) -> None:
    rows = [parse(taxonomy, {"labels": names}) for names in (["shill", "diversion"], ["diversion", "shill"])]
    assert cells(taxonomy, *rows) == [[1, -100, 1, 0]] * 2


def test_no_rows_still_have_a_column_for_each_label(taxonomy: Taxonomy) -> None:
    matrix = label_matrix([], taxonomy)
    assert (matrix.shape, matrix.dtype) == ((0, 4), np.int64)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["note", "comment"]),
    wanted=st.none() | st.sets(st.sampled_from(LABELS)),
    unknown=st.sets(st.sampled_from(LABELS)),
    annotated=st.none() | st.sets(st.sampled_from(LABELS)),
)
def test_each_cell_says_what_is_known_of_it(
    taxonomy: Taxonomy, kind: str, wanted: set[str] | None, unknown: set[str], annotated: set[str] | None
) -> None:
    applies = {label.id for label in taxonomy.labels if kind in label.applies_to}
    annotates = set(LABELS) if annotated is None else annotated
    labels = None if wanted is None else wanted & applies & annotates - unknown
    if labels is not None and {"note_only", "hard_sell"} <= labels:
        labels -= {"hard_sell"}
    values = {
        "kind": kind,
        "labels": None if labels is None else sorted(labels),
        "unknown_labels": sorted(unknown),
    }
    example = parse(taxonomy, values, None if annotated is None else sorted(annotated))
    for label, cell in zip(taxonomy.label_ids, cells(taxonomy, example)[0], strict=True):
        known = labels is not None and label in (applies & annotates) - unknown
        assert cell == (UNKNOWN if not known else POSITIVE if label in labels else NEGATIVE), label
    assert not example.labels & example.unknown_labels
