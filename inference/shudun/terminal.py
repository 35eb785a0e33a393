"""Where the commands print: a terminal at its own width, a file or pipe wide enough for every table."""

from __future__ import annotations

from rich.console import Console

FILE_WIDTH = 160
"""Columns where there is no terminal; rich would assume 80 there and cut the tables."""


def console(*, stderr: bool = False) -> Console:
    """A console for results (stdout) or for progress and errors (stderr); square brackets are plain text to it."""
    made = Console(stderr=stderr, markup=False, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, markup=False, highlight=False, width=FILE_WIDTH)
