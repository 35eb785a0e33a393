"""The loss of a student: teachers' soft targets, known labels and hidden states, each cell counted once.

A cell (row and label) with label and teacher learns `alpha` from the label and the rest from the teacher; a cell with
one of the two learns from that alone; others carry nothing. All parts are divided by the number of cells that carry
something, so accumulated and distributed batches equal one big batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from shudun_training.examples import UNKNOWN

TAUGHT = -1
"""Label value of a cell without a label for which a teacher speaks; anything but `UNKNOWN` is counted by Trainer."""

TEACHER_LOGITS, HIDDEN_LOSS = "teacher_logits", "hidden_loss"
"""Names under which a model's outputs hold the teachers' logits `(batch, num_labels)`, NaN where they are silent, and
each row's loss over hidden states `(batch,)`."""

LabelLoss: TypeAlias = Callable[[Any, Tensor, Tensor | int | None], Tensor]


def taught_labels(labels: Tensor, teacher_logits: Tensor) -> Tensor:
    """Labels in which cells that only a teacher speaks for are `TAUGHT`; both `(batch, num_labels)`."""
    return torch.where((labels == UNKNOWN) & ~teacher_logits.isnan(), TAUGHT, labels)


def bernoulli_kl(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL divergence from teacher to student at a temperature, times its square, cell by cell.

    Softened probabilities as in Hinton et al. 2015, one Bernoulli variable per label; the square keeps gradients at the
    scale of the labels' (ibid., section 2). Zero, with zero gradient, where the logits agree.
    """
    student, teacher = logits / temperature, teacher_logits / temperature
    positive = functional.logsigmoid(teacher) - functional.logsigmoid(student)
    negative = functional.logsigmoid(-teacher) - functional.logsigmoid(-student)
    chance = torch.sigmoid(teacher)
    return temperature**2 * (chance * positive + (1 - chance) * negative)


class DistillationLoss:
    """As Trainer's `compute_loss_func`; where no teacher speaks, as in evaluation, the loss of the labels alone."""

    def __init__(self, label_loss: LabelLoss, *, temperature: float, alpha: float, hidden_weight: float = 0.0) -> None:
        """`label_loss(outputs, labels, num_items_in_batch)`: a sum over known labels, divided by what it is given."""
        self.label_loss = label_loss
        self.temperature = temperature
        self.alpha = alpha
        self.hidden_weight = hidden_weight

    def items(self, labels: Tensor) -> Tensor:
        """Cells that carry something: known labels, and those that a teacher speaks for."""
        return labels

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of one batch; `labels` `(batch, num_labels)` as `taught_labels` gives them."""
        teacher = outputs.get(TEACHER_LOGITS)
        if teacher is None:
            return self.label_loss(outputs, labels, num_items_in_batch)
        counted = labels != UNKNOWN
        count = counted.sum() if num_items_in_batch is None else num_items_in_batch
        count = torch.clamp(torch.as_tensor(count, device=labels.device), min=1)
        known, spoken = labels >= 0, ~teacher.isnan()
        total = self._soft(outputs["logits"].float(), teacher.float(), known, spoken) / count
        total = total + self.alpha * self.label_loss(outputs, torch.where(known & spoken, labels, UNKNOWN), count)
        total = total + self.label_loss(outputs, torch.where(known & ~spoken, labels, UNKNOWN), count)
        if self.hidden_weight:
            total = total + self.hidden_weight * (outputs[HIDDEN_LOSS].float() * counted.sum(dim=1)).sum() / count
        return total

    def _soft(self, logits: Tensor, teacher: Tensor, known: Tensor, spoken: Tensor) -> Tensor:
        # Replaced before the loss: a mask after it alone would let NaN into the gradient.
        losses = bernoulli_kl(torch.where(spoken, logits, 0.0), torch.where(spoken, teacher, 0.0), self.temperature)
        return (losses * torch.where(known, 1 - self.alpha, 1.0)).sum()
