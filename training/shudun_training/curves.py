"""The course of a training run as lines of JSON: losses, learning rate, gradient norm, speed, evaluation metrics.

Every line has `step`, `epoch`, `time` (UTC), `seconds` since the start and `train_seconds`, those of them that were
neither evaluation nor saving. Training lines add what Trainer logs and the speed since the line before; evaluation
lines add `eval_...`. A resumed run goes on where its checkpoint stands: no step is there twice.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from shudun_training.curve_lines import read_curves
from shudun_training.provenance import now

TIMES = ("_runtime", "_per_second")
"""Ends of the names of figures that say how long an evaluation took, which the times of the lines tell."""


class CurveWriter(TrainerCallback):
    """Appends a line to `path` at every log and evaluation, on the main process alone.

    Args:
        path: file of the curves; lines after the step that training starts from are dropped.
        rows: rows of an epoch, over all processes.
        tokens: real tokens (no padding) of these rows. Tokens between two lines are counted as rows of mean length,
            which is exact over whole epochs.
    """

    def __init__(self, path: Path, *, rows: int, tokens: int) -> None:
        self._path, self._rows, self._tokens = path, rows, tokens
        self._writes = False
        self._elapsed = self._paused = 0.0
        self._started = self._mark = 0.0
        self._last_epoch = self._last_train = 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Keep the lines up to the step that training starts from."""
        self._writes = state.is_world_process_zero
        self._started = self._mark = time.perf_counter()
        if not self._writes:
            return
        kept = _lines_until(self._path, state.global_step)
        self._elapsed = kept[-1]["seconds"] if kept else 0.0
        self._paused = self._elapsed - kept[-1]["train_seconds"] if kept else 0.0
        self._last_epoch, self._last_train = float(state.epoch or 0), self._elapsed - self._paused
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _replace(self._path, kept)

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Remember when training work ended, where an evaluation or a save may follow."""
        self._work_ended(control)

    def on_epoch_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """As at the end of a step."""
        self._work_ended(control)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Write a line for a loss; metrics come with `on_evaluate`."""
        if not self._writes or logs is None or "loss" not in logs:
            return
        self._mark = time.perf_counter()
        train = self._train_seconds(self._mark)
        epoch, busy = float(state.epoch or 0), train - self._last_train
        share = (epoch - self._last_epoch) / busy if busy > 0 else 0.0
        speed = {"rows_per_s": share * self._rows, "tokens_per_s": share * self._tokens}
        self._last_epoch, self._last_train = epoch, train
        self._write(state, {**_figures(logs, ("loss", "grad_norm", "learning_rate")), **speed})

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Write a line for an evaluation."""
        self._pause_ended()
        if self._writes:
            metrics = kwargs["metrics"]
            names = [name for name in metrics if name.startswith("eval_") and not name.endswith(TIMES)]
            self._write(state, _figures(metrics, names))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Leave the time of a save out of the speed."""
        self._pause_ended()

    def _work_ended(self, control: TrainerControl) -> None:
        if (control.should_evaluate or control.should_save) and torch.cuda.is_available():
            torch.cuda.synchronize()  # or the rest of the training work would count as evaluation
        self._mark = time.perf_counter()

    def _pause_ended(self) -> None:
        ended = time.perf_counter()
        self._paused += ended - self._mark
        self._mark = ended

    def _train_seconds(self, at: float) -> float:
        return self._elapsed + at - self._started - self._paused

    def _write(self, state: TrainerState, figures: dict[str, float | None]) -> None:
        line = {
            "step": state.global_step,
            "epoch": state.epoch,
            "time": now(),
            "seconds": self._elapsed + self._mark - self._started,
            "train_seconds": self._train_seconds(self._mark),
            **figures,
        }
        # Closed after each line: whoever watches the run, or finds it killed, sees all of it.
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")


def _figures(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, float | None]:
    """Chosen figures as JSON has them: what is not finite becomes null."""
    found = {name: float(values[name]) for name in names if name in values}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def _lines_until(path: Path, step: int) -> list[dict[str, Any]]:
    if step == 0 or not path.exists():
        return []
    return [line for line in read_curves(path) if line["step"] <= step]


def _replace(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    temporary.replace(path)
