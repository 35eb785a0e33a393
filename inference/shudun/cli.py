"""The `shudun` command. Scoring verbs live here, data verbs in `data_cli`, lists of runs in `runs_cli`.

Training verbs load `shudun_training` when they are called.
Exit codes: 0 done, 1 refused or failed with a reason on stderr, 2 wrong usage.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from shudun import terminal
from shudun.builtin import BUILTIN_BUNDLE
from shudun.cli_options import BadRowChoice, BadRowOption, ColumnOption, parse_columns, parse_names, training_module
from shudun.data_cli import data_app
from shudun.errors import ShudunError
from shudun.runs_cli import runs_app
from shudun.version import __version__

if TYPE_CHECKING:
    from shudun.benchmark import BenchmarkResult
    from shudun.bundle import Bundle
    from shudun.jobs import JobCounts

app = typer.Typer(
    help="Violation classifier for Chinese notes and comments: train, evaluate, export, score.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
app.add_typer(runs_app, name="runs")


class PrecisionChoice(StrEnum):
    """Arithmetic of the exported graph."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"
    int8_dynamic = "int8-dynamic"


class GraphChoice(StrEnum):
    """Operators of the exported graph."""

    auto = "auto"
    generic = "generic"


class DeviceChoice(StrEnum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"


BundleOption = Annotated[Path, typer.Option(help="Bundle folder.")]
OptionalBundle = Annotated[Path, typer.Option(help="Bundle folder.", show_default="the built-in one")]
DeviceOption = Annotated[DeviceChoice, typer.Option(help="Where to run; one that is asked for never falls back.")]


@app.command()
def score(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Items: .jsonl, .csv (also .gz) or .parquet.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Scored rows: .jsonl or .parquet.")],
    bundle: OptionalBundle = BUILTIN_BUNDLE,
    device: DeviceOption = DeviceChoice.auto,
    threads: Annotated[int | None, typer.Option(min=1, help="Batches computed at once.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Most padded tokens per model run.")] = None,
    max_windows: Annotated[
        int, typer.Option(min=1, help="Score a text longer than max_length in up to so many windows; 1 cuts it.")
    ] = 1,
    engine_cache: Annotated[
        Path | None, typer.Option(help="Folder for the engine that TensorRT builds at its first start.")
    ] = None,
    on_bad_row: BadRowOption = BadRowChoice.fail,
    column: ColumnOption = None,
) -> None:
    """Score a file of notes and comments."""
    from shudun.jobs import rejected_path, score_file
    from shudun.scorer import Scorer

    scorer = Scorer.from_bundle(
        bundle,
        device.value,
        threads,
        batch_tokens=batch_tokens,
        max_windows=max_windows,
        engine_cache=engine_cache,
    )
    with _progress() as progress:
        task = progress.add_task(f"scoring on {scorer.device}", total=None, rows=0)
        counts = score_file(
            source,
            target,
            scorer,
            on_bad_row=on_bad_row.value,
            columns=parse_columns(column),
            progress=lambda rows: progress.update(task, rows=rows),
        )
    _print_counts(counts, target, rejected_path(target), scorer.threads)


@app.command()
def info(
    bundle: Annotated[
        Path, typer.Argument(metavar="[BUNDLE]", help="Bundle folder.", show_default="the built-in one")
    ] = BUILTIN_BUNDLE,
) -> None:
    """Verify a bundle and show what it is: labels, thresholds, origin."""
    from shudun.bundle import read_bundle

    _print_bundle(read_bundle(bundle))


@app.command()
def bench(
    bundle: OptionalBundle = BUILTIN_BUNDLE,
    texts: Annotated[
        Path | None, typer.Option(help="Items to score, as for `score`; without it, generated comments.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Most items.")] = 2000,
    rounds: Annotated[int, typer.Option(min=1, help="Passes over all items; the median counts.")] = 3,
    device: DeviceOption = DeviceChoice.auto,
    threads: Annotated[int | None, typer.Option(min=1, help="Batches computed at once.")] = None,
    peak_gops: Annotated[
        float | None, typer.Option(min=0.001, help="Peak of one core in 1e9 operations/s, for the share of the limit.")
    ] = None,
    column: ColumnOption = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Measure how fast a bundle scores on this machine."""
    from shudun.benchmark import benchmark, generated_items
    from shudun.rows import RowReader, parse_item
    from shudun.scorer import Scorer

    scorer = Scorer.from_bundle(bundle, device.value, threads)
    if texts is None:
        items = generated_items(count)
    else:
        items = list(islice(RowReader(texts, parse_item, columns=parse_columns(column)), count))
    if not items:
        raise ShudunError(f"{texts}: no rows to measure with")
    with _progress() as progress:
        task = progress.add_task(f"measuring on {scorer.device}", total=None, rows=0)
        result = benchmark(
            scorer,
            items,
            rounds=rounds,
            peak_gops=peak_gops,
            progress=lambda done: progress.update(task, rows=done * len(items)),
        )
    _print_benchmark(result)
    if json_path is not None:
        json_path.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="Run configuration (YAML); see configs/train/.")],
    output_dir: Annotated[Path | None, typer.Option(help="Run folder, instead of the configured one.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's last checkpoint.")] = False,
) -> None:
    """Fine-tune, calibrate, export and evaluate: one configuration, one run folder, one bundle."""
    training_module("pipeline").run(config, output_dir=output_dir, resume=resume)


@app.command()
def tune(
    config: Annotated[Path, typer.Option(help="Run configuration (YAML); its 'search' section says what varies.")],
    trials: Annotated[int, typer.Option(min=1, help="Trials of the whole search, earlier ones included.")],
    output_dir: Annotated[
        Path | None, typer.Option(help="Folder of the search; the configured run folder with -search by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on in a folder that holds a search.")] = False,
) -> None:
    """Search for hyper-parameters on the validation split; writes best.yaml for `shudun train`."""
    training_module("tuning").tune(config, trials=trials, output_dir=output_dir, resume=resume)


@app.command()
def distill(
    config: Annotated[Path, typer.Option(help="Configuration (YAML); see configs/distill/.")],
    output_dir: Annotated[Path | None, typer.Option(help="Run folder, instead of the configured one.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's last checkpoint.")] = False,
) -> None:
    """Train a small student on the scores of one or more teachers, also on texts without labels."""
    training_module("distillation.command").run(config, output_dir=output_dir, resume=resume)


@app.command()
def pretrain(
    config: Annotated[Path, typer.Option(help="Pre-training configuration (YAML); see configs/pretrain/.")],
    output_dir: Annotated[Path | None, typer.Option(help="Run folder, instead of the configured one.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's last checkpoint.")] = False,
    branch: Annotated[
        Path | None, typer.Option(help="Begin at a checkpoint folder of another run: its weights, optimisers and step.")
    ] = None,
) -> None:
    """Pre-train an encoder on texts without labels, from random weights or from another encoder."""
    training_module("pretraining.command").pretrain(config, output_dir=output_dir, resume=resume, branch=branch)


@app.command()
def export(
    run: Annotated[Path, typer.Option(help="Run folder of `shudun train`.")],
    output: Annotated[
        Path | None, typer.Option(help="Bundle folder; RUN/bundle, or RUN/bundle-PRECISION, by default.")
    ] = None,
    precision: Annotated[
        PrecisionChoice,
        typer.Option(
            help="fp16: for CUDA; int8: 3-4 times as fast on a CPU; int8-dynamic: scores depend on batch mates."
        ),
    ] = PrecisionChoice.fp32,
    graph: Annotated[
        GraphChoice, typer.Option(help="generic: standard operators alone, for TensorRT; RUN/bundle-generic.")
    ] = GraphChoice.auto,
) -> None:
    """Calibrate a run's checkpoint, pass the gates and write the bundle."""
    training_module("pipeline").export(run, output=output, precision=precision.value, kind=graph.value)


@app.command()
def evaluate(
    bundle: BundleOption,
    data: Annotated[Path, typer.Option(help="Labelled rows.")],
    report: Annotated[Path, typer.Option(help="Folder for report.json and report.md.")],
    train_data: Annotated[
        Path | None, typer.Option(help="Training rows for the linear baseline, instead of the recorded ones.")
    ] = None,
    validation_data: Annotated[
        Path | None, typer.Option(help="Validation rows for the baseline's thresholds, instead of the recorded ones.")
    ] = None,
    annotated_labels: Annotated[
        str | None,
        typer.Option(help="The labels that the rows are annotated for, joined with commas; every label by default."),
    ] = None,
    on_bad_row: BadRowOption = BadRowChoice.fail,
    device: DeviceOption = DeviceChoice.auto,
) -> None:
    """Measure a bundle on labelled rows, beside the linear baseline."""
    training_module("pipeline").evaluate(
        bundle,
        data,
        report,
        train_data=train_data,
        validation_data=validation_data,
        annotated_labels=parse_names(annotated_labels),
        on_bad_row=on_bad_row.value,
        device=device.value,
    )


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    """Violation classifier for Chinese notes and comments: train, evaluate, export, score."""
    if version:
        typer.echo(f"shudun {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: run the command; turn known errors into one message and exit code 1."""
    try:
        app()
    except (ShudunError, OSError) as error:  # OSError: disk full, no permission, a folder where a file should be
        terminal.console(stderr=True).print(f"error: {error}", style="bold red", soft_wrap=True)
        sys.exit(1)


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}: {task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
        console=terminal.console(stderr=True),
    )


def _print_counts(counts: JobCounts, target: Path, rejected: Path, threads: int) -> None:
    console = terminal.console()
    table = Table("rows", "count", title=f"scored into {target}", title_justify="left")
    for name in ("read", "scored", "failed", "rejected", "truncated"):
        table.add_row(name, f"{getattr(counts, name):,}")
    for name, count in counts.suggestions.items():
        table.add_row(f"suggestion: {name}", f"{count:,}")
    console.print(table)
    console.print(f"{counts.texts_per_second:,.0f} texts/s over {counts.seconds:.1f} s on {threads} threads")
    if counts.rejected:
        console.print(f"rejected rows with their reasons: {rejected}", soft_wrap=True)


def _print_benchmark(result: BenchmarkResult) -> None:
    table = Table("figure", "value", title=f"{result.texts:,} texts, {result.mean_tokens:.1f} tokens on average")
    table.add_row("device, precision, threads", f"{result.device}, {result.precision}, {result.threads}")
    table.add_row("texts/s", f"{result.texts_per_second:,.0f}")
    table.add_row("tokens/s", f"{result.tokens_per_second:,.0f}")
    if result.share_of_limit is not None:
        table.add_row("share of the limit", f"{result.share_of_limit:.0%}")
    share = result.tokenising_us * 1e-6 * result.texts_per_second / result.threads
    table.add_row("tokenising, one core", f"{result.tokenising_us:.1f} µs a text, {share:.1%} of the time")
    for name, value in result.latency_ms.items():
        table.add_row(f"latency of one text, {name}", f"{value:.2f} ms")
    table.add_row("peak memory", f"{result.peak_memory_mb:,.0f} MB")
    terminal.console().print(table)


def _print_bundle(bundle: Bundle) -> None:
    console, manifest = terminal.console(), bundle.manifest
    graph = manifest.files["model.onnx"]
    facts = {
        "name": manifest.name,
        "created": manifest.created,
        "made by": f"shudun {manifest.shudun_version}",
        "normalizer": manifest.normalizer,
        "precision": manifest.precision,
        "graph": f"{graph.bytes / 1e6:.1f} MB, sha256 {graph.sha256[:16]}",
        "max_length": f"{manifest.max_length} tokens",
        "vocabulary": f"{bundle.tokenizer.vocab_size:,} ids",
        "taxonomy": f"{bundle.taxonomy.id} {bundle.taxonomy.version}",
        "policy": f"{bundle.policy.id} {bundle.policy.version}",
    }
    for name, value in facts.items():
        console.print(f"{name:>12}  {value}", highlight=False)
    headings = ("tier", "applies to", "threshold", "automatic", "fitted for", "positives", "precision")
    table = Table(Column("label", no_wrap=True), *headings)
    for label, point in zip(bundle.taxonomy.labels, bundle.points, strict=True):
        table.add_row(
            f"{label.id} {label.name_zh}",
            label.tier,
            ", ".join(label.applies_to),
            f"{point.threshold:.3f}",
            "never" if point.automatic is None else f"{point.automatic:.3f}",
            point.method,
            str(point.positives),
            "-" if point.precision is None else f"{point.precision:.2f}",
        )
    console.print(table)
