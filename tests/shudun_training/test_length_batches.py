"""Batches of like lengths: every row once in an epoch, on any number of processes, by seed and epoch alone."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shudun import ShudunError
from shudun_training.length_batches import LengthGroupedBatches

LENGTHS = np.random.default_rng(0).integers(4, 200, 1000)


def batches(lengths, processes, epoch=0, **arguments):
    """The batches of each process."""
    given_to = []
    for index in range(processes):
        sampler = LengthGroupedBatches(
            lengths, **{"batch_size": 8, "seed": 1} | arguments, num_processes=processes, process_index=index
        )
        sampler.set_epoch(epoch)
        given_to.append(list(sampler))
        assert len(given_to[-1]) == len(sampler)
    return given_to


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=300),
    batch_size=st.integers(1, 9),
    processes=st.integers(1, 7),
    epoch=st.integers(0, 3),
)
def test_every_row_is_seen_once_and_processes_take_equally_many_steps(lengths, batch_size, processes, epoch):
    if len(lengths) < processes:
        with pytest.raises(ShudunError, match=f"{len(lengths)} rows for {processes} processes"):
            batches(lengths, processes)
        return
    dealt = batches(lengths, processes, epoch, batch_size=batch_size)
    assert sorted(row for process in dealt for batch in process for row in batch) == list(range(len(lengths)))
    assert len({len(process) for process in dealt}) == 1
    sizes = [len(batch) for process in dealt for batch in process]
    assert min(sizes) >= 1
    assert max(sizes) <= batch_size + 1


def test_processes_share_the_batches_of_one_process_with_a_larger_batch():
    (one,) = batches(LENGTHS, 1, batch_size=24)
    together = [sorted(chain(*parts)) for parts in zip(*batches(LENGTHS, 3), strict=True)]
    assert together == [sorted(batch) for batch in one]


def test_epochs_and_seeds_have_orders_of_their_own_whatever_the_global_random_state():
    first = batches(LENGTHS, 1)
    np.random.seed(5)
    assert batches(LENGTHS, 1) == first
    others = [batches(LENGTHS, 1, epoch=1), batches(LENGTHS, 1, seed=2)]
    assert all({tuple(sorted(b)) for b in other[0]} != {tuple(sorted(b)) for b in first[0]} for other in others)


def test_an_epoch_can_be_read_again():
    sampler = LengthGroupedBatches(LENGTHS, batch_size=8, seed=1)
    assert list(sampler) == list(sampler)


def padded_share(grouped):
    padded = sum(len(batch) * max(LENGTHS[batch]) for batch in grouped)
    return 1 - LENGTHS.sum() / padded


def test_batches_hold_rows_of_like_length_the_longest_first_and_the_rest_mixed():
    (grouped,) = batches(LENGTHS, 1, batch_size=16)
    shuffled = np.array_split(np.random.default_rng(0).permutation(len(LENGTHS)), len(grouped))
    assert padded_share(grouped) < 0.1 < 0.4 < padded_share(shuffled)
    widths = [max(LENGTHS[batch]) for batch in grouped]
    assert widths[0] == max(LENGTHS)
    # Neighbours differ as random ones do: steps are not sorted from long to short.
    assert np.abs(np.diff(widths[1:])).mean() > 30
