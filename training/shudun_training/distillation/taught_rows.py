"""The rows a student is trained on, with what the teachers say of each.

Labelled rows as in any training, and packed unlabelled ones behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shudun_training.distillation.packed_rows import PackedRows
from shudun_training.distillation.soft_targets import TEACHER_LOGITS, taught_labels
from shudun_training.examples import UNKNOWN
from shudun_training.training_rows import AugmentedRows, row_lengths

Collate: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]


class TaughtRows(torch.utils.data.Dataset[dict[str, Any]]):
    """Labelled rows first, then unlabelled ones; `set_epoch` is passed on to rows that are disguised anew."""

    def __init__(self, labelled: Any, logits: NDArray[np.float32], unlabelled: PackedRows | None) -> None:
        """`labelled`: rows with `__getitems__`; `logits`: the teachers', `(len(labelled), num_labels)`."""
        if len(labelled) != len(logits):
            raise ValueError(f"expected teachers' logits of {len(labelled)} rows, got {len(logits)}")
        self._labelled = labelled
        self._logits = logits
        self._unlabelled = unlabelled
        self._unknown = [UNKNOWN] * logits.shape[1]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose texts are given from now on."""
        if isinstance(self._labelled, AugmentedRows):
            self._labelled.set_epoch(epoch)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row `(n,)`, special tokens included."""
        labelled = row_lengths(self._labelled)
        return labelled if self._unlabelled is None else np.concatenate([labelled, self._unlabelled.lengths])

    def __len__(self) -> int:
        return len(self._logits) + (0 if self._unlabelled is None else len(self._unlabelled))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Rows with `input_ids`, `token_type_ids`, `labels` and `teacher_logits`; torch fetches a batch at once."""
        labelled = [index for index in indices if index < len(self._logits)]
        ready = iter(self._labelled.__getitems__(labelled) if labelled else [])
        return [
            {**next(ready), TEACHER_LOGITS: self._logits[index]} if index < len(self._logits) else self._packed(index)
            for index in indices
        ]

    def _packed(self, index: int) -> dict[str, Any]:
        if self._unlabelled is None:
            raise IndexError(index)
        ids, first, logits = self._unlabelled[index - len(self._logits)]
        types = np.zeros(len(ids), dtype=np.int64)
        types[first:] = 1
        return {"input_ids": ids, "token_type_ids": types, "labels": self._unknown, TEACHER_LOGITS: logits}


class TaughtCollator:
    """Adds the teachers' logits to what another collator makes; rows without them, as in evaluation, pass."""

    def __init__(self, collate: Collate) -> None:
        self._collate = collate

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Collate rows; `teacher_logits` become float32 `(batch, num_labels)`."""
        batch = self._collate(rows)
        if TEACHER_LOGITS in rows[0]:
            batch[TEACHER_LOGITS] = torch.from_numpy(np.stack([row[TEACHER_LOGITS] for row in rows]))
            batch["labels"] = taught_labels(batch["labels"], batch[TEACHER_LOGITS])
        return batch
