"""`shudun distill`: an ordinary run whose model learns from teachers."""

from __future__ import annotations

from pathlib import Path

from shudun_training import pipeline
from shudun_training.distillation.config import load_distill_config
from shudun_training.distillation.preparation import prepare


def run(config_path: Path, *, output_dir: Path | None = None, resume: bool = False) -> None:
    """Score all texts by the teachers, train the student, then calibrate, export and evaluate it like any run."""
    config = load_distill_config(config_path, output_dir=output_dir)
    pipeline.run_config(
        config.run_config(),
        resume=resume,
        prepare=lambda rows, sources: prepare(config, rows, sources, resume=resume),
    )
