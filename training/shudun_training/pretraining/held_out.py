"""How well held-out texts are guessed: the same rows under the same masks, whenever and by how many it is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from shudun_training.pretraining.batches import Vocabulary, masked_batches
from shudun_training.pretraining.config import MaskingConfig
from shudun_training.pretraining.objective import Batch, Objective
from shudun_training.pretraining.packing import packed_rows, plan_epoch
from shudun_training.pretraining.token_store import TokenStore

BLOCK_ROWS = 32
"""Rows that are masked and computed together."""


class HeldOut:
    """The held-out texts of a run, for one of several processes."""

    def __init__(
        self,
        store: TokenStore,
        masking: MaskingConfig,
        vocabulary: Vocabulary,
        *,
        row_tokens: int,
        seed: int,
        rank: int,
        world: int,
    ) -> None:
        """`rank` of `world` processes takes every `world`-th block of rows."""
        self._store, self._masking, self._vocabulary = store, masking, vocabulary
        self._row_tokens, self._seed = row_tokens, seed
        self._plan = plan_epoch(store.lengths, row_tokens, seed=seed, epoch=0)
        self._mine = range(rank * BLOCK_ROWS, self._plan.rows, world * BLOCK_ROWS)

    def measure(self, objective: Objective, device: torch.device, add: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Mean loss of the masked tokens in nats, and its exponential; nothing where no token is masked.

        Args:
            objective: the model as it learns.
            device: where it is.
            add: sums a tensor over all processes.
        """
        objective.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        with torch.inference_mode():
            for batch in self._batches():
                masked, _ = objective(batch.to(device))
                sums += torch.stack([masked.double() * batch.chosen_in_step, sums.new_tensor(batch.chosen_in_step)])
        objective.train()
        total, count = add(sums).tolist()
        if not count:
            return {}
        return {"held_out": total / count, "perplexity": math.exp(min(total / count, 700.0))}

    def _batches(self) -> Iterator[Batch]:
        for first in self._mine:
            last = min(first + BLOCK_ROWS, self._plan.rows)
            packed = packed_rows(self._store, self._plan, first, last, self._row_tokens)
            rng = np.random.default_rng((self._seed, 3, first))
            yield from masked_batches(packed, self._masking, self._vocabulary, rng, range(1), 1)
