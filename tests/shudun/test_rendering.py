"""Rendering: notes and comments never look alike, texts are normalised and can be encoded afterwards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shudun import Comment, Note
from shudun.normalization import normalize
from shudun.rendering import plain_text, render

ANY_TEXT = st.text(st.one_of(st.characters(), st.sampled_from("\ud800\udbff\udc00\udfff\ufeff\x00a微😀")))


@pytest.mark.parametrize(
    ("item", "segments", "judged"),
    [
        (Note("标题", "正文"), ("标题", "正文"), "正文"),
        (Note("", "正文"), ("", "正文"), "正文"),
        (Note("标题", ""), ("标题", ""), ""),
        (Comment("评论"), ("评论",), "评论"),
        (Comment("评论", parent_text="上文"), ("评论", "上文"), "评论"),
        (Comment("", parent_text="上文"), ("", "上文"), ""),
    ],
)
def test_segments_and_the_judged_one(item, segments, judged):
    rendered = render(item)
    assert rendered.segments == segments
    assert rendered.segments[rendered.primary] == judged


@given(text=ANY_TEXT)
def test_a_note_without_title_differs_from_a_comment(text):
    assert render(Note("", text)) != render(Comment(text))


@given(title=ANY_TEXT, text=ANY_TEXT)
def test_every_segment_is_normalised_and_can_be_encoded(title, text):
    got = render(Note(title, text)).segments
    assert got == (normalize(title).spelt().text, normalize(text).spelt().text)
    assert render(Comment(title, parent_text=text)).segments == (got if text else got[:1])
    "".join(got).encode("utf-8")
    assert render(Note(*got)).segments == got


def test_differences_that_are_only_disguise_render_alike():
    raw = [
        "加微\u200b信 ｄｅｍｏ＿００００",
        "加微.信 demo_0000",
        "➕微信 demo_0000",
        "加微信 demo_〇〇〇〇",
        "力口微亻言 demo_0000",
    ]
    assert {render(Comment(text)) for text in raw} == {render(Comment("加微信 demo_0000"))}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("前\ud800后", "前\ufffd后"),
        ("\udc00", "\ufffd"),
        ("尾\udbff", "尾\ufffd"),
        ("\ud83d\ude00", "😀"),
        ("\ufeff\ud800", "\ufffd"),
    ],
)
def test_lone_surrogates_become_the_replacement_character(raw, expected):
    assert render(Comment(raw)).segments == (expected,)
    assert render(Comment("x", parent_text=raw)).segments == ("x", expected)


def test_plain_text_holds_every_segment():
    assert plain_text(Note("标题", "正文")) == "标题\n正文"
    assert plain_text(Comment("评论", parent_text="上文")) == "评论\n上文"
    assert plain_text(Comment("评论")) == "评论"
