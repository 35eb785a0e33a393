"""Running rows in batches without padding, with the input order restored.

On a CPU each batch holds rows of one length: no padded token is ever computed, and a text's result cannot depend
on its neighbours' lengths. On a GPU, where few large batches win, lengths are rounded up to a step. Batches are
limited by tokens so that activations stay in a CPU's caches; one that exhausts memory is halved, and so are all that
follow. Knows nothing of what runs: onnxruntime in scoring, torch in training.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shudun.errors import DeviceError, DeviceMemoryError
from shudun.tokenization import Encoded, TokenBatch

Outputs: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Logits `(rows, num_labels)` and embeddings `(rows, hidden)`."""

Run: TypeAlias = Callable[[TokenBatch], Outputs]


class Batching(NamedTuple):
    """How rows are grouped.

    `tokens`: most tokens of a batch, padding included. `length_step`: lengths are rounded up to a multiple of it,
    and a batch holds rows of one rounded length.
    """

    tokens: int
    length_step: int = 1


class PlannedBatch(NamedTuple):
    """Row numbers of one batch and the length, in tokens, that they are padded to."""

    rows: NDArray[np.int64]
    width: int


class MemoryLimit:
    """Most tokens a batch may have before it exhausts memory: unknown at first, lowered by every failure, never raised.

    One object serves all threads and all jobs of a session.
    """

    def __init__(self) -> None:
        self._tokens: int | None = None
        self._lock = threading.Lock()

    def allows(self, tokens: int) -> bool:
        """Whether a batch of so many tokens, padding included, may be tried."""
        limit = self._tokens
        return limit is None or tokens <= limit

    def cap(self, batching: Batching) -> Batching:
        """The same batching within this limit."""
        tokens = self._tokens
        return batching if tokens is None else batching._replace(tokens=min(tokens, batching.tokens))

    def lower(self, failed: int, tokens: int, cause: BaseException) -> None:
        """Note that a batch of `failed` tokens exhausted memory, and allow `tokens`; says so once a change.

        Batches of one size that fail at the same time lower the limit once.
        """
        with self._lock:
            if not self.allows(tokens + 1):
                return
            self._tokens = tokens
        # Logged, not warned: the job goes on, and an application that turns warnings into errors must not lose it.
        logging.getLogger(__name__).warning(
            "a batch of %d tokens exhausted memory; batches are limited to %d tokens from here on (%s)",
            failed,
            tokens,
            " ".join(str(cause).split()),
        )


def plan_batches(lengths: NDArray[np.int64], batching: Batching, *, max_length: int) -> list[PlannedBatch]:
    """Group rows of the same rounded length; every row stands in exactly one batch, longest rows first.

    Args:
        lengths: tokens of each row, shape `(n,)`.
        batching: budget and rounding; a single row longer than the budget makes a batch of its own.
        max_length: lengths are not rounded past this.
    """
    step = batching.length_step
    rounded = np.minimum(-(-lengths // step) * step, max_length)
    order = np.argsort(-rounded, kind="stable").astype(np.int64)
    ends = np.append(np.flatnonzero(np.diff(rounded[order])) + 1, len(order)).tolist()
    batches, start = [], 0
    for end in ends:
        width = int(rounded[order[start]]) if start < end else 0
        size = max(batching.tokens // max(width, 1), 1)
        batches += [PlannedBatch(order[i : min(i + size, end)], width) for i in range(start, end, size)]
        start = end
    return batches


def run_batches(encoded: Encoded, run: Run, *, widths: tuple[int, int], batching: Batching) -> Outputs:
    """Run every row, one batch after another, and return the outputs in input order.

    Args:
        encoded: tokenised rows.
        run: the model, from one padded batch to its logits and embeddings.
        widths: `(num_labels, hidden)`, so that zero rows have a shape too.
        batching: how rows are grouped.
    """
    outputs = _empty(encoded, widths)
    for planned in _plan(encoded, batching):
        _scatter(outputs, planned.rows, run(encoded.batch(*planned)))
    return outputs


def start_batches(
    encoded: Encoded,
    run: Run,
    *,
    widths: tuple[int, int],
    batching: Batching,
    executor: Executor,
    limit: MemoryLimit | None = None,
) -> Callable[[], Outputs]:
    """As `run_batches`, but on the threads of `executor` and within `limit`; returns at once, a function that waits.

    The waiting function returns the outputs in input order; when a batch fails, batches that did not start yet
    are cancelled and the error is raised.
    """
    known = limit or MemoryLimit()

    def run_planned(planned: PlannedBatch) -> Outputs:
        return run_within(encoded, planned, run, known)

    plan = _plan(encoded, known.cap(batching))
    futures = [(planned.rows, executor.submit(run_planned, planned)) for planned in plan]

    def wait() -> Outputs:
        outputs = _empty(encoded, widths)
        try:
            for rows, future in futures:
                _scatter(outputs, rows, future.result())
        finally:
            for _, future in futures:
                future.cancel()
        return outputs

    return wait


def run_within(encoded: Encoded, planned: PlannedBatch, run: Run, limit: MemoryLimit) -> Outputs:
    """Run one planned batch, in halves where it exceeds `limit` or exhausts memory; rows keep their order.

    Raises:
        DeviceError: a single row does not fit.
    """
    pending, done = [planned.rows], []
    while pending:
        rows = pending.pop()
        half = (len(rows) + 1) // 2
        if len(rows) > 1 and not limit.allows(len(rows) * planned.width):
            pending += [rows[half:], rows[:half]]
            continue
        try:
            done.append(run(encoded.batch(rows, planned.width)))
        except (DeviceMemoryError, MemoryError) as error:
            if len(rows) == 1:
                length = int(encoded.lengths[rows[0]])
                raise DeviceError(f"one text of {length} tokens does not fit in memory: {error}") from error
            limit.lower(len(rows) * planned.width, half * planned.width, error)
            pending.append(rows)
    logits, embeddings = zip(*done, strict=True)
    return np.concatenate(logits), np.concatenate(embeddings)


def _plan(encoded: Encoded, batching: Batching) -> list[PlannedBatch]:
    return plan_batches(encoded.lengths, batching, max_length=encoded.max_length)


def _empty(encoded: Encoded, widths: tuple[int, int]) -> Outputs:
    logits, embeddings = (np.empty((len(encoded.first), width), dtype=np.float32) for width in widths)
    return logits, embeddings


def _scatter(outputs: Outputs, rows: NDArray[np.int64], values: Outputs) -> None:
    for array, value in zip(outputs, values, strict=True):
        array[rows] = value
