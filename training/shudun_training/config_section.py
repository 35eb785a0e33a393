"""The base of every section of a run configuration, and sections of several forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Discriminator


class Section(BaseModel):
    """One section; its fields are the keys that it knows, others are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def form(name: str) -> str:
    """The tag of a form of a section; the parentheses tell it from a key of the configuration."""
    return f"({name})"


def form_by(tag_of: Callable[[dict[str, Any]], object], expected: str) -> Discriminator:
    """Choose the form of a section by its mapping; `tag_of` gives a name, `expected` says what there is."""

    def tag(value: Any) -> str:
        if isinstance(value, BaseModel):
            value = value.model_dump()
        return form(str(tag_of(value)) if isinstance(value, dict) else "no mapping")

    return Discriminator(tag, custom_error_type="unknown_form", custom_error_message=f"expected {expected}")


def key_path(location: tuple[int | str, ...]) -> str:
    """The dotted keys of a validation error, without the tags of forms."""
    return ".".join(str(part) for part in location if not str(part).startswith("("))
