"""Edits of a text: what they leave alone stays, and spans find their text again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shudun_training.text_edits import Edit, apply_edits, move_span

LETTERS = "加微信a1 \u200b😀"
TEXT = "加微信 demo_0000"


@st.composite
def edited(draw: st.DrawFn) -> tuple[str, list[Edit]]:
    """A text and edits that fit it."""
    text = draw(st.text(LETTERS, min_size=4, max_size=20))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pairs = zip(cuts[::2], cuts[1::2], strict=False)
    return text, [Edit(start, end, draw(st.text(LETTERS, min_size=1, max_size=4))) for start, end in pairs]


@given(edited())
def test_text_outside_the_edits_stays_and_each_edit_is_written(case: tuple[str, list[Edit]]) -> None:
    text, edits = case
    new = apply_edits(text, edits)
    borders = [0, *(x for edit in edits for x in (edit.start, edit.end)), len(text)]
    pieces = [text[a:b] for a, b in zip(borders[::2], borders[1::2], strict=True)]
    written = [edit.new for edit in edits]
    expected = "".join(part for pair in zip(pieces, [*written, ""], strict=True) for part in pair)
    assert new == expected


@given(edited(), st.data())
def test_a_span_holds_its_own_text_and_whatever_was_written_in_it(
    case: tuple[str, list[Edit]], data: st.DataObject
) -> None:
    text, edits = case
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    new = apply_edits(text, edits)
    first, last = move_span(start, end, edits)
    assert 0 <= first <= last <= len(new)
    if start == end:
        return
    inside = [edit for edit in edits if edit.start < end and start < edit.end]
    low, high = min([start, *(e.start for e in inside)]), max([end, *(e.end for e in inside)])
    within = [Edit(e.start - low, e.end - low, e.new) for e in inside]
    assert new[first:last] == apply_edits(text[low:high], within)


@pytest.mark.parametrize(
    ("span", "expected"),
    [((0, 3), "加绿泡泡"), ((0, 2), "加绿泡泡"), ((2, 4), "绿泡泡 "), ((1, 3), "绿泡泡"), ((4, 13), "demo_0000")],
)
def test_spans_grow_with_a_word_that_was_written_anew(span: tuple[int, int], expected: str) -> None:
    edits = [Edit(1, 3, "绿泡泡")]
    start, end = move_span(*span, edits)
    assert apply_edits(TEXT, edits)[start:end] == expected


@pytest.mark.parametrize(
    "edits", [[Edit(2, 3, "a"), Edit(0, 1, "b")], [Edit(0, 2, "a"), Edit(1, 3, "b")], [Edit(9, 99, "")]]
)
def test_edits_that_do_not_fit_are_refused(edits: list[Edit]) -> None:
    with pytest.raises(ValueError, match="ordered, apart and inside"):
        apply_edits(TEXT, edits)
