"""Fine-tuning, and the whole training path on one screen.

examples ─ (disguise) ─ tokenise (the scoring tokeniser) ─ Trainer with masked loss, length grouping, early stopping ─
best weights ─ stock `transformers` folder. Knows nothing of thresholds, ONNX or bundles.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import EvalPrediction

from shudun.batching import Batching, Outputs, run_batches
from shudun.calibration import Calibration
from shudun.errors import ShudunError
from shudun.items import Item
from shudun.rendering import plain_text
from shudun.taxonomy import Taxonomy
from shudun.tokenization import ItemTokenizer, TokenBatch
from shudun_training.augmentation import Augmenter
from shudun_training.checkpoint import build_model, build_tokenizer, item_tokenizer, save_checkpoint
from shudun_training.config import AugmentationConfig, LossConfig, ModelConfig, TrainingConfig
from shudun_training.examples import UNKNOWN, Example, label_matrix
from shudun_training.losses import MaskedBce, balanced_pos_weight
from shudun_training.metrics import compute_metrics
from shudun_training.progress import EpochLines, ProgressBar
from shudun_training.run_folder import whole_checkpoints
from shudun_training.training_rows import build_augmenter, to_dataset, training_dataset


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a fit did: the checkpoint folder, optimiser steps, and the log of losses and metrics."""

    checkpoint: Path
    steps: int
    best_metric: float | None
    log_history: list[dict[str, Any]]
    is_main_process: bool


