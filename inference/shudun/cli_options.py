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


def parse_label_map(pairs: list[str]) -> dict[str, str]:
    """Source label → label (empty: leave it out), from `OLD=NEW` options; only the last `=` separates."""
    if not all("=" in pair[1:] for pair in pairs):
        raise typer.BadParameter("--label-map takes OLD=NEW, OLD= to leave a label out, or a YAML file")
    return {old: new for old, _, new in (pair.rpartition("=") for pair in pairs)}


def parse_names(text: str | None) -> list[str] | None:
    """Names from a list joined with commas."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def parse_shares(text: str | None) -> dict[str, float] | None:
    """Split name → share, from `train=0.8,validation=0.1,test=0.1`."""
    if text is None:
        return None
    pairs = [pair.partition("=")[::2] for pair in text.split(",")]
    try:
        shares = {name.strip(): float(share) for name, share in pairs}
    except ValueError:
        shares = {}
    if not all(name.isidentifier() and share > 0 for name, share in shares.items()) or len(shares) != len(pairs):
        raise typer.BadParameter("--split-shares takes e.g. train=0.8,validation=0.1,test=0.1")
    return shares


def training_module(name: str) -> ModuleType:
    """A module of `shudun_training`, imported when a command needs it.

    Raises:
        MissingExtraError: the training extra is not installed.
    """
    try:
        return import_module(f"shudun_training.{name}")
    except ImportError as error:
        raise MissingExtraError("this command", "train", error) from error
