"""Options that several commands share, and the late import of the training side."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from shudun.errors import MissingExtraError


class BadRowChoice(StrEnum):
    """What to do with a row that cannot be used."""

    fail = "fail"
    skip = "skip"


BadRowOption = Annotated[
    BadRowChoice, typer.Option(help="fail: stop at the first bad row; skip: move bad rows to a side file.")
]
ColumnOption = Annotated[
    list[str] | None, typer.Option("--column", help="FIELD=COLUMN where names differ, e.g. text=review. Repeatable.")
]
TaxonomyOption = Annotated[Path, typer.Option(help="Taxonomy (YAML); see configs/taxonomy/.")]


def parse_columns(pairs: list[str] | None) -> dict[str, str]:
    """Field → column, from `FIELD=COLUMN` options."""
    mapping = dict(pair.partition("=")[::2] for pair in pairs or [])
    if not all(field and column for field, column in mapping.items()):
        raise typer.BadParameter("--column takes FIELD=COLUMN, e.g. text=review")
    return mapping


def training_module(name: str) -> ModuleType:
    """A module of `shudun_training`, imported when a command needs it.

    Raises:
        MissingExtraError: the training extra is not installed.
    """
    try:
        return import_module(f"shudun_training.{name}")
    except ImportError as error:
        raise MissingExtraError("this command", "train", error) from error
