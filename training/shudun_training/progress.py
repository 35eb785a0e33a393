"""What a person sees during training: a bar where there is a terminal, one line for each epoch everywhere."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerState, TrainingArguments


class EpochLines(TrainerCallback):
    """One line for each epoch: losses and validation metrics."""

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Print the line of the epoch that was just measured."""
        if not state.is_world_process_zero:
            return
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        metrics = kwargs["metrics"]
        tqdm.write(
            f"epoch {state.epoch or 0:g}/{args.num_train_epochs:g}  step {state.global_step}  "
            f"loss {losses[-1] if losses else float('nan'):.3f}  validation loss {metrics['eval_loss']:.3f}  "
            f"macro-AP {metrics['eval_macro_ap']:.3f}  macro-F1 at 0.5 {metrics['eval_macro_f1_at_half']:.3f}",
            file=sys.stderr,
        )


class ProgressBar(ProgressCallback):
    """Trainer's progress bar without its log lines, which `EpochLines` replaces."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print nothing."""
