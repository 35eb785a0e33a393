"""R-Drop: two passes of a row under different dropout must agree. Knows nothing of the trainer or the task loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from shudun.errors import ShudunError
from shudun_training.examples import UNKNOWN
from shudun_training.losses import MultiLabelLoss


class RDropLoss(MultiLabelLoss):
    """Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks" (arXiv:2106.14448), for several labels.

    With logits a and b of two passes: (loss(a) + loss(b)) / 2 + alpha (KL(P_a || P_b) + KL(P_b || P_a)) / 2. The paper
    sums the two losses; halved, as in its published code, alpha = 0 is training without R-Drop. P is the joint
    distribution of a row's known labels, independent Bernoulli variables with p = sigmoid(z): the two divergences add
    up to the sum over known labels of (p_a - p_b)(a - b). It is divided by the items of the task loss, so that both
    are means over the same: per known label, or per row.
    """

    def __init__(self, loss: MultiLabelLoss, alpha: float) -> None:
        self.loss = loss
        self.alpha = alpha

    def items(self, labels: Tensor) -> Tensor:
        """The items of the task loss."""
        return self.loss.items(labels)

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum over the items; `logits` `(2 * batch, num_labels)` hold two passes, `(batch, num_labels)` one."""
        if len(logits) == len(labels):
            return self.loss.total(logits, labels)
        first, second = logits.chunk(2)
        task = (self.loss.total(first, labels) + self.loss.total(second, labels)) / 2
        return task + self.alpha * symmetric_divergence(first, second, labels)


def symmetric_divergence(first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """(KL(P || Q) + KL(Q || P)) / 2, summed over known labels; logits and labels `(batch, num_labels)`."""
    known = labels != UNKNOWN
    a, b = torch.where(known, first, 0.0), torch.where(known, second, 0.0)
    return ((torch.sigmoid(a) - torch.sigmoid(b)) * (a - b)).sum() / 2


def two_passes(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A batch twice in a row, but its labels once: one pass of the model then draws two dropout masks for each row."""
    return {name: value if name == "labels" else torch.cat([value, value]) for name, value in inputs.items()}


def require_dropout(model: nn.Module) -> None:
    """Check that two passes can differ.

    Raises:
        ShudunError: the model has no dropout.
    """
    if not any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        raise ShudunError(
            "regularisation.r_drop_alpha: the model has no dropout, so both passes are the same; "
            "give it dropout, or set r_drop_alpha to 0"
        )
