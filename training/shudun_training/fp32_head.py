"""The classification head in float32 inside mixed precision.

Logits in bfloat16 keep 8 bits: rows that differ get the same score, average precision falls, and the best checkpoint
is chosen by rounding. The head is one small product, so float32 costs nothing there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from shudun.errors import ShudunError


class Fp32Linear(nn.Linear):
    """A linear layer that autocast leaves alone."""

    def forward(self, features: Tensor) -> Tensor:
        """Float32 outputs of features of any precision."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


def keep_head_fp32(model: PreTrainedModel) -> None:
    """Have the layer that gives the logits computed in float32 whatever autocast says; weights stay as they are.

    Raises:
        ShudunError: the model has no linear layer with an output for each label.
    """
    # Its class, not its `forward`: a copy of the model, as averaging makes one, must use its own weights.
    _head(model).__class__ = Fp32Linear


def _head(model: PreTrainedModel) -> nn.Linear:
    labels = model.config.num_labels
    for module in reversed(list(model.modules())):
        if isinstance(module, nn.Linear) and module.out_features == labels:
            return module
    raise ShudunError(f"{type(model).__name__}: no linear layer with {labels} outputs, one for each label")
