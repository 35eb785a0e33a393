"""What is scored: notes and comments, as plain immutable values.

The types know nothing of files, labels or models. A bare `str` counts as a comment without a parent.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal, TypeAlias

Kind: TypeAlias = Literal["note", "comment"]
KINDS: tuple[Kind, ...] = ("note", "comment")


@dataclass(frozen=True, slots=True)
class Note:
    """A note: `title`, body `text` and an optional `id`. Title and text may be empty strings."""

    title: str
    text: str
    id: str | None = None

    kind: ClassVar[Kind] = "note"

    def __post_init__(self) -> None:
        _require_strings(self)


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment: `text`, the `parent_text` it answers (note title or comment; may be empty), optional `id`."""

    text: str
    parent_text: str = ""
    id: str | None = None

    kind: ClassVar[Kind] = "comment"

    def __post_init__(self) -> None:
        _require_strings(self)


Item: TypeAlias = Note | Comment


def is_blank(item: Item) -> bool:
    """Whether an item holds no text of its own to judge (a parent text alone is none)."""
    return not item.text.strip() and not (isinstance(item, Note) and item.title.strip())


def as_item(value: Item | str) -> Item:
    """Return `value` as an item; a plain string becomes a comment.

    Raises:
        TypeError: for anything that is neither a `Note`, a `Comment` nor a `str`.
    """
    if isinstance(value, Note | Comment):
        return value
    if isinstance(value, str):
        return Comment(value)
    raise TypeError(f"expected Note, Comment or str, got {type(value).__name__}; wrap the text in Comment(...)")


def _require_strings(item: Note | Comment) -> None:
    for field in fields(item):
        value = getattr(item, field.name)
        if not isinstance(value, str) and not (field.name == "id" and value is None):
            raise TypeError(
                f"{type(item).__name__}.{field.name}: expected str, got {type(value).__name__}; "
                "convert it before building the item"
            )
