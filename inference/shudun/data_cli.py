"""The `shudun data` verbs: bring labelled data in and out, check it, prepare it for training."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from shudun.cli_options import (
    BadRowChoice,
    BadRowOption,
    ColumnOption,
    TaxonomyOption,
    parse_columns,
    parse_label_map,
    parse_names,
    parse_shares,
    training_module,
)

data_app = typer.Typer(help="Bring labelled data in and out, check, split and disguise it.", no_args_is_help=True)


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


class EncodingChoice(StrEnum):
    """Encoding of a text file; never guessed."""

    utf8 = "utf-8"
    gb18030 = "gb18030"


class ExportChoice(StrEnum):
    """Annotation tool to write for."""

    doccano = "doccano"
    label_studio = "label-studio"


@data_app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A published data set (cold, toxicn, swsr, tg_spam, telecom_fraud), or the format of your own data "
            "(doccano, label-studio, argilla, paddlenlp, wide-csv, dataset).",
        ),
    ],
    data: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="Folder of the data set's original files; or the exported file; for `dataset` a file, a `datasets` "
            "folder or the name of a hub data set.",
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Folder for <split>.jsonl; all.jsonl where nothing is split.")],
    taxonomy: Annotated[Path | None, typer.Option(help="Your labels (YAML); needed for your own data.")] = None,
    column: ColumnOption = None,
    label_map: Annotated[
        list[str] | None,
        typer.Option(
            "--label-map",
            help="OLD=NEW where label names differ; OLD= leaves a label out, e.g. one that says 'normal'. Repeatable; "
            "or a YAML file of such lines.",
        ),
    ] = None,
    annotated_labels: Annotated[
        str | None,
        typer.Option(help="The labels that the annotators judged, joined with commas; all others become unknown."),
    ] = None,
    label_separator: Annotated[
        str | None, typer.Option(help="How labels are joined in one cell, where a format has no rule of its own.")
    ] = None,
    encoding: Annotated[
        EncodingChoice | None, typer.Option(help="Encoding of the file, utf-8 by default; it is never guessed.")
    ] = None,
    split_shares: Annotated[
        str | None,
        typer.Option(
            help="Split by shares, e.g. train=0.8,validation=0.1,test=0.1 (multiples of 0.05): near-duplicates and "
            "rows of one `group` stay together, labels are balanced."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split, where the data set has none of its own.")] = 20261120,
    on_bad_row: BadRowOption = BadRowChoice.fail,
) -> None:
    """Turn labelled data from elsewhere into the item format.

    Every row is checked against the labels. A bad one is reported with file, line, field and reason; the counts of
    rows read, written, left out and bad add up.
    """
    pairs = [entry for entry in label_map or [] if not entry.lower().endswith((".yaml", ".yml"))]
    files = [Path(entry) for entry in label_map or [] if entry not in pairs]
    if len(files) > 1:
        raise typer.BadParameter("--label-map takes one YAML file")
    training_module("importers").import_dataset(
        source,
        data,
        output,
        seed=seed,
        taxonomy=taxonomy,
        columns=parse_columns(column),
        label_map=parse_label_map(pairs),
        label_map_file=files[0] if files else None,
        annotated_labels=parse_names(annotated_labels),
        label_separator=label_separator,
        encoding=None if encoding is None else encoding.value,
        split_shares=parse_shares(split_shares),
        on_bad_row=on_bad_row.value,
    )


@data_app.command()
def export(
    tool: Annotated[ExportChoice, typer.Argument(metavar="TOOL", help="doccano (JSONL) or label-studio (JSON tasks).")],
    source: Annotated[Path, typer.Argument(metavar="IN", help="Labelled rows: .jsonl, .csv (also .gz) or .parquet.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File for the tool.")],
    taxonomy: TaxonomyOption,
    annotated_labels: Annotated[
        str | None,
        typer.Option(help="The labels that the rows are annotated for, joined with commas; every label by default."),
    ] = None,
    interface: Annotated[
        Path | None, typer.Option(help="label-studio: also write the labelling interface (XML) here.")
    ] = None,
    on_bad_row: BadRowOption = BadRowChoice.fail,
) -> None:
    """Write labelled rows for an annotation tool; `shudun data import` brings them back unchanged.

    Unknown labels are carried as labels `?NAME` (doccano) or in a control of their own (label-studio), where an
    annotator can settle them.
    """
    training_module("exporters").export_rows(
        tool.value,
        source,
        target,
        taxonomy=taxonomy,
        annotated_labels=parse_names(annotated_labels),
        config=interface,
        on_bad_row=on_bad_row.value,
    )


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


class NearDuplicateChoice(StrEnum):
    """How repeated texts are looked for."""

    off = "off"
    exact = "exact"
    minhash = "minhash"


class FailChoice(StrEnum):
    """Lowest level of a finding that makes the command fail."""

    error = "error"
    warning = "warning"
    note = "note"
    never = "never"


@data_app.command()
def audit(
    files: Annotated[
        list[Path], typer.Argument(help="Files of labelled rows; by default each is a split of its name.")
    ],
    taxonomy: TaxonomyOption,
    split_of: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE=SPLIT", help="Split of a file that is named otherwise. Repeatable."),
    ] = None,
    split_column: Annotated[str | None, typer.Option(help="Column that names the split of each row.")] = None,
    group_column: Annotated[str, typer.Option(help="Column of groups that must not stand in two splits.")] = "group",
    near_duplicates: Annotated[
        NearDuplicateChoice, typer.Option(help="exact: same normalised text; minhash: also similar texts.")
    ] = NearDuplicateChoice.minhash,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="tokenizer.json, or a bundle or checkpoint folder; by default a vocabulary of the train rows."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report here as one page with plots.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the report here as JSON.")] = None,
    fail_on: Annotated[FailChoice, typer.Option(help="Exit code 1 from this level on.")] = FailChoice.error,
    level: Annotated[
        list[str] | None, typer.Option(metavar="CHECK=LEVEL", help="Level of a check's findings. Repeatable.")
    ] = None,
) -> None:
    """Look for leakage, conflicting labels, personal data, unknown tokens and shortcuts in labelled files."""
    training_module("audit.runner").audit_files(
        files,
        taxonomy,
        split_of=split_of or [],
        split_column=split_column,
        group_column=group_column,
        near_duplicates=near_duplicates.value,
        tokenizer=tokenizer,
        html=html,
        json_path=json_path,
        fail_on=fail_on.value,
        levels=level or [],
    )


@data_app.command()
def split(
    source: Annotated[Path, typer.Argument(help="File of labelled rows; with --check, a folder of splits.")],
    taxonomy: TaxonomyOption,
    output: Annotated[Path | None, typer.Argument(help="Folder for one .jsonl per split.")] = None,
    shares: Annotated[
        str, typer.Option(metavar="NAME=SHARE,...", help="Splits and their shares, multiples of 0.05.")
    ] = "train=0.8,validation=0.1,test=0.1",
    group_column: Annotated[str | None, typer.Option(help="Column whose equal values stay in one split.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 20261120,
    on_bad_row: BadRowOption = BadRowChoice.fail,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; refuse splits that leak.")] = False,
) -> None:
    """Split a labelled file, stratified by labels; groups and near-duplicates never stand in two splits."""
    if check == (output is not None):
        raise typer.BadParameter("give SOURCE and OUTPUT to split a file, or --check and a folder of splits")
    module = training_module("split_files")
    if output is None:
        module.check_split(source, taxonomy, group_column=group_column)
    else:
        module.split_file(
            source,
            output,
            taxonomy,
            shares=shares,
            group_column=group_column,
            seed=seed,
            on_bad_row=on_bad_row.value,
        )


@data_app.command()
def noise(
    files: Annotated[list[Path], typer.Argument(help="Files of labelled rows.")],
    taxonomy: TaxonomyOption,
    output: Annotated[Path, typer.Option(help="The review queue, JSON lines, most doubtful label first.")],
    group_column: Annotated[str | None, typer.Option(help="Column whose equal values share a fold.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Judge by this bundle, which must not have seen the rows.")
    ] = None,
    scores: Annotated[Path | None, typer.Option(help="Judge by this output of `shudun score`, joined by id.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most labels in the queue.")] = 500,
    doccano: Annotated[Path | None, typer.Option(help="The queue's texts as well, one row each, for doccano.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 20261120,
    on_bad_row: BadRowOption = BadRowChoice.fail,
) -> None:
    """Queue the labels that look wrong for review, judged by a model that has not seen the row."""
    training_module("review_queue").review_queue(
        files,
        taxonomy,
        output,
        group_column=group_column,
        bundle=bundle,
        scores=scores,
        limit=limit,
        seed=seed,
        doccano=doccano,
        on_bad_row=on_bad_row.value,
    )
