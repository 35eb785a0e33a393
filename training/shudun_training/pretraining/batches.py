"""The rows of each step, with their masks, as batches; everything random depends on the seed and the step alone.

A step's rows are drawn and masked as a whole and then divided, so that their union and every mask are the same
whatever the number of processes and parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from shudun.errors import ShudunError
from shudun_training.pretraining.config import MaskingConfig
from shudun_training.pretraining.masking import mask
from shudun_training.pretraining.objective import Batch
from shudun_training.pretraining.packing import Packed, Plan, packed_rows, plan_epoch
from shudun_training.pretraining.token_store import TokenStore


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ids that masking needs: bool `special` `(vocab_size,)`, ids that are left alone; `mask_id`; `cls_id`."""

    special: NDArray[np.bool_]
    mask_id: int
    cls_id: int


class StepRows:
    """The packed rows of each step, over as many epochs as it takes.

    The rows at the end of an epoch that do not fill a step are left out; the next epoch has another order.
    """

    def __init__(self, store: TokenStore, *, row_tokens: int, rows_per_step: int, seed: int) -> None:
        """Plan the first epoch.

        Raises:
            ShudunError: the texts do not fill one step.
        """
        self._store, self._row_tokens, self._rows, self._seed = store, row_tokens, rows_per_step, seed
        self._plans: dict[int, Plan] = {}
        rows = self._plan(0).rows
        self.steps_per_epoch = rows // rows_per_step
        if not self.steps_per_epoch:
            raise ShudunError(
                f"the texts fill {rows} rows of {row_tokens} tokens, a step takes {rows_per_step}: "
                "lower training.rows_per_step or training.row_tokens, or give more texts"
            )

    def __call__(self, step: int) -> Packed:
        """The rows of a step (0-based)."""
        epoch, at = divmod(step, self.steps_per_epoch)
        first = at * self._rows
        return packed_rows(self._store, self._plan(epoch), first, first + self._rows, self._row_tokens)

    def _plan(self, epoch: int) -> Plan:
        if epoch not in self._plans:
            self._plans = {epoch: plan_epoch(self._store.lengths, self._row_tokens, seed=self._seed, epoch=epoch)}
        return self._plans[epoch]


@dataclass(frozen=True, slots=True)
class StepBatches:
    """What one process computes in a step: `parts` one after another; `tokens` counts those of all processes."""

    step: int
    parts: list[Batch]
    tokens: int


class Batches:
    """Makes the batches of each step for one of several processes."""

    def __init__(
        self,
        rows: StepRows,
        masking: MaskingConfig,
        vocabulary: Vocabulary,
        *,
        seed: int,
        parts: int,
        rank: int,
        world: int,
    ) -> None:
        """`parts`: batches of each process in a step; `rank` of `world` processes."""
        self._rows, self._masking, self._vocabulary, self._seed = rows, masking, vocabulary, seed
        self._parts = range(rank * parts, (rank + 1) * parts)
        self._of = parts * world

    def __call__(self, step: int) -> StepBatches:
        """The batches of a step (0-based)."""
        packed = self._rows(step)
        rng = np.random.default_rng((self._seed, 1, step))
        parts = masked_batches(packed, self._masking, self._vocabulary, rng, self._parts, self._of)
        return StepBatches(step, parts, int((packed.piece >= 0).sum()))

    def ahead(self, first: int, last: int) -> Iterator[StepBatches]:
        """The batches of steps `first` to `last` (exclusive), each made while the one before is computed."""
        with ThreadPoolExecutor(1, "batches") as pool:
            coming = pool.submit(self, first) if first < last else None
            for step in range(first, last):
                ready = coming.result() if coming else self(step)
                coming = pool.submit(self, step + 1) if step + 1 < last else None
                yield ready


def masked_batches(
    packed: Packed,
    masking: MaskingConfig,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    parts: range,
    of: int,
) -> list[Batch]:
    """Mask rows as a whole, divide them into `of` blocks, and make batches of the blocks in `parts`."""
    special = vocabulary.special
    masked = mask(packed, unit=masking.unit, share=masking.share, special=special, mask_id=vocabulary.mask_id, rng=rng)
    starts_text = (packed.input_ids == vocabulary.cls_id) & (packed.piece >= 0)
    blocks = np.array_split(np.arange(len(packed.piece)), of)
    totals = {"chosen_in_step": int(masked.chosen.sum()), "texts_in_step": int(starts_text.sum())}
    return [
        _batch(packed, masked.input_ids, masked.chosen, starts_text, special, slice(block[0], block[-1] + 1), totals)
        for block in (blocks[part] for part in parts)
    ]


def _batch(
    packed: Packed,
    input_ids: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    starts_text: NDArray[np.bool_],
    special: NDArray[np.bool_],
    block: slice,
    totals: dict[str, int],
) -> Batch:
    tensor = torch.from_numpy
    original, piece = packed.input_ids[block], packed.piece[block]
    chosen_at, bag_at = np.nonzero(chosen[block]), np.nonzero(starts_text[block])
    text, token = _distinct_tokens(original, piece, piece[bag_at], special)
    return Batch(
        input_ids=tensor(input_ids[block]),
        position_ids=tensor(packed.position_ids[block]),
        token_type_ids=tensor(packed.token_type_ids[block]),
        piece=tensor(piece),
        chosen_rows=tensor(chosen_at[0]),
        chosen_columns=tensor(chosen_at[1]),
        target_ids=tensor(original[chosen_at]),
        bag_rows=tensor(bag_at[0]),
        bag_columns=tensor(bag_at[1]),
        bag_text=tensor(text),
        bag_token=tensor(token),
        **totals,
    )


def _distinct_tokens(
    ids: NDArray[np.int64], piece: NDArray[np.int64], texts: NDArray[np.int64], special: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of text and distinct ordinary token; `texts` are the pieces with a [CLS], numbered in their order."""
    number = np.full(piece.max() + 1, -1)
    number[texts] = np.arange(len(texts))
    ordinary = ~special[ids] & (piece >= 0)
    text, token = number[piece[ordinary]], ids[ordinary]
    pairs = np.unique(text[text >= 0] * len(special) + token[text >= 0])
    return pairs // len(special), pairs % len(special)
