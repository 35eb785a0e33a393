"""The `shudun runs` verbs: what was trained, and how runs differ."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from shudun.cli_options import training_module


class _ListByDefault(TyperGroup):
    """`shudun runs FOLDER` means `shudun runs list FOLDER`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


runs_app = typer.Typer(
    cls=_ListByDefault, help="List the runs below a folder (`shudun runs [FOLDER]`), or compare some of them."
)

JsonOption = Annotated[
    Path | None, typer.Option("--json", allow_dash=True, help="Write it here as JSON as well; - for standard output.")
]


class OrderChoice(StrEnum):
    """What a list of runs is sorted by."""

    when = "when"
    name = "name"
    macro_f1 = "macro-f1"
    macro_ap = "macro-ap"
    duration = "duration"


@runs_app.command("list")
def list_(
    folder: Annotated[Path, typer.Argument(help="Folder that run folders lie in, at any depth.")] = Path("runs"),
    sort: Annotated[OrderChoice, typer.Option(help="Newest, best or longest first; names from a to z.")] = (
        OrderChoice.when
    ),
    json_path: JsonOption = None,
) -> None:
    """List runs with their state, data, figures on the test rows and difference to the linear baseline."""
    training_module("runs_table").list_runs(folder, order=sort.value, json_path=json_path)


@runs_app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Two or more run folders.")],
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Show what differs in configuration, data, versions and figures; intervals are of the run minus the first."""
    training_module("runs_comparison_view").compare_runs(folders, seed=seed, json_path=json_path)
