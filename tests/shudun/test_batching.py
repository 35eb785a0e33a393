"""Batching: every row once, the token budget kept, one length a batch, the input order restored."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shudun import DeviceError
from shudun.batching import Batching, MemoryLimit, plan_batches, run_batches, start_batches
from shudun.errors import DeviceMemoryError
from shudun.tokenization import Encoded

LENGTHS = st.lists(st.integers(1, 300), max_size=80)
BATCHINGS = st.builds(Batching, st.integers(0, 2000), st.sampled_from([1, 4, 16]))
MAX_LENGTH = 300


def encoded(lengths):
    """Rows of the given lengths; every token of row `i` has the id `i + 1`."""
    return Encoded(
        ids=np.repeat(np.arange(1, len(lengths) + 1), lengths).astype(np.int64),
        starts=np.cumsum([0, *lengths]).astype(np.int64),
        first=np.array(lengths, dtype=np.int64),
        truncated=np.zeros(len(lengths), dtype=np.bool_),
        windows=np.ones(len(lengths), dtype=np.int64),
        pad_id=0,
        max_length=MAX_LENGTH,
    )


def total_and_size(batch):
    total = batch.input_ids.sum(axis=1, keepdims=True).astype(np.float32)
    size = batch.attention_mask.sum(axis=1, keepdims=True).astype(np.float32)
    return np.concatenate([total, size], axis=1), size


@given(lengths=LENGTHS, batching=BATCHINGS)
def test_every_row_stands_in_exactly_one_batch_within_the_budget(lengths, batching):
    lengths = np.array(lengths, dtype=np.int64)
    batches = plan_batches(lengths, batching, max_length=MAX_LENGTH)
    assert sorted(np.concatenate([*(rows for rows, _ in batches), np.arange(0)]).tolist()) == list(range(len(lengths)))
    for rows, width in batches:
        assert len(rows) == 1 or len(rows) * width <= batching.tokens


@given(lengths=LENGTHS, batching=BATCHINGS)
def test_a_row_is_padded_to_its_own_rounded_length_whatever_stands_beside_it(lengths, batching):
    lengths = np.array(lengths, dtype=np.int64)
    widths = [width for _, width in plan_batches(lengths, batching, max_length=MAX_LENGTH)]
    assert widths == sorted(widths, reverse=True)
    for rows, width in plan_batches(lengths, batching, max_length=MAX_LENGTH):
        assert (width >= lengths[rows]).all()
        assert (width - lengths[rows] < batching.length_step).all()
        assert width % batching.length_step == 0 or width == MAX_LENGTH


@given(lengths=LENGTHS, batching=BATCHINGS)
def test_batches_are_full(lengths, batching):
    batches = plan_batches(np.array(lengths, dtype=np.int64), batching, max_length=MAX_LENGTH)
    for (rows, width), (_, next_width) in itertools.pairwise(batches):
        assert next_width < width or (len(rows) + 1) * width > batching.tokens


@given(lengths=LENGTHS, batching=BATCHINGS, threads=st.sampled_from([None, 1, 3]))
def test_outputs_come_back_in_input_order(lengths, batching, threads):
    if threads is None:
        logits, embeddings = run_batches(encoded(lengths), total_and_size, widths=(2, 1), batching=batching)
    else:
        with ThreadPoolExecutor(threads) as executor:
            wait = start_batches(encoded(lengths), total_and_size, widths=(2, 1), batching=batching, executor=executor)
            logits, embeddings = wait()
    assert logits[:, 0].tolist() == [(i + 1) * length for i, length in enumerate(lengths)]
    assert logits[:, 1].tolist() == lengths
    assert embeddings[:, 0].tolist() == lengths


def test_no_rows_have_the_model_s_width_and_run_nothing():
    def run(batch):
        raise AssertionError("nothing to run")

    logits, embeddings = run_batches(encoded([]), run, widths=(4, 32), batching=Batching(512))
    assert (logits.shape, embeddings.shape) == ((0, 4), (0, 32))
    assert logits.dtype == embeddings.dtype == np.float32


def test_an_error_of_the_model_is_not_swallowed():
    def run(batch):
        raise RuntimeError("model")

    with pytest.raises(RuntimeError, match="model"):
        run_batches(encoded([3, 4]), run, widths=(1, 1), batching=Batching(8))
    with ThreadPoolExecutor(1) as executor, pytest.raises(RuntimeError, match="model"):
        start_batches(encoded([3, 4]), run, widths=(1, 1), batching=Batching(8), executor=executor)()


class Device:
    """A device that holds so many tokens at once, and remembers which batches ran or failed."""

    def __init__(self, capacity, error=DeviceMemoryError):
        self.capacity, self.error = capacity, error
        self.ran, self.failed = [], []

    def __call__(self, batch):
        if batch.input_ids.size > self.capacity:
            self.failed.append(batch.input_ids.size)
            raise self.error(f"no room for {batch.input_ids.size} tokens")
        self.ran.append(batch.input_ids.size)
        return total_and_size(batch)


def run_on(device, lengths, batching, limit, threads=1):
    with ThreadPoolExecutor(threads) as executor:
        data = encoded(lengths)
        return start_batches(data, device, widths=(2, 1), batching=batching, executor=executor, limit=limit)()


@given(lengths=LENGTHS, batching=BATCHINGS, spare=st.integers(0, 1500), threads=st.sampled_from([1, 3]))
def test_batches_that_exhaust_memory_are_halved_and_no_row_is_lost_or_moved(lengths, batching, spare, threads):
    widest = -(-max(lengths, default=1) // batching.length_step) * batching.length_step
    device, limit = Device(min(widest, MAX_LENGTH) + spare), MemoryLimit()
    logits, embeddings = run_on(device, lengths, batching, limit, threads)
    assert logits[:, 0].tolist() == [(i + 1) * length for i, length in enumerate(lengths)]
    assert embeddings[:, 0].tolist() == lengths
    assert len(device.failed) < 12 * threads  # 2000 tokens can be halved eleven times
    tried = len(device.failed)
    run_on(device, lengths, batching, limit, threads)
    assert len(device.failed) == tried  # the session has learned


def test_a_limit_holds_for_every_later_batch_and_is_said_once_a_change(caplog):
    device, limit = Device(100), MemoryLimit()
    run_on(device, [10] * 64, Batching(640), limit)
    assert device.failed == [640, 320, 160]
    assert set(device.ran) == {80}
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert "640 tokens exhausted memory; batches are limited to 320 tokens" in caplog.text
    run_on(device, [10] * 64, Batching(640), limit)
    assert len(caplog.records) == 3
    assert limit.cap(Batching(640, 4)) == Batching(80, 4)
    assert limit.cap(Batching(50, 4)) == Batching(50, 4)


def test_batches_of_one_size_that_fail_together_lower_the_limit_once(caplog):
    limit = MemoryLimit()
    for _ in range(3):
        limit.lower(640, 320, MemoryError())
    limit.lower(1000, 500, MemoryError())
    assert (limit.allows(320), limit.allows(321), len(caplog.records)) == (True, False, 1)


@pytest.mark.parametrize("error", [DeviceMemoryError, MemoryError])
def test_a_single_text_that_does_not_fit_is_named_by_its_length(error):
    device = Device(100, error)
    with pytest.raises(DeviceError, match="one text of 120 tokens does not fit in memory: no room for 120 tokens"):
        run_on(device, [10, 120, 120, 10], Batching(1000), MemoryLimit())
    assert device.failed == [240, 120]


def test_other_errors_halve_nothing():
    device, limit = Device(100, RuntimeError), MemoryLimit()
    with pytest.raises(RuntimeError, match="no room"):
        run_on(device, [10] * 20, Batching(200), limit)
    assert device.failed == [200]
    assert limit.allows(10**9)


def test_a_job_under_a_known_limit_is_planned_in_full_batches():
    device, limit = Device(100), MemoryLimit()
    run_on(device, [10] * 60, Batching(600), limit)
    device.ran.clear()
    run_on(device, [10] * 60, Batching(600), limit)
    assert device.ran == [80] * 7 + [40]
