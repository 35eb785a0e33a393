"""A line on stderr that shows which step a data command is at, and with how many rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from shudun import terminal


@contextmanager
def row_progress() -> Iterator[Callable[[str, int], None]]:
    """A function of step and rows that updates the line."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}: {task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
        console=terminal.console(stderr=True),
    )
    with bar:
        task = bar.add_task("reading", total=None, rows=0)
        yield lambda step, rows: bar.update(task, description=step, rows=rows)
