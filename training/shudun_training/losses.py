"""Multi-label losses over known labels: unknown ones contribute neither loss nor gradient, whatever their logits.

A loss is a sum over its items, divided by the items of the whole accumulated batch, so that micro-batches of any sizes
and processes add up to one big batch. Items are known labels, or rows with a known label; each loss says which.
Knows nothing of models or configurations; the other losses stand in `imbalance_losses`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from shudun_training.examples import NEGATIVE, POSITIVE, UNKNOWN


class BatchLoss(Protocol):
    """What training asks of a loss: its value over a batch, and what its sum is divided by."""

    def items(self, labels: Tensor) -> Tensor:
        """As of `MultiLabelLoss`."""

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of one batch from the model's outputs."""


class MultiLabelLoss(ABC):
    """A loss in the form of Trainer's `compute_loss_func`."""

    @abstractmethod
    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum of the loss over the items of a batch, a scalar.

        Args:
            logits: float `(batch, num_labels)`.
            labels: `POSITIVE`, `NEGATIVE` or `UNKNOWN`, `(batch, num_labels)`.
        """

    def items(self, labels: Tensor) -> Tensor:
        """What the sum is divided by: each entry of the result that is not `UNKNOWN` is one item."""
        return labels

    def mean(self, total: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """A sum over the items of this batch, divided by those of the whole accumulated batch.

        `num_items_in_batch`: by default the items of this batch. Without any item the mean is 0.
        """
        count = (self.items(labels) != UNKNOWN).sum() if num_items_in_batch is None else num_items_in_batch
        return total / torch.clamp(torch.as_tensor(count, device=total.device), min=1)

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of one batch from the model's outputs, in single precision."""
        return self.mean(self.total(outputs["logits"].float(), labels), labels, num_items_in_batch)


class CellLoss(MultiLabelLoss):
    """A loss that is a sum over cells (a row and a label); the items are the known cells."""

    @abstractmethod
    def cells(self, logits: Tensor, positive: Tensor) -> Tensor:
        """The loss of each cell `(batch, num_labels)`; `positive` is boolean, unknown cells count as negative."""

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum over known cells."""
        known = labels != UNKNOWN
        # Unknown cells are replaced before the loss: a mask after it alone would let 0 * inf and 0 * NaN through.
        losses = self.cells(torch.where(known, logits, 0.0), labels == POSITIVE)
        return torch.where(known, losses, 0.0).sum()


class MaskedBce(CellLoss):
    """Binary cross-entropy, -w log p of a positive and -log(1 - p) of a negative; `pos_weight` w: `(num_labels,)`."""

    def __init__(self, pos_weight: Tensor | None = None) -> None:
        self.pos_weight = pos_weight

    def cells(self, logits: Tensor, positive: Tensor) -> Tensor:
        """The loss of each cell."""
        weight = None if self.pos_weight is None else self.pos_weight.to(logits.device)
        return functional.binary_cross_entropy_with_logits(
            logits, positive.to(logits.dtype), pos_weight=weight, reduction="none"
        )


def masked_bce(
    logits: Tensor, labels: Tensor, *, pos_weight: Tensor | None = None, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Mean binary cross-entropy over known labels, of `MaskedBce`, in the precision of the logits."""
    loss = MaskedBce(pos_weight)
    return loss.mean(loss.total(logits, labels), labels, num_items_in_batch)


def balanced_pos_weight(labels: NDArray[np.int64], *, cap: float) -> Tensor:
    """Negatives per positive of each label, between 1 and `cap`; 1 for a label without positives."""
    positives = (labels == POSITIVE).sum(axis=0)
    negatives = (labels == NEGATIVE).sum(axis=0)
    ratio = np.where(positives > 0, negatives / np.maximum(positives, 1), 1.0)
    return torch.tensor(np.clip(ratio, 1.0, cap), dtype=torch.float32)
