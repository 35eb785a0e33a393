"""The recipes to fine-tune that bench_training.py compares: ours through `fit`, stock Trainer, transformers' example.

All start from the same encoder folder, see the same rows in batches of the same size for the same epochs, with the
same masked loss, learning rate, schedule and dropout; they differ in padding, order and precision. Time is that of the
training work alone, counted by the same callback in each: evaluation and saving are left out of all.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.trainer_utils import EvalPrediction

from shudun.taxonomy import Taxonomy
from shudun.tokenization import ItemTokenizer
from shudun_training.checkpoint import build_model
from shudun_training.config import BceConfig, ModelConfig, TrainingConfig
from shudun_training.curve_lines import read_curves
from shudun_training.curves import CurveWriter
from shudun_training.examples import Example, label_matrix
from shudun_training.finetune import EpochMetrics, fit, predict_logits
from shudun_training.losses import MaskedBce
from shudun_training.run_files import CURVES, TRAINER
from shudun_training.training_rows import to_dataset

QUALITY = ("macro_ap", "macro_f1_at_half")


@dataclass(frozen=True)
class Job:
    """One model and the rows that it is fine-tuned and measured on."""

    name: str
    encoder_folder: Path
    tokenizer: PreTrainedTokenizerBase
    encoder: ItemTokenizer
    taxonomy: Taxonomy
    train: Sequence[Example]
    validation: Sequence[Example]
    training: TrainingConfig
    max_length: int

    @property
    def model_config(self) -> ModelConfig:
        return ModelConfig(encoder=str(self.encoder_folder), max_length=self.max_length)

    def lengths(self) -> Any:
        """Real tokens of each training row `(n,)`."""
        return self.encoder.encode([example.item for example in self.train]).lengths


@dataclass(frozen=True)
class Outcome:
    """What one run of a recipe took and reached; `epoch_seconds` are training work alone, in order."""

    epoch_seconds: list[float]
    whole_seconds: float
    updates: int
    quality: dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """A way to fine-tune, with the precision whose limit it is held against."""

    name: str
    precision: str
    run: Callable[[Job, int, Path], Outcome] = field(compare=False)


def recipes(device: str, *, bf16: bool, extra: Mapping[str, Mapping[str, Any]]) -> list[Recipe]:
    """Ours with and without bf16 and with `extra` options, then the peers; `bf16` says whether this device has it."""
    forms: dict[str, dict[str, Any]] = {"shudun": {"bf16": bf16}, "shudun, fp32": {"bf16": False}}
    if device == "cuda" and "torch_compile" in TrainingConfig.model_fields:
        forms["shudun, compiled"] = {"bf16": bf16, "torch_compile": True}
    forms |= {name: {"bf16": bf16, **options} for name, options in extra.items()}
    found = [
        Recipe(name, "bf16" if options["bf16"] else "fp32", partial(_ours, options)) for name, options in forms.items()
    ]
    found += [
        Recipe(STOCK, "fp32", partial(_peer, True, False)),
        Recipe("example", "fp32", partial(_peer, False, False)),
    ]
    if bf16:
        found.append(Recipe("example, bf16", "bf16", partial(_peer, False, True)))
    return found


STOCK = "stock Trainer"


def _ours(options: Mapping[str, Any], job: Job, seed: int, folder: Path) -> Outcome:
    started = time.perf_counter()
    result = fit(
        job.train,
        job.validation,
        taxonomy=job.taxonomy,
        model_config=job.model_config,
        training_config=TrainingConfig.model_validate(job.training.model_dump() | dict(options) | {"seed": seed}),
        loss_config=BceConfig(),
        output_dir=folder,
    )
    seconds = time.perf_counter() - started
    last = AutoModelForSequenceClassification.from_pretrained(folder / TRAINER / f"checkpoint-{result.steps}")
    return _outcome(job, last, folder / CURVES, result.steps, seconds)


def _peer(padded: bool, bf16: bool, job: Job, seed: int, folder: Path) -> Outcome:
    """`padded`: every row to max_length, as `padding="max_length"`; else each batch to its longest row."""
    started = time.perf_counter()
    set_seed(seed)
    model = build_model(job.model_config, job.taxonomy, job.tokenizer)
    train, validation = (_columns(rows, job, padded=padded) for rows in (job.train, job.validation))
    dynamic = DataCollatorWithPadding(job.tokenizer, pad_to_multiple_of=8)
    trainer = Trainer(
        model=model,
        args=_stock_arguments(job.training, folder, seed, bf16=bf16),
        data_collator=default_data_collator if padded else dynamic,
        train_dataset=train,
        eval_dataset=validation,
        compute_loss_func=MaskedBce(None),
        compute_metrics=EpochMetrics(job.taxonomy),
        callbacks=[CurveWriter(folder / CURVES, rows=len(job.train), tokens=int(job.lengths().sum()))],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    seconds = time.perf_counter() - started
    last = build_model(job.model_config, job.taxonomy, job.tokenizer)  # without the autocast around the trained one
    last.load_state_dict(model.state_dict())
    return _outcome(job, last, folder / CURVES, trainer.state.global_step, seconds)


def _stock_arguments(training: TrainingConfig, folder: Path, seed: int, *, bf16: bool) -> TrainingArguments:
    """Trainer's defaults, except for what all recipes share."""
    shared = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size")
    return TrainingArguments(
        output_dir=str(folder / "trainer"),
        bf16=bf16,
        use_cpu=not torch.accelerator.is_available(),
        eval_strategy="epoch",
        save_strategy="no",
        warmup_steps=training.warmup_ratio,
        weight_decay=training.weight_decay,
        seed=seed,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        **{name: getattr(training, name) for name in shared},
    )


def _columns(rows: Sequence[Example], job: Job, *, padded: bool) -> datasets.Dataset:
    """Rows as a tokenizer call gives them, to the full length or ragged."""
    ragged = to_dataset(rows, job.encoder, job.taxonomy)
    columns: dict[str, list[Any]] = {"labels": ragged["labels"][:]}
    for name, fill in (("input_ids", job.encoder.pad_id), ("token_type_ids", 0), ("attention_mask", 0)):
        values = [[1] * length for length in ragged["length"]] if name == "attention_mask" else ragged[name][:]
        columns[name] = [row + [fill] * (job.max_length - len(row)) for row in values] if padded else values
    return datasets.Dataset.from_dict(columns)


def _outcome(job: Job, model: PreTrainedModel, curves: Path, updates: int, whole_seconds: float) -> Outcome:
    ends = [line for line in read_curves(curves) if "eval_loss" in line]
    seconds = [0.0, *(line["train_seconds"] for line in ends)]
    return Outcome(
        epoch_seconds=[after - before for before, after in itertools.pairwise(seconds)],
        whole_seconds=whole_seconds,
        updates=updates,
        quality=_quality(model, job),
    )


def _quality(model: PreTrainedModel, job: Job) -> dict[str, float]:
    """Of the weights after the last update, in fp32 whatever they were trained in: rounded logits are often equal."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    logits, _ = predict_logits(model, job.encoder, [example.item for example in job.validation])
    return EpochMetrics(job.taxonomy)(EvalPrediction(logits, label_matrix(job.validation, job.taxonomy)))
