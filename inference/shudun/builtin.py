"""Where the bundle that ships inside this package lies: an ordinary bundle folder, verified like any other."""

from __future__ import annotations

from pathlib import Path

BUILTIN_BUNDLE = Path(__file__).parent / "builtin_bundle"
