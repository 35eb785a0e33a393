"""Trainer with the project's losses, R-Drop, FGM, layer-wise learning rates and averaged weights.

With every option off it trains bit for bit as `Trainer` does with the same loss. Random numbers are drawn by the
model's dropout alone, so that a resumed run continues with the random states that Trainer saves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from shudun.errors import ShudunError
from shudun_training.fgm import EmbeddingShift
from shudun_training.layer_groups import layer_groups
from shudun_training.losses import BatchLoss, MultiLabelLoss
from shudun_training.r_drop import RDropLoss, require_dropout, two_passes
from shudun_training.run_trainer import RunTrainer
from shudun_training.weight_average import WeightAverage


class RegularisedTrainer(RunTrainer):
    """Trainer for a `BatchLoss`; the options are those of `RegularisationConfig`, each off by default.

    Raises:
        ShudunError: R-Drop without dropout, or an option that cannot work with the way the model is distributed.
    """

    def __init__(
        self,
        *,
        loss: BatchLoss,
        r_drop_alpha: float = 0.0,
        fgm_epsilon: float = 0.0,
        layer_decay: float = 1.0,
        head_lr_factor: float = 1.0,
        ema_decay: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if r_drop_alpha and not isinstance(loss, MultiLabelLoss):
            raise ShudunError("regularisation.r_drop_alpha does not work with teachers; set it to 0")
        self._loss = RDropLoss(loss, r_drop_alpha) if isinstance(loss, MultiLabelLoss) and r_drop_alpha else loss
        super().__init__(compute_loss_func=self._loss, **kwargs)
        self._two_passes = r_drop_alpha > 0
        self._fgm_epsilon = fgm_epsilon
        self._layer_decay = layer_decay
        self._head_lr_factor = head_lr_factor
        self._resumed_from: Path | None = None
        self._average: WeightAverage | None = None
        if self._two_passes:
            require_dropout(cast("nn.Module", self.model))
        self._refuse_untold_parallelism(fgm=fgm_epsilon > 0, ema=ema_decay > 0)
        if ema_decay:
            self.add_callback(_Averaging(self, ema_decay))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; averaged weights need a path to resume from, not `True`."""
        self._resumed_from = Path(resume_from_checkpoint) if isinstance(resume_from_checkpoint, str) else None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Trainer's loss, of two passes where R-Drop is on and the model is in training."""
        both = self._two_passes and model.training
        return super().compute_loss(model, two_passes(inputs) if both else inputs, *args, **kwargs)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One forward and backward pass, or two with FGM: gradients and losses of both add up."""
        if not self._fgm_epsilon:
            return super().training_step(model, inputs, num_items_in_batch)
        embeddings = self.accelerator.unwrap_model(model).get_input_embeddings()
        shift = EmbeddingShift(embeddings, self._fgm_epsilon)
        # Processes exchange gradients once, after the second pass.
        with shift.record(), self.accelerator.no_sync(model):
            loss = super().training_step(model, inputs, num_items_in_batch)
        with shift.apply():
            return loss + super().training_step(model, inputs, num_items_in_batch)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's optimiser, with a learning rate for each layer where one is asked for."""
        if self._layer_decay == self._head_lr_factor == 1 or self.optimizer is not None:
            return super().create_optimizer(model)
        module: Any = self.model if model is None else model
        encoder = self.accelerator.unwrap_model(module)
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, module)
        groups = layer_groups(
            module.named_parameters(),
            base_prefix=encoder.base_model_prefix,
            num_layers=encoder.config.num_hidden_layers,
            learning_rate=self.args.learning_rate,
            layer_decay=self._layer_decay,
            head_lr_factor=self._head_lr_factor,
            weight_decay=self.args.weight_decay,
            decayed=self.get_decay_parameter_names(module),
        )
        self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure; the averaged weights during training, where there are any."""
        with self._averaged():
            return super().evaluate(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the averaged weights where there are any, and beside them the trained ones, to go on from."""
        with self._averaged():
            super().save_model(output_dir, _internal_call)
        if self._average is not None and output_dir is not None and self.args.should_save:
            self._average.save_trained(Path(output_dir))

    def start_average(self, decay: float) -> None:
        """Begin averaging with the weights that the model holds, or go on where a checkpoint stopped."""
        self._average = WeightAverage(cast("nn.Module", self.model), decay)
        if self._resumed_from is not None:
            self._average.load_trained(self._resumed_from)

    def update_average(self, step: int) -> None:
        """Take the weights after an optimiser step into the average."""
        if self._average is not None:
            self._average.update(step)

    def finish_average(self, *, best_is_loaded: bool) -> None:
        """End averaging; the model holds the weights of its best checkpoint, or the averaged ones."""
        if self._average is not None and not best_is_loaded:
            self._average.keep()
        self._average = None

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        if self._average is None:
            yield
        else:
            with self._average.applied():
                yield

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        # Trainer counts labels other than -100; what an item is depends on the loss.
        counted = [{**batch, "labels": self._loss.items(batch["labels"])} for batch in batch_samples]
        items: Tensor | int | None = super()._get_num_items_in_batch(counted, device)
        return items

    def _refuse_untold_parallelism(self, *, fgm: bool, ema: bool) -> None:
        if self.is_fsdp_enabled and (fgm or ema):
            raise ShudunError(
                "regularisation: fgm_epsilon and ema_decay do not work with FSDP; set both to 0, or use DDP"
            )
        if fgm and self.args.n_gpu > 1:
            raise ShudunError(
                f"regularisation.fgm_epsilon: one process with {self.args.n_gpu} GPUs; start one process for each "
                "with `accelerate launch -m shudun train ...`"
            )
        if fgm and self.args.torch_compile:
            raise ShudunError("regularisation.fgm_epsilon does not work with torch.compile; switch one of them off")


class _Averaging(TrainerCallback):
    """Calls the trainer at the moments at which an average begins, grows and ends."""

    def __init__(self, trainer: RegularisedTrainer, decay: float) -> None:
        self._trainer = trainer
        self._decay = decay

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        self._trainer.start_average(self._decay)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        self._trainer.update_average(state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        self._trainer.finish_average(best_is_loaded=state.best_model_checkpoint is not None)
