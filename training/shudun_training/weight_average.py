"""An exponential moving average of weights over optimiser steps, beside the weights that are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from shudun.errors import ShudunError

TRAINED_WEIGHTS = "trained_weights.safetensors"
"""In a Trainer checkpoint, beside `model.safetensors`, which holds the averaged weights."""


class WeightAverage:
    """The average of a model's parameters, on their devices; buffers are not averaged.

    average <- d average + (1 - d) weights, with d = min(decay, (1 + t) / (10 + t)) at step t = 1, 2, ...: the average
    does not stay near the first weights when a run is short. The update is that of `torch.optim.swa_utils`, whose
    `AveragedModel` has a fixed decay and a second copy of the whole model.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = dict(model.named_parameters())
        self._averages = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._decay = decay

    def update(self, step: int) -> None:
        """Take the weights after optimiser step `step`, counted from 1, into the average."""
        decay = min(self._decay, (1 + step) / (10 + step))
        weights = [parameter.detach() for parameter in self._parameters.values()]
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(list(self._averages.values()), weights, None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averaged weights inside, and bit for bit its own again afterwards."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def keep(self) -> None:
        """Leave the averaged weights in the model."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self._averages[name])

    def save_trained(self, folder: Path) -> None:
        """Write the weights that are trained, for `load_trained`."""
        save_file({name: x.detach().contiguous() for name, x in self._parameters.items()}, folder / TRAINED_WEIGHTS)

    @torch.no_grad()
    def load_trained(self, folder: Path) -> None:
        """Put the trained weights of a checkpoint back into the model; the average stays.

        Raises:
            ShudunError: the checkpoint holds none, or they do not fit.
        """
        try:
            saved = load_file(folder / TRAINED_WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise ShudunError(f"{folder / TRAINED_WEIGHTS}: cannot go on without it ({error}); start again") from error
        if saved.keys() != self._parameters.keys():
            raise ShudunError(f"{folder / TRAINED_WEIGHTS}: weights of another model; start again")
        for name, parameter in self._parameters.items():
            parameter.copy_(saved[name])

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            trained = parameter.clone()
            parameter.copy_(self._averages[name])
            self._averages[name].copy_(trained)
