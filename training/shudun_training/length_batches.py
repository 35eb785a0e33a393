"""Which rows form a batch: rows of like length, each row exactly once in an epoch, on any number of processes.

Batches depend on lengths, seed and epoch alone, never on a global random state: a resumed run and each process of a
distributed one arrive at the same. Knows nothing of tokens, tensors or devices.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from shudun.errors import ShudunError

NOISE = 0.05
"""Lengths are taken as up to this share shorter or longer than they are: rows meet others in each epoch, and few
tokens are padding. Sorting within random pools, as Trainer does, pads far more where there are few rows."""


class LengthGroupedBatches(Sampler[list[int]]):
    """Row numbers of the batches of one process; batches come in random order, the longest first.

    The longest batch comes first so that a device that is too small fails at once. A last, smaller batch is dealt out
    to all processes: they take equally many steps, and no row is seen twice to fill it up.
    """

    def __init__(
        self, lengths: ArrayLike, *, batch_size: int, seed: int, num_processes: int = 1, process_index: int = 0
    ) -> None:
        """Take lengths `(n,)` in tokens, rows per batch and process, and the process whose share is given.

        Raises:
            ShudunError: fewer rows than processes.
        """
        self._lengths = np.asarray(lengths)
        if len(self._lengths) < num_processes:
            raise ShudunError(f"train: {len(self._lengths)} rows for {num_processes} processes; start fewer processes")
        self._batch_size = batch_size
        self._seed = seed
        self._num_processes = num_processes
        self._process_index = process_index
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches are given from now on."""
        self._epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self._lengths), self._batch_size * self._num_processes)
        return max(whole + (rest >= self._num_processes), 1)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng((self._seed, self._epoch))
        batches = self._joint_batches(generator)
        order = generator.permutation(len(batches))
        longest = max(range(len(order)), key=lambda i: self._lengths[batches[order[i]][0]])
        order[[0, longest]] = order[[longest, 0]]
        for number in order:
            yield np.array_split(batches[number], self._num_processes)[self._process_index].tolist()

    def _joint_batches(self, generator: np.random.Generator) -> list[NDArray[np.int64]]:
        """Batches of all processes together, each sorted from long to short."""
        size = self._batch_size * self._num_processes
        factors = generator.uniform(1 - NOISE, 1 + NOISE, len(self._lengths))
        rows = np.argsort(-self._lengths * factors, kind="stable")
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        if len(batches) > 1 and len(batches[-1]) < self._num_processes:
            batches[-2:] = [np.concatenate(batches[-2:])]
        return [batch[np.argsort(-self._lengths[batch], kind="stable")] for batch in batches]
