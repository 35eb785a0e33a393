"""The compact encoder that ships inside this package: a stock `transformers` folder with a model card beside it."""

from __future__ import annotations

from pathlib import Path

BUILTIN_ENCODER = Path(__file__).parent / "builtin_encoder"
NAME = "builtin"


def encoder_location(name: str | None) -> str | None:
    """The folder of the built-in encoder for its name; any other name (a folder or hub id) unchanged."""
    return str(BUILTIN_ENCODER) if name == NAME else name
