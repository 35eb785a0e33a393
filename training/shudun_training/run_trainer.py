"""Trainer with what a run needs to be resumable to the step: batches by seed and epoch, sealed checkpoints.

Derive from `RunTrainer` to change losses or optimisers; it knows nothing of either.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, cast

import torch
from numpy.typing import ArrayLike
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shudun.errors import ShudunError
from shudun_training.length_batches import LengthGroupedBatches
from shudun_training.trainer_checkpoints import (
    DivergedError,
    check_best,
    checkpoint_folder,
    discard_unfinished,
    rotate,
    seal,
)


class RunTrainer(Trainer):
    """Trainer whose batches and end do not depend on when it was cut off.

    Stock Trainer draws each epoch's order from the global random state: it differs after a resume within an epoch,
    and between processes once their batches have used it differently, so that rows are lost and doubled.
    """

    def __init__(self, *, lengths: ArrayLike, save_total_limit: int, **arguments: Any) -> None:
        """Take the tokens of each training row `(n,)`, how many checkpoints to keep, and what `Trainer` takes."""
        super().__init__(**arguments)
        _check_sharding(self)
        self.batches = LengthGroupedBatches(
            lengths,
            batch_size=self.args.train_batch_size,
            seed=self.args.seed,
            num_processes=self.args.world_size,
            process_index=self.args.process_index,
        )
        self.add_callback(EpochOrder(self.batches, self.train_dataset))
        self.add_callback(CheckpointKeeper(Path(str(self.args.output_dir)), save_total_limit))
        self.add_callback(FiniteLosses())

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of this process alone; no other wrapper deals them out again."""
        return DataLoader(
            cast("Dataset[Any]", self.train_dataset),
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _init_training_state(self, max_steps: int, steps: int, epochs: int, *resumed: Any) -> tuple[int, int]:
        position: tuple[int, int] = super()._init_training_state(max_steps, steps, epochs, *resumed)
        # Cut off after its last step, by early stopping too: stock Trainer would take one more.
        return (epochs, 0) if self.control.should_training_stop else position

    def _load_best_model(self) -> None:
        check_best(Path(str(self.args.output_dir)), cast("int", self.state.best_global_step))
        super()._load_best_model()


class EpochOrder(TrainerCallback):
    """Tells the batches, and rows that are disguised anew, which epoch it is; a resumed one too."""

    def __init__(self, batches: LengthGroupedBatches, rows: Any) -> None:
        self._parts = [part for part in (batches, rows) if hasattr(part, "set_epoch")]

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Set the epoch, counted from 0."""
        for part in self._parts:
            part.set_epoch(int(state.epoch or 0))


class CheckpointKeeper(TrainerCallback):
    """Seals each checkpoint after all processes have written their part, and only then removes older ones.

    Stock rotation removes the older ones inside the save: cut off there, a run is left without any.
    """

    def __init__(self, folder: Path, save_total_limit: int) -> None:
        self._folder = folder
        self._limit = save_total_limit

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Clear cut-off saves away, and find the best checkpoint also in a run folder that was moved."""
        if state.is_world_process_zero:
            discard_unfinished(self._folder)
        if state.best_global_step:
            state.best_model_checkpoint = str(checkpoint_folder(self._folder, state.best_global_step))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Seal and rotate, unless a weight is not finite.

        Raises:
            DivergedError: a weight is NaN or infinite; the checkpoint stays without a manifest.
        """
        if not all(_finite(parameter) for parameter in kwargs["model"].parameters()):
            raise DivergedError(_diverged(state.global_step, "a weight"))
        if args.distributed_state is not None:
            args.distributed_state.wait_for_everyone()
        if state.is_world_process_zero:
            seal(checkpoint_folder(self._folder, state.global_step))
            rotate(self._folder, limit=self._limit, best=state.best_global_step)


class FiniteLosses(TrainerCallback):
    """Stops at the first logged training loss that is not finite."""

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Look at the loss.

        Raises:
            DivergedError: it is NaN or infinite.
        """
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise DivergedError(_diverged(state.global_step, "the loss"))


def _diverged(step: int, what: str) -> str:
    return f"training diverged: {what} is NaN or Inf at step {step}; lower training.learning_rate"


def _finite(parameter: torch.Tensor) -> bool:
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return bool(torch.isfinite(local).all())


def _check_sharding(trainer: Trainer) -> None:
    if os.environ.get("ACCELERATE_USE_FSDP", "false") == "true" and not trainer.is_fsdp_enabled:
        raise ShudunError("the launcher asks for FSDP, which needs GPUs; use configs/accelerate/ddp.yaml on CPUs")
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    # Sharded states come back through pickle, which runs code; full ones are loaded as tensors alone.
    if plugin is not None and "FULL_STATE_DICT" not in str(plugin.state_dict_type):
        raise ShudunError(
            f"fsdp_state_dict_type is {plugin.state_dict_type}: set FULL_STATE_DICT, as configs/accelerate/fsdp.yaml"
        )
