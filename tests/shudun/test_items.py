"""Items: immutable values that refuse anything but text, and a plain string that counts as a comment."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from shudun import Comment, Note
from shudun.items import as_item


@pytest.mark.parametrize("item", [Note("标题", "正文", id="1"), Comment("评论", parent_text="上文", id="1")])
def test_items_are_values(item):
    assert as_item(item) is item
    assert item == type(item)(**{name: getattr(item, name) for name in type(item).__slots__})
    assert len({item, item}) == 1
    with pytest.raises(FrozenInstanceError):
        item.text = "anders"


def test_a_note_is_never_a_comment():
    assert Note("", "同样的字") != Comment("同样的字")
    assert (Note("", "").kind, Comment("").kind) == ("note", "comment")


def test_a_string_counts_as_a_comment_without_parent_and_id():
    assert as_item("求链接") == Comment("求链接", parent_text="", id=None)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Note(None, "x"), "Note.title"),
        (lambda: Note("x", 3), "Note.text"),
        (lambda: Note("x", "y", id=7), "Note.id"),
        (lambda: Comment(b"x"), "Comment.text"),
        (lambda: Comment(None), "Comment.text"),
        (lambda: Comment("x", parent_text=None), "Comment.parent_text"),
        (lambda: Comment("x", id=1.0), "Comment.id"),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(make, field):
    with pytest.raises(TypeError, match=field.replace(".", r"\.") + ": expected str, got"):
        make()


@pytest.mark.parametrize("value", [None, 1, b"text", ["text"], {"text": "x"}])
def test_nothing_else_becomes_an_item(value):
    with pytest.raises(TypeError, match=f"expected Note, Comment or str, got {type(value).__name__}"):
        as_item(value)
