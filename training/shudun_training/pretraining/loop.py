"""The loop on one screen: batches in, weights out, with checkpoints from which it goes on to the same bits.

One process, or several that each take their part of every step's rows; a step's losses are means over all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from shudun.errors import ShudunError
from shudun_training.pretraining.batches import Batches, StepBatches
from shudun_training.pretraining.checkpointing import Checkpoints, Progress
from shudun_training.pretraining.config import OptimizationConfig
from shudun_training.pretraining.held_out import HeldOut
from shudun_training.pretraining.models import save_model
from shudun_training.pretraining.objective import Objective
from shudun_training.pretraining.optimizers import Optimizers
from shudun_training.pretraining.reporting import Curve, Meter
from shudun_training.pretraining.run_state import schedule_of


@dataclass(frozen=True, slots=True)
class Learner:
    """What learns: the objective as it is and as it is distributed, its optimisers, and how."""

    objective: Objective
    distributed: Any
    optimizers: Optimizers
    accelerator: Accelerator
    config: OptimizationConfig
    bag_weight: float

    def step(self, batches: StepBatches, factor: float, meter: Meter) -> Tensor:
        """One step of optimisation; returns the norm of the gradients before they are clipped."""
        config, device = self.config, self.accelerator.device
        # Dropout depends on the step alone, so that a resumed run draws what an undisturbed one draws.
        seed = np.random.SeedSequence((config.seed, 2, batches.step, self.accelerator.process_index))
        torch.manual_seed(int(seed.generate_state(1)[0]))
        for number, part in enumerate(batches.parts, start=1):
            last = number == len(batches.parts)
            with nullcontext() if last else self.accelerator.no_sync(self.distributed):
                with self.autocast():
                    masked, bag = self.distributed(part.to(device))
                # Gradients are averaged over processes, the losses are shares of the whole step's.
                ((masked + self.bag_weight * bag) * self.accelerator.num_processes).backward()
            meter.add(masked, bag)
        norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), config.max_grad_norm)
        self.optimizers.step(factor)
        meter.end_step(batches.tokens)
        return norm

    def autocast(self) -> torch.autocast:
        """The arithmetic of the activations."""
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def add(self, value: Tensor) -> Tensor:
        """Sum a tensor over all processes."""
        total: Tensor = self.accelerator.reduce(value, "sum")
        return total


def learn(
    learner: Learner,
    batches: Batches,
    held_out: HeldOut,
    *,
    start: Progress,
    measure_every: int | None,
    checkpoints: Checkpoints,
    curve: Curve,
) -> tuple[Progress, dict[str, float]]:
    """Learn from step `start.step` to the last; returns how far it came and the held-out figures of the end.

    Raises:
        ShudunError: the gradients are not finite, or a checkpoint cannot be written; the last good one is named.
    """
    config, schedule = learner.config, schedule_of(learner.config)
    began, tokens = time.perf_counter(), start.tokens
    meter = Meter(learner.accelerator.device)
    for current in batches.ahead(start.step, config.steps):
        factor, done = schedule.factor(current.step), current.step + 1
        norm = learner.step(current, factor, meter)
        if not torch.isfinite(norm):
            raise _diverged(done, f"gradients are not finite (norm {norm.item()})", checkpoints)
        tokens += current.tokens
        progress = replace(start, step=done, tokens=tokens, seconds=start.seconds + time.perf_counter() - began)
        curve.advance()
        if done % config.logging_steps == 0 or done == config.steps:
            curve.write(_means(learner, meter, progress, factor))
        if _due(done, config):
            _save(learner, checkpoints, progress)
        if measure_every and done % measure_every == 0 and done < config.steps:
            _measure(learner, held_out, done, curve)
    figures = _measure(learner, held_out, config.steps, curve)
    seconds = start.seconds + time.perf_counter() - began
    return replace(start, step=config.steps, tokens=tokens, seconds=seconds), figures


def kept_step(config: OptimizationConfig) -> int:
    """The step whose checkpoint is kept for good: from there the run can still be prolonged."""
    return config.steps - config.decay_steps


def _due(done: int, config: OptimizationConfig) -> bool:
    return done % config.save_steps == 0 or done in {kept_step(config), config.steps}


def _save(learner: Learner, checkpoints: Checkpoints, progress: Progress) -> None:
    model = learner.objective.model
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise _diverged(progress.step, "weights are not finite", checkpoints)
    if learner.accelerator.is_main_process:
        checkpoints.save(progress, _saving(model), learner.optimizers.state())
    learner.accelerator.wait_for_everyone()


def _saving(model: Any) -> Callable[[Path], None]:
    return lambda folder: save_model(model, folder)


def _measure(learner: Learner, held_out: HeldOut, step: int, curve: Curve) -> dict[str, float]:
    with learner.autocast():
        figures = held_out.measure(learner.objective, learner.accelerator.device, learner.add)
    if figures:
        curve.write({"step": step, **figures})
    return figures


def _means(learner: Learner, meter: Meter, progress: Progress, factor: float) -> dict[str, Any]:
    masked, bag = (learner.add(meter.sums) / meter.steps).tolist()
    entry = {
        "step": progress.step,
        "masked": masked,
        "bag": bag,
        "lr": factor,
        "tokens": progress.tokens,
        "tokens_per_s": meter.tokens / meter.seconds,
    }
    meter.reset()
    return entry


def _diverged(step: int, what: str, checkpoints: Checkpoints) -> ShudunError:
    good = checkpoints.last_good()
    kept = f"the last good checkpoint is {good}" if good else "no checkpoint was written yet"
    return ShudunError(
        f"step {step:,}: the {what}, training diverged; {kept}. "
        "Lower training.learning_rate and training.matrix_learning_rate, or lengthen training.warmup_steps"
    )
