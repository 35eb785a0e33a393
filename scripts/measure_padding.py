"""Share of padding in the batches of an epoch: `python scripts/measure_padding.py CONFIG.yaml [BATCH_SIZE ...]`.

Compares padding to max_length, random batches, Trainer's length groups, ours, and batches of equal padded tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.trainer_pt_utils import LengthGroupedSampler

from shudun.rendering import plain_text
from shudun_training.checkpoint import build_tokenizer, item_tokenizer
from shudun_training.config import load_run_config, load_taxonomy
from shudun_training.length_batches import LengthGroupedBatches
from shudun_training.sources import load_examples

POOL = 50


def cut(rows: list[int] | NDArray[np.int64], size: int) -> list[list[int]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def token_budget(lengths: NDArray[np.int64], size: int) -> Iterator[list[int]]:
    """Batches of at most `size` mean texts of padded tokens, in pools as Trainer's."""
    budget = size * lengths.mean()
    pool = size * max(min(POOL, len(lengths) // (size * 4)), 1)
    for part in cut(np.random.default_rng(0).permutation(len(lengths)), pool):
        batch: list[int] = []
        for row in sorted(part, key=lambda i: -lengths[i]):
            if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
                yield batch
                batch = []
            batch.append(row)
        yield batch


def main(path: Path, sizes: list[int]) -> None:
    config = load_run_config(path)
    rows, _ = load_examples(config.data.train, load_taxonomy(config.taxonomy))
    tokenizer = build_tokenizer(config.model, [plain_text(row.item) for row in rows])
    encoder = item_tokenizer(tokenizer, max_length=config.model.max_length)
    lengths = encoder.encode([row.item for row in rows]).lengths
    print(f"{len(rows):,} rows of {lengths.mean():.1f} tokens on average, {lengths.max()} at most")
    for size in sizes:
        torch.manual_seed(0)
        grouped = LengthGroupedBatches(lengths, batch_size=size, seed=0)
        kinds = {
            "random": cut(np.random.default_rng(0).permutation(len(rows)), size),
            "Trainer": cut(list(LengthGroupedSampler(size, lengths=lengths.tolist())), size),
            "ours": list(grouped),
            "token budget": list(token_budget(lengths, size)),
        }
        padded = {"max_length": len(rows) * config.model.max_length} | {
            kind: sum(len(batch) * max(lengths[batch]) for batch in batches) for kind, batches in kinds.items()
        }
        shares = "  ".join(f"{kind} {1 - lengths.sum() / tokens:.1%}" for kind, tokens in padded.items())
        print(f"batch {size}: padding {shares}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]] or [8, 32, 64])
