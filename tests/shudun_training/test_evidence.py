"""Evidence spans: what fits the row passes, everything else is answered with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shudun import RowError, Taxonomy
from shudun.records import Record
from shudun.rows import Row
from shudun_training.evidence import Span, parse_evidence
from shudun_training.examples import ExampleParser

TEXT = "加我➕微信 demo_0000😀"
SPAN = {"label": "diversion", "field": "text", "start": 0, "end": 5}


def row(evidence: Any, **fields: Any) -> Row:
    values = {"text": TEXT, "labels": ["diversion"], "evidence": evidence} | fields
    return Row("rows.jsonl", Record(7, values, json.dumps(values)))


def test_spans_count_code_points_of_the_raw_field(taxonomy: Taxonomy) -> None:
    found = parse_evidence(row([SPAN | {"end": len(TEXT)}]), {"diversion"}, taxonomy.label_ids)
    assert found == [Span("diversion", "text", 0, len(TEXT))]
    assert TEXT[found[0].start : found[0].end].endswith("😀")


@pytest.mark.parametrize("nothing", [None, ""])
def test_evidence_is_optional(taxonomy: Taxonomy, nothing: object) -> None:
    assert parse_evidence(row(nothing), {"diversion"}, taxonomy.label_ids) is None
    assert parse_evidence(row([]), {"diversion"}, taxonomy.label_ids) == []


def test_a_csv_cell_holds_the_json_list(taxonomy: Taxonomy) -> None:
    assert parse_evidence(row(json.dumps([SPAN])), {"diversion"}, taxonomy.label_ids) == [Span(**SPAN)]


@pytest.mark.parametrize(
    ("evidence", "field", "expected"),
    [
        ("[{", "evidence", "a list of spans"),
        ({"label": "diversion"}, "evidence", "a list of spans"),
        ([SPAN, "加我"], "evidence[1]", "an object"),
        ([SPAN | {"label": "ad"}], "evidence[0].label", "a label of the taxonomy"),
        ([SPAN | {"label": ["diversion"]}], "evidence[0].label", "a label of the taxonomy"),
        ([SPAN | {"label": "shill"}], "evidence[0].label", "a label that holds for the row"),
        ([SPAN | {"field": "body"}], "evidence[0].field", "one of title, text, parent_text"),
        ([SPAN | {"field": "parent_text"}], "evidence[0]", "0 <= start < end <= 0, the code points of parent_text"),
        ([SPAN | {"start": -1}], "evidence[0]", "0 <= start < end <= 16"),
        ([SPAN | {"start": 5}], "evidence[0]", "0 <= start < end <= 16"),
        ([SPAN | {"end": 17}], "evidence[0]", "0 <= start < end <= 16"),
        ([SPAN | {"end": 5.0}], "evidence[0]", "0 <= start < end <= 16"),
        ([SPAN | {"start": False}], "evidence[0]", "0 <= start < end <= 16"),
        ([{"label": "diversion", "field": "text"}], "evidence[0]", "0 <= start < end <= 16"),
    ],
)
def test_what_does_not_fit_is_a_row_error_at_its_place(
    taxonomy: Taxonomy, evidence: object, field: str, expected: str
) -> None:
    with pytest.raises(RowError) as caught:
        ExampleParser(taxonomy)(row(evidence))
    problem = caught.value.problem
    assert (problem.line, problem.field) == (7, field)
    assert problem.expected.startswith(expected)


def test_a_row_that_is_not_labelled_cannot_have_evidence(taxonomy: Taxonomy) -> None:
    with pytest.raises(RowError, match="a label that holds for the row"):
        ExampleParser(taxonomy)(row([SPAN], labels=None))


@given(text=st.text(min_size=1, max_size=40).map(lambda text: f"我{text}"), data=st.data())
def test_every_span_inside_the_field_passes(taxonomy: Taxonomy, text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    example = ExampleParser(taxonomy)(row([SPAN | {"start": start, "end": end}], text=text))
    assert example.meta["evidence"] == [SPAN | {"start": start, "end": end}]
