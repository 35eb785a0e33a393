"""The optimisers of a step: AdamW, and Muon for the matrices of the layers.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) takes the nearest orthogonal matrix of the momentum for
the update; its learning rate is on AdamW's scale (Liu et al. 2025, arXiv:2502.16982).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from shudun.errors import ShudunError
from shudun_training.pretraining.config import OptimizationConfig

LAYER = re.compile(r"\.layers?\.\d+\.")
"""Within the name of a parameter that belongs to a layer, not to embeddings or the output."""


class Optimizers:
    """AdamW and, where asked for, Muon as one: the same learning-rate factor for both."""

    def __init__(self, model: nn.Module, config: OptimizationConfig) -> None:
        self._all = _build(model, config)
        self._base = [[group["lr"] for group in optimizer.param_groups] for optimizer in self._all]

    def step(self, factor: float) -> None:
        """Update the weights at `factor` times the learning rates, and clear the gradients."""
        for optimizer, rates in zip(self._all, self._base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()

    def state(self) -> list[dict[str, Any]]:
        """Everything that going on needs, as plain values and tensors."""
        return [optimizer.state_dict() for optimizer in self._all]

    def load(self, states: Sequence[dict[str, Any]]) -> None:
        """Take over states of optimisers of the same kind.

        Raises:
            ShudunError: the states are of another kind or another model.
        """
        try:
            for optimizer, state in zip(self._all, states, strict=True):
                groups = [
                    {**saved, **_settings(own)}
                    for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
                ]
                optimizer.load_state_dict({**state, "param_groups": groups})
        except (ValueError, KeyError, TypeError) as error:
            raise ShudunError(f"the checkpoint's optimisers are not those of this configuration: {error}") from error


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    # A state brings the settings it was saved with; those of the configuration count.
    return {name: value for name, value in group.items() if name != "params"}


def _build(model: nn.Module, config: OptimizationConfig) -> list[torch.optim.Optimizer]:
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim != 2:
            plain.append(parameter)
        elif config.optimizer == "muon" and LAYER.search(name):
            matrices.append(parameter)
        else:
            decayed.append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), eps=1e-8, fused=True)
    if config.optimizer == "adamw":
        return [adamw]
    if not matrices:
        raise ShudunError("training.optimizer: muon finds no matrices of layers in this model; use adamw")
    muon = torch.optim.Muon(
        matrices,
        lr=config.matrix_learning_rate,
        momentum=0.95,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adamw, muon]
