"""The `shudun data` verbs: bring labelled data in and out, check it, prepare it for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shudun.cli_options import BadRowChoice, BadRowOption, TaxonomyOption, training_module

data_app = typer.Typer(help="Import, check and disguise labelled data.", no_args_is_help=True)


@data_app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Files of labelled rows.")],
    taxonomy: TaxonomyOption,
    on_bad_row: BadRowOption = BadRowChoice.skip,
    rejected: Annotated[
        Path | None, typer.Option(help="Side file for bad rows; FILE.rejected.jsonl by default.")
    ] = None,
) -> None:
    """Check every row of labelled files; bad rows are listed with their place, and the exit code is 1."""
    training_module("validation").validate_files(files, taxonomy, on_bad_row=on_bad_row.value, rejected=rejected)


@data_app.command("import")
def import_(
    dataset: Annotated[str, typer.Argument(help="cold or toxicn.")],
    folder: Annotated[Path, typer.Argument(help="Folder that holds the data set's original files.")],
    output: Annotated[Path, typer.Argument(help="Folder for train, validation and test .jsonl.")],
    seed: Annotated[int, typer.Option(help="Seed of the split, where the data set has none of its own.")] = 20261120,
) -> None:
    """Turn a public data set into the item format, split without leakage."""
    training_module("importers").import_dataset(dataset, folder, output, seed=seed)


@data_app.command()
def augment(
    source: Annotated[Path, typer.Argument(help="File of labelled rows; .jsonl, .csv or .parquet, also .gz.")],
    target: Annotated[Path, typer.Argument(help="File for the disguised rows; .jsonl.")],
    taxonomy: TaxonomyOption,
    families: Annotated[str, typer.Option(help="Disguise families in use, separated by commas; all by default.")] = "",
    held_out: Annotated[
        str, typer.Option(help="Families and alias words never to write, separated by commas: keep them for tests.")
    ] = "",
    copies: Annotated[int, typer.Option(min=1, help="Disguised copies of each row.")] = 1,
    intensity: Annotated[float, typer.Option(min=0, max=1, help="Share of a row's contact wording to disguise.")] = 0.6,
    seed: Annotated[int, typer.Option(help="The same seed gives the same rows.")] = 42,
    test_split: Annotated[bool, typer.Option("--test-split", help="Disguise a file named as a test split.")] = False,
    on_bad_row: BadRowOption = BadRowChoice.fail,
) -> None:
    """Write disguised copies of labelled rows: homophones, emoji words, inserted symbols and many more."""
    training_module("augment_rows").augment_file(
        source,
        target,
        taxonomy,
        names=families.split(",") if families else None,
        held_out=held_out.split(",") if held_out else [],
        copies=copies,
        intensity=intensity,
        seed=seed,
        test_split=test_split,
        on_bad_row=on_bad_row.value,
    )
