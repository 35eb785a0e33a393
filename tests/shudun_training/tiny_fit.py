"""A tiny fine-tuning run, the same for tests in this process and for those that start processes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shudun import Comment, Note, Taxonomy
from shudun.items import Item
from shudun_training.config import AugmentationConfig, BceConfig, CompactConfig, ModelConfig, TrainingConfig
from shudun_training.examples import Example
from shudun_training.finetune import FitResult, fit

VALUES = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "report_to": "none",
    "metric_for_best_model": "loss",
}


def model_config(dropout: float = 0.1) -> ModelConfig:
    compact = CompactConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    return ModelConfig(max_length=24, compact=compact.model_copy(update={"dropout": dropout}))


def make_rows(texts: list[str], count: int = 40) -> list[Example]:
    """Rows of different lengths; about a third of the labels is unknown, some rows have none known."""
    rng = np.random.default_rng(0)
    examples = []
    for i in range(count):
        text = texts[i % 8][: 4 + i % 11]
        item: Item = Note(title=text[:3], text=text, id=str(i)) if i % 4 == 0 else Comment(text, id=str(i))
        wanted = {"diversion", "note_only" if i % 4 == 0 else "shill"}
        labels = frozenset(label for label in sorted(wanted) if rng.random() < 0.5)
        everything = {"diversion", "note_only", "shill", "hard_sell"}
        unknown = everything if i % 9 == 8 else {x for x in sorted(everything - labels) if rng.random() < 0.4}
        examples.append(Example(item, frozenset() if i % 9 == 8 else labels, frozenset(unknown)))
    return examples


def fit_tiny(
    folder: Path,
    rows: list[Example],
    taxonomy: Taxonomy,
    *,
    loss: BceConfig | None = None,
    resume: bool = False,
    dropout: float = 0.1,
    augmentation: AugmentationConfig | None = None,
    **training: Any,
) -> FitResult:
    """Fit the first 32 rows, validate on the others; further arguments change the training configuration."""
    parts = {name: training.pop(name, part) for name, part in (("train", rows[:32]), ("validation", rows[32:]))}
    return fit(
        **parts,
        taxonomy=taxonomy,
        model_config=model_config(dropout),
        training_config=TrainingConfig.model_validate(VALUES | training),
        loss_config=loss or BceConfig(),
        output_dir=folder,
        augmentation=augmentation,
        resume=resume,
    )


def weights(folder: Path) -> bytes:
    return (folder / "checkpoint" / "model.safetensors").read_bytes()


def losses(result: FitResult) -> list[float]:
    return [entry["loss"] for entry in result.log_history if "loss" in entry]
