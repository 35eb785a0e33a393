"""From tokenised rows to one padded batch; knows the form of `training_rows`, and nothing of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class Collator:
    """Pads a list of rows to the longest of them; the result holds int64 tensors `(batch, seq_len)`.

    A GPU takes tens of thousands of rows a second: a batch is filled at once, not row by row.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows with `input_ids`, `token_type_ids` and `labels`."""
        lengths = np.array([len(row["input_ids"]) for row in rows])
        real = np.arange(lengths.max()) < lengths[:, None]
        batch = {
            "input_ids": _filled(rows, "input_ids", real, self.pad_id),
            "attention_mask": real.astype(np.int64),
            "token_type_ids": _filled(rows, "token_type_ids", real, 0),
            "labels": np.array([row["labels"] for row in rows]),
        }
        return {name: torch.from_numpy(array) for name, array in batch.items()}


def _filled(rows: Sequence[Mapping[str, Any]], name: str, real: NDArray[np.bool_], fill: int) -> NDArray[np.int64]:
    """Values of the rows where `real` `(batch, seq_len)` says so, `fill` behind them."""
    flat = np.fromiter(chain.from_iterable(row[name] for row in rows), dtype=np.int64, count=int(real.sum()))
    array = np.full(real.shape, fill, dtype=np.int64)
    array[real] = flat
    return array
