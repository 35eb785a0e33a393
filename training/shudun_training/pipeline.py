"""The composition root of training: from a configuration to a run folder, a bundle and a report.

RUN/config.yaml       the configuration as it ran, paths absolute
RUN/inputs.json       what a resumed run is held against: configuration and checksums of the rows
RUN/trainer/          resumable Trainer checkpoints and TensorBoard logs
RUN/checkpoint/       the best weights, a stock `transformers` folder, and the n-gram branch where there is one
RUN/starts.jsonl      every start and resumption: time, versions, git revision, hardware
RUN/curves.jsonl      losses, learning rate, gradient norm, speed and validation metrics over the steps
RUN/curves.svg        the same as a picture
RUN/run.json          versions, sources and data checksums, steps, log
RUN/bundle/           what `Scorer.from_bundle` loads, with its metrics on the validation rows
RUN/report/           report.json and report.md on the test rows, scores.npz of each of them
RUN/distill.yaml, RUN/distillation/, RUN/student/    of `shudun distill` alone: see `distillation.preparation`
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import transformers

from shudun import terminal
from shudun.devices import Device
from shudun.errors import BundleError, ShudunError
from shudun.rows import OnBadRow
from shudun.scorer import Scorer
from shudun_training import run_state
from shudun_training.bootstrap import Predictions
from shudun_training.bundling import Subject, fit_fp32, fit_quantised, write
from shudun_training.checkpoint import item_tokenizer, load_checkpoint
from shudun_training.config import (
    RunConfig,
    SourceConfig,
    ThresholdConfig,
    load_policy,
    load_run_config,
    load_taxonomy,
    save_run_config,
)
from shudun_training.curve_lines import draw_curves, read_curves
from shudun_training.data_checksums import data_checksums
from shudun_training.distillation.preparation import Prepared
from shudun_training.evaluation import evaluate_bundle
from shudun_training.examples import Example, label_matrix
from shudun_training.export_graph import GraphKind, Precision
from shudun_training.finetune import fit
from shudun_training.ngram_branch.run import fit_run_branch, load_run_branch
from shudun_training.onnx_export import check_tokenizer
from shudun_training.processes import is_main_process, written_by_main
from shudun_training.provenance import environment, now
from shudun_training.reporting import print_report, write_report
from shudun_training.run_files import (
    BUNDLE,
    CHECKPOINT,
    CONFIG,
    CURVES,
    CURVES_PICTURE,
    RECORD,
    REPORT,
    REPORT_JSON,
    SCORES,
)
from shudun_training.run_folder import check_normalizer, resume_run, start_run
from shudun_training.sources import SourceRecord, load_examples, repeated, source_slices

Prepare: TypeAlias = Callable[[dict[str, list[Example]], dict[str, list[SourceRecord]]], Prepared]
"""From the rows of each split and their records to teachers who are ready to teach."""


def run(config_path: Path, *, output_dir: Path | None = None, resume: bool = False) -> None:
    """Fine-tune, calibrate, export and evaluate as one configuration says."""
    run_config(load_run_config(config_path, output_dir=output_dir), resume=resume)


def run_config(config: RunConfig, *, resume: bool = False, prepare: Prepare | None = None) -> None:
    """The same for a configuration in memory; `prepare` has teachers ready before the fit, if there are any."""
    _hide_weight_bars()
    with run_state.held(config.output_dir):
        _run(config, resume=resume, prepare=prepare)


def _run(config: RunConfig, *, resume: bool, prepare: Prepare | None) -> None:
    taxonomy, folder = load_taxonomy(config.taxonomy), config.output_dir
    load_policy(config.policy)
    with written_by_main(folder) as target:
        rows, sources = _load_splits(config, target)
    if is_main_process():
        (resume_run if resume else start_run)(folder, config, sources)
        save_run_config(config, folder / CONFIG)
        run_state.record_start(folder, resume=resume)
    prepared = None if prepare is None else prepare(rows, sources)
    result = fit(
        repeated(rows["train"], sources["train"]),
        rows["validation"],
        taxonomy=taxonomy,
        model_config=config.model,
        training_config=config.training,
        loss_config=config.loss,
        output_dir=folder,
        augmentation=config.augmentation,
        regularisation=config.regularisation,
        teaching=None if prepared is None else prepared.teaching,
        resume=resume,
    )
    if not result.is_main_process:
        return
    records = {split: [source.to_dict() for source in found] for split, found in sources.items()}
    branch = fit_run_branch(folder / CHECKPOINT, config, taxonomy, rows["train"], rows["validation"])
    record = {
        "name": config.name,
        "finished": now(),
        "environment": environment(),
        "sources": records,
        "data": data_checksums(records),
        "steps": result.steps,
        "ngram_branch": branch,
        "best_metric": result.best_metric,
        "log": result.log_history,
    }
    if prepared is not None:
        record["distillation"] = prepared.record
    (folder / RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    draw_curves(read_curves(folder / CURVES), folder / CURVES_PICTURE, title=config.name)
    export(folder)
    split = "test" if rows["test"] else "validation"
    parts = source_slices(sources[split])
    others = None if prepared is None else prepared.predictions(split)
    _report(Scorer.from_bundle(folder / BUNDLE), split, rows, config.thresholds, folder / REPORT, parts, others=others)


def export(
    run_dir: Path, *, output: Path | None = None, precision: Precision = "fp32", kind: GraphKind = "auto"
) -> None:
    """Calibrate a run's checkpoint on its validation rows, pass the gates, write the bundle.

    Raises:
        ShudunError: the run was trained with another version of the text normalisation.
        GateError: graph, tokenisation or quantisation differ too much from the checkpoint; nothing is written.
    """
    _hide_weight_bars()
    config, record = _read_run(run_dir)
    check_normalizer(run_dir, record)
    validation, _ = _reload(record["sources"]["validation"], config)
    taxonomy = load_taxonomy(config.taxonomy)
    labels = label_matrix(validation, taxonomy)
    model, tokenizer = load_checkpoint(run_dir / CHECKPOINT)
    encoder = item_tokenizer(tokenizer, max_length=config.model.max_length)
    items = [example.item for example in validation]
    check_tokenizer(tokenizer, encoder, items)
    branch = load_run_branch(run_dir / CHECKPOINT, config, encoder, taxonomy)
    subject = Subject(model, encoder, items, labels, config.thresholds, branch)
    fitted = fit_fp32(subject, kind=kind)
    if precision != "fp32":
        train, _ = _reload(record["sources"]["train"], config)
        texts = [example.item for example in train]
        fitted = fit_quantised(subject, fitted, precision=precision, calibration_items=texts)
    form = precision if kind == "auto" else kind
    default = BUNDLE if form == "fp32" else f"{BUNDLE}-{form}"
    target = run_dir / default if output is None else output
    further = {"distillation": record["distillation"]} if "distillation" in record else {}
    write(subject, fitted, target, config=config, sources=record["sources"], further=further)
    console = terminal.console()
    if fitted.exported.kind == "generic":
        console.print(f"generic export, slower than the fused graph: {fitted.exported.note}")
    for check, found in fitted.gate.items():
        console.print(f"{check}: " + "  ".join(f"{name} {value:.4g}" for name, value in found.items()))
    console.print(f"bundle: {target}")


def evaluate(
    bundle_dir: Path,
    data: Path,
    report_dir: Path,
    *,
    train_data: Path | None = None,
    validation_data: Path | None = None,
    annotated_labels: Sequence[str] | None = None,
    on_bad_row: str = "fail",
    device: str = "auto",
) -> None:
    """Measure a bundle on labelled rows, beside a baseline trained on the bundle's own training rows.

    `annotated_labels`: the labels that `data` annotates; every label by default.
    """
    scorer = Scorer.from_bundle(bundle_dir, cast("Device", device))
    provenance = scorer.manifest.provenance
    policy = cast("OnBadRow", on_bad_row)
    source = SourceConfig(path=str(data), annotated_labels=None if annotated_labels is None else list(annotated_labels))
    examples, records = load_examples(
        [source], scorer.taxonomy, on_bad_row=policy, rejected_dir=report_dir / "rejected"
    )
    rows = {"data": examples}
    for split, override in (("train", train_data), ("validation", validation_data)):
        rows[split] = _baseline_rows(scorer, split, override, on_bad_row=policy, folder=report_dir / "rejected" / split)
    thresholds = ThresholdConfig.model_validate(provenance.get("thresholds", {}))
    _report(scorer, "data", rows, thresholds, report_dir, parts={}, extra={"data": [x.to_dict() for x in records]})


def _report(
    scorer: Scorer,
    split: str,
    rows: dict[str, list[Example]],
    thresholds: ThresholdConfig,
    folder: Path,
    parts: dict[str, slice],
    extra: dict[str, Any] | None = None,
    others: Mapping[str, Predictions] | None = None,
) -> None:
    report = evaluate_bundle(
        scorer,
        rows[split],
        train=rows["train"],
        validation=rows["validation"],
        thresholds=thresholds,
        sources=parts,
        scores_path=folder / SCORES,
        others=others,
    )
    report |= {"split": split, "bundle": scorer.manifest.name, "environment": environment(), **(extra or {})}
    write_report(report, folder)
    console = terminal.console()
    print_report(report, console)
    console.print(f"report: {folder / REPORT_JSON}")


def _hide_weight_bars() -> None:
    # transformers shows a bar whenever it reads or writes weights: once an epoch, and of no use here.
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _load_splits(config: RunConfig, folder: Path) -> tuple[dict[str, list[Example]], dict[str, list[SourceRecord]]]:
    taxonomy = load_taxonomy(config.taxonomy)
    rows: dict[str, list[Example]] = {}
    records: dict[str, list[SourceRecord]] = {}
    for split in ("train", "validation", "test"):
        rows[split], records[split] = load_examples(
            getattr(config.data, split),
            taxonomy,
            on_bad_row=config.data.on_bad_row,
            rejected_dir=folder / "rejected" / split,
        )
    return rows, records


def _read_run(run_dir: Path) -> tuple[RunConfig, dict[str, Any]]:
    try:
        record = json.loads((run_dir / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ShudunError(f"{run_dir}: no finished run of `shudun train` ({error})") from error
    return load_run_config(run_dir / CONFIG), record


def _reload(recorded: Sequence[dict[str, Any]], config: RunConfig) -> tuple[list[Example], list[SourceRecord]]:
    """Read recorded sources again; refuse them when their contents changed since the run."""
    folder = config.output_dir / "rejected" / "export"
    return _verified_load(recorded, load_taxonomy(config.taxonomy), config.data.on_bad_row, folder)


def _baseline_rows(
    scorer: Scorer, split: str, override: Path | None, *, on_bad_row: OnBadRow, folder: Path
) -> list[Example]:
    if override is not None:
        source = SourceConfig(path=str(override))
        return load_examples([source], scorer.taxonomy, on_bad_row=on_bad_row, rejected_dir=folder)[0]
    recorded = scorer.manifest.provenance.get("sources", {}).get(split)
    if not recorded:
        raise BundleError(f"the bundle records no {split} rows for the baseline; give --{split}-data FILE")
    try:
        return _verified_load(recorded, scorer.taxonomy, "skip", folder)[0]
    except ShudunError as error:
        raise ShudunError(f"{split} rows for the baseline: {error}. Give --{split}-data FILE") from error


def _verified_load(
    recorded: Sequence[dict[str, Any]], taxonomy: Any, on_bad_row: OnBadRow, folder: Path
) -> tuple[list[Example], list[SourceRecord]]:
    sources = [SourceRecord(**entry).config() for entry in recorded]
    examples, records = load_examples(sources, taxonomy, on_bad_row=on_bad_row, rejected_dir=folder)
    for before, after in zip(recorded, records, strict=True):
        if before["sha256"] != after.sha256:
            raise ShudunError(f"{after.path}: the rows changed since the run (sha256 {after.sha256[:12]})")
    return examples, records
