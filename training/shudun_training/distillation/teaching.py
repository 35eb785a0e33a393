"""What `fit` needs to teach a student: rows with the teachers' logits, the loss, and the hooks on the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from shudun_training.distillation.hidden_states import InnerTeacher, Lesson
from shudun_training.distillation.packed_rows import PackedRows
from shudun_training.distillation.soft_targets import DistillationLoss, LabelLoss
from shudun_training.distillation.taught_rows import Collate, TaughtCollator, TaughtRows


@dataclass(frozen=True, slots=True)
class Teaching:
    """The teachers' part in a fit.

    `logits`: float32 `(n, num_labels)` of the `n` rows of an epoch that are labelled, NaN where the teachers are
    silent; `unlabelled`: further rows, which only the teachers speak for.
    """

    logits: NDArray[np.float32]
    unlabelled: PackedRows | None
    temperature: float
    alpha: float
    hidden_weight: float = 0.0
    inner: InnerTeacher | None = None

    def rows(self, labelled: Any) -> TaughtRows:
        """All rows of an epoch, from the labelled ones as `fit` tokenises them."""
        return TaughtRows(labelled, self.logits, self.unlabelled)

    def collator(self, collate: Collate) -> TaughtCollator:
        """A collator of these rows, from that of labelled rows."""
        return TaughtCollator(collate)

    def loss(self, label_loss: LabelLoss) -> DistillationLoss:
        """The loss of these rows, from that of labels."""
        return DistillationLoss(
            label_loss, temperature=self.temperature, alpha=self.alpha, hidden_weight=self.hidden_weight
        )

    def attach(self, student: PreTrainedModel) -> Lesson:
        """Hooks that hand the teachers' logits on; `detach` them before the student is saved."""
        lesson = Lesson(self.inner if self.hidden_weight else None)
        lesson.attach(student)
        return lesson


def applicable_only(logits: NDArray[np.float32], applicable: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Logits with NaN at labels that do not apply to the row's kind; all `(n, num_labels)`."""
    return np.where(applicable, logits, np.float32(np.nan))