def fit(
    train: Sequence[Example],
    validation: Sequence[Example],
    *,
    taxonomy: Taxonomy,
    model_config: ModelConfig,
    training_config: TrainingConfig,
    loss_config: LossConfig,
    output_dir: Path,
    augmentation: AugmentationConfig | None = None,
    resume: bool = False,
) -> FitResult:
    """Fine-tune on `train`, choose the best epoch on `validation`, save to `output_dir/checkpoint`.

    Raises:
        ShudunError: no known label in a split, an unreachable encoder, or nothing to resume from.
    """
    set_seed(training_config.seed)
    augmenter = build_augmenter(augmentation, train)
    tokenizer = build_tokenizer(model_config, _vocabulary_texts(train, augmenter))
    model = build_model(model_config, taxonomy, tokenizer)
    encoder = item_tokenizer(tokenizer, max_length=model_config.max_length)
    for name, rows in (("train", train), ("validation", validation)):
        _require_labels(name, rows, taxonomy)
    trainer = Trainer(
        model=model,
        args=_arguments(training_config, output_dir / "trainer", len(train)),
        data_collator=Collator(encoder.pad_id),
        train_dataset=training_dataset(train, encoder, taxonomy, augmenter),
        eval_dataset=to_dataset(validation, encoder, taxonomy),
        compute_loss_func=MaskedBce(_pos_weight(loss_config, train, taxonomy)),
        compute_metrics=EpochMetrics(taxonomy),
        callbacks=[EarlyStoppingCallback(training_config.early_stopping_patience), EpochLines()],
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(ProgressBar())
    trainer.train(resume_from_checkpoint=_last_checkpoint(output_dir / "trainer") if resume else None)
    checkpoint = output_dir / "checkpoint"
    if trainer.is_world_process_zero():
        save_checkpoint(trainer.accelerator.unwrap_model(trainer.model), tokenizer, checkpoint)
    return FitResult(
        checkpoint=checkpoint,
        steps=trainer.state.global_step,
        best_metric=trainer.state.best_metric,
        log_history=trainer.state.log_history,
        is_main_process=trainer.is_world_process_zero(),
    )


class Collator:
    """Pads a list of rows to the longest of them; the result holds int64 tensors `(batch, seq_len)`."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows with `input_ids`, `token_type_ids` and `labels`."""
        width = max(len(row["input_ids"]) for row in rows)
        batch = {
            "input_ids": torch.full((len(rows), width), self.pad_id),
            "attention_mask": torch.zeros((len(rows), width), dtype=torch.int64),
            "token_type_ids": torch.zeros((len(rows), width), dtype=torch.int64),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }
        for i, row in enumerate(rows):
            length = len(row["input_ids"])
            batch["input_ids"][i, :length] = torch.tensor(row["input_ids"])
            batch["attention_mask"][i, :length] = 1
            batch["token_type_ids"][i, :length] = torch.tensor(row["token_type_ids"])
        return batch


class EpochMetrics:
    """Metrics after each epoch on plain sigmoid scores; thresholds come later, so F1 is at 0.5."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._taxonomy = taxonomy

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Macro AP and macro F1 at 0.5.

        Raises:
            ShudunError: a logit is not finite.
        """
        logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        if not np.isfinite(logits).all():
            raise ShudunError("training diverged: the model gives NaN or Inf; lower training.learning_rate")
        scores = Calibration.identity(len(self._taxonomy.labels)).apply(logits)
        result = compute_metrics(scores, scores >= 0.5, labels, self._taxonomy.label_ids)
        return {"macro_ap": result["macro_ap"] or 0.0, "macro_f1_at_half": result["macro_f1"] or 0.0}


def predict_logits(
    model: PreTrainedModel, encoder: ItemTokenizer, items: Sequence[Item], *, batch_tokens: int = 4096
) -> Outputs:
    """Logits `(n, num_labels)` and `[CLS]` embeddings `(n, hidden)` of items by torch, in evaluation mode."""
    model.train(mode=False)

    def run(batch: TokenBatch) -> Outputs:
        feeds = {name: torch.from_numpy(array).to(model.device) for name, array in batch.feeds().items()}
        with torch.inference_mode():
            output = model(**feeds, output_hidden_states=True)
        return output.logits.float().cpu().numpy(), output.hidden_states[-1][:, 0].float().cpu().numpy()

    widths = (cast("int", model.config.num_labels), int(model.config.hidden_size))
    return run_batches(encoder.encode(items), run, widths=widths, batching=Batching(batch_tokens, length_step=16))


def _require_labels(split: str, rows: Sequence[Example], taxonomy: Taxonomy) -> None:
    # A row whose every label is unknown teaches nothing and measures nothing.
    if not (label_matrix(rows, taxonomy) != UNKNOWN).any():
        raise ShudunError(f"{split}: {len(rows)} rows without a known label; give rows with labels")


def _vocabulary_texts(train: Sequence[Example], augmenter: Augmenter | None) -> Iterator[str]:
    """Texts of the rows and, where they are augmented, of the first epoch: a vocabulary must hold its characters."""
    for example in train:
        yield plain_text(example.item)
        if augmenter is not None:
            yield plain_text(augmenter(example, 0).item)


def _arguments(config: TrainingConfig, folder: Path, rows: int) -> TrainingArguments:
    bf16 = config.bf16 if isinstance(config.bf16, bool) else _cuda_bf16()
    passed = config.model_dump(exclude={"early_stopping_patience", "warmup_ratio", "bf16"})
    arguments = TrainingArguments(
        output_dir=str(folder),
        bf16=bf16,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        greater_is_better=config.metric_for_best_model != "loss",
        train_sampling_strategy="group_by_length",
        label_names=["labels"],
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=torch.cuda.is_available(),
        data_seed=config.seed,
        **passed,
    )
    rows_per_step = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    steps_per_epoch = max(rows // rows_per_step, 1)
    arguments.warmup_steps = int(config.warmup_ratio * steps_per_epoch * config.num_train_epochs)
    return arguments


def _cuda_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _pos_weight(config: LossConfig, train: Sequence[Example], taxonomy: Taxonomy) -> torch.Tensor | None:
    if config.pos_weight == "none":
        return None
    if config.pos_weight == "balanced":
        return balanced_pos_weight(label_matrix(train, taxonomy), cap=config.max_pos_weight)
    if unknown := sorted(set(config.pos_weight) - set(taxonomy.label_ids)):
        raise ShudunError(f"loss.pos_weight: not in taxonomy {taxonomy.id}: {', '.join(unknown)}")
    return torch.tensor([config.pos_weight.get(label, 1.0) for label in taxonomy.label_ids])


def _last_checkpoint(folder: Path) -> str:
    whole = whole_checkpoints(folder)
    if not whole:
        raise ShudunError(f"{folder}: no checkpoint to resume from; start without --resume")
    return str(whole[-1])
