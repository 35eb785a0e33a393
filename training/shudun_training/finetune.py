"""Fine-tuning, and the whole training path on one screen.

examples ─ (disguise) ─ tokenise (the scoring tokeniser) ─ Trainer with masked loss, length grouping, early stopping ─
best weights ─ stock `transformers` folder. Knows nothing of thresholds, ONNX or bundles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    TrainerCallback,
    set_seed,
)
from transformers.trainer_utils import EvalPrediction, SaveStrategy

from shudun.batching import Batching, Outputs, run_batches
from shudun.calibration import Calibration
from shudun.errors import ShudunError
from shudun.items import Item
from shudun.rendering import plain_text
from shudun.taxonomy import Taxonomy
from shudun.tokenization import ItemTokenizer, TokenBatch
from shudun_training.augmentation import Augmenter
from shudun_training.checkpoint import build_model, build_tokenizer, item_tokenizer, save_checkpoint
from shudun_training.collation import Collator
from shudun_training.config import AugmentationConfig, ModelConfig, RegularisationConfig, TrainingConfig
from shudun_training.curves import CurveWriter
from shudun_training.distillation.teaching import Teaching
from shudun_training.examples import UNKNOWN, Example, label_matrix
from shudun_training.fp32_head import keep_head_fp32
from shudun_training.loss_choice import build_loss
from shudun_training.loss_config import LossConfig
from shudun_training.losses import BatchLoss
from shudun_training.metrics import compute_metrics
from shudun_training.progress import EpochLines, ProgressBar
from shudun_training.regularised_trainer import RegularisedTrainer
from shudun_training.run_files import CURVES
from shudun_training.trainer_checkpoints import DivergedError, naming_last_good, resume_point
from shudun_training.training_arguments import training_arguments
from shudun_training.training_rows import build_augmenter, row_lengths, to_dataset, training_dataset


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
    regularisation: RegularisationConfig | None = None,
    teaching: Teaching | None = None,
    resume: bool = False,
    keep: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
) -> FitResult:
    """Fine-tune on `train`, choose the best evaluation on `validation`, save to `output_dir/checkpoint`.

    `keep`: without it nothing is saved, and only the measurements and `CURVES` remain. `callbacks` see every
    evaluation.

    With `teaching` the model learns from teachers too, on rows of theirs as well.

    Raises:
        ShudunError: no known label in a split, an unreachable encoder, options that cannot work here or with this
            model, nothing good to resume from, a divergence, or a checkpoint that cannot be saved.
    """
    set_seed(training_config.seed)
    augmenter = build_augmenter(augmentation, train)
    tokenizer = build_tokenizer(model_config, vocabulary_texts(train, augmenter))
    model = build_model(model_config, taxonomy, tokenizer)
    keep_head_fp32(model)
    encoder = item_tokenizer(tokenizer, max_length=model_config.max_length)
    for name, rows in (("train", train), ("validation", validation)):
        _require_labels(name, rows, taxonomy)
    dataset: Any = training_dataset(train, encoder, taxonomy, augmenter)
    collator: Any = Collator(encoder.pad_id)
    loss: BatchLoss = build_loss(loss_config, train, taxonomy)
    lesson = None
    if teaching is not None:
        dataset, collator, loss = teaching.rows(dataset), teaching.collator(collator), teaching.loss(loss)
        lesson = teaching.attach(model)
    states, lengths = output_dir / "trainer", row_lengths(dataset)
    arguments = training_arguments(training_config, states)
    if not keep:
        arguments.save_strategy = SaveStrategy.NO
    trainer = RegularisedTrainer(
        lengths=lengths,
        save_total_limit=training_config.save_total_limit,
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=dataset,
        eval_dataset=to_dataset(validation, encoder, taxonomy),
        loss=loss,
        compute_metrics=EpochMetrics(taxonomy),
        callbacks=[
            EarlyStoppingCallback(training_config.early_stopping_patience),
            EpochLines(),
            CurveWriter(output_dir / CURVES, rows=len(dataset), tokens=int(lengths.sum())),
            *callbacks,
        ],
        **(regularisation or RegularisationConfig()).model_dump(),
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(ProgressBar())
    checkpoint = output_dir / "checkpoint"
    with naming_last_good(states):
        trainer.train(resume_from_checkpoint=str(resume_point(states)) if resume else None)
        if lesson is not None:
            lesson.detach(model)
        weights = trainer.accelerator.get_state_dict(trainer.model)  # every process takes part: it gathers shards
        if keep and trainer.is_world_process_zero():
            save_checkpoint(trainer.accelerator.unwrap_model(trainer.model), tokenizer, checkpoint, weights=weights)
    trainer.accelerator.end_training()
    return FitResult(
        checkpoint=checkpoint,
        steps=trainer.state.global_step,
        best_metric=trainer.state.best_metric,
        log_history=trainer.state.log_history,
        is_main_process=trainer.is_world_process_zero(),
    )


class EpochMetrics:
    """Metrics after each epoch on plain sigmoid scores; thresholds come later, so F1 is at 0.5."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._taxonomy = taxonomy

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Macro AP and macro F1 at 0.5.

        Raises:
            DivergedError: a logit is not finite.
        """
        logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        if not np.isfinite(logits).all():
            raise DivergedError("training diverged: the model gives NaN or Inf; lower training.learning_rate")
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


def vocabulary_texts(train: Sequence[Example], augmenter: Augmenter | None) -> Iterator[str]:
    """Texts of the rows and, where they are augmented, of the first epoch: a vocabulary must hold its characters."""
    for example in train:
        yield plain_text(example.item)
        if augmenter is not None:
            yield plain_text(augmenter(example, 0).item)
