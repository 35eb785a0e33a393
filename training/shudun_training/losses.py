"""Masked binary cross-entropy: unknown labels contribute neither loss nor gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from shudun_training.examples import NEGATIVE, POSITIVE, UNKNOWN


def masked_bce(
    logits: Tensor, labels: Tensor, *, pos_weight: Tensor | None = None, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Mean binary cross-entropy over known labels.

    Args:
        logits: float `(batch, num_labels)`.
        labels: `POSITIVE`, `NEGATIVE` or `UNKNOWN`, `(batch, num_labels)`.
        pos_weight: weight of positives, `(num_labels,)`.
        num_items_in_batch: known labels of the whole accumulated batch, which divides the sum; by default
            those of this batch. All labels unknown gives 0.
    """
    known = labels != UNKNOWN
    # Unknown cells are replaced before the loss: a mask after it alone would let 0 * inf and 0 * NaN through.
    targets = torch.where(known, labels, NEGATIVE).to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(
        torch.where(known, logits, 0.0), targets, pos_weight=pos_weight, reduction="none"
    )
    total = torch.where(known, losses, 0.0).sum()
    count = known.sum() if num_items_in_batch is None else num_items_in_batch
    return total / torch.clamp(torch.as_tensor(count, device=total.device), min=1)


class MaskedBce:
    """`masked_bce` in the form of Trainer's `compute_loss_func`."""

    def __init__(self, pos_weight: Tensor | None = None) -> None:
        self.pos_weight = pos_weight

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of one batch from the model's outputs."""
        logits = outputs["logits"].float()
        weight = None if self.pos_weight is None else self.pos_weight.to(logits.device)
        return masked_bce(logits, labels, pos_weight=weight, num_items_in_batch=num_items_in_batch)


def balanced_pos_weight(labels: NDArray[np.int64], *, cap: float) -> Tensor:
    """Negatives per positive of each label, between 1 and `cap`; 1 for a label without positives."""
    positives = (labels == POSITIVE).sum(axis=0)
    negatives = (labels == NEGATIVE).sum(axis=0)
    ratio = np.where(positives > 0, negatives / np.maximum(positives, 1), 1.0)
    return torch.tensor(np.clip(ratio, 1.0, cap), dtype=torch.float32)
