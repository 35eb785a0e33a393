"""Running rows in batches of similar length, limited by padded tokens, with the input order restored.

Padding is wasted work: sorting by length and capping `rows * longest` removes nearly all of it and keeps
activations inside the caches of a CPU. Knows nothing of what runs: onnxruntime in scoring, torch in training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shudun.tokenization import Encoded, TokenBatch

Outputs: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Logits `(rows, num_labels)` and embeddings `(rows, hidden)`."""


def run_batches(
    encoded: Encoded, run: Callable[[TokenBatch], Outputs], *, widths: tuple[int, int], batch_tokens: int
) -> Outputs:
    """Run every row and return the outputs in input order.

    Args:
        encoded: tokenised rows.
        run: the model, from one padded batch to its logits and embeddings.
        widths: `(num_labels, hidden)`, so that zero rows have a shape too.
        batch_tokens: most padded tokens of a batch.
    """
    logits, embeddings = (np.empty((len(encoded.first), width), dtype=np.float32) for width in widths)
    for rows in plan_batches(encoded.lengths, batch_tokens=batch_tokens):
        logits[rows], embeddings[rows] = run(encoded.batch(rows))
    return logits, embeddings


def plan_batches(lengths: NDArray[np.int64], *, batch_tokens: int) -> list[NDArray[np.int64]]:
    """Split rows into batches of similar length.

    Args:
        lengths: tokens of each row, shape `(n,)`.
        batch_tokens: most padded tokens (`rows * longest row`) a batch may hold; a single row that is
            longer than this makes a batch of its own.

    Returns:
        Row indices of each batch, longest rows first (memory peaks early); every row stands in exactly one.
    """
    order = np.argsort(-lengths, kind="stable").astype(np.int64)
    batches = []
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        size = max(batch_tokens // longest, 1)
        batches.append(order[start : start + size])
        start += size
    return batches
