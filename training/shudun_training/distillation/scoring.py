"""Teachers' logits for all texts, computed once: from the cache, or by the process whose turn a chunk is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shudun.items import Item
from shudun_training.distillation.ranks import rank, wait_until, world_size
from shudun_training.distillation.score_cache import ScoreCache
from shudun_training.distillation.teachers import Teacher
from shudun_training.distillation.texts import Chunk, chunks_of

OUT_OF_FOLD = "training-rows"
"""Name of a teacher's own logits of its training rows in its cache."""


@dataclass(slots=True)
class ScoreCounts:
    """Rows times teachers that this process computed, and those it found in the cache."""

    computed: int = 0
    reused: int = 0


@dataclass(slots=True)
class CachedTeacher:
    """A teacher with its cache."""

    teacher: Teacher
    cache: ScoreCache
    counts: ScoreCounts = field(default_factory=ScoreCounts)

    @classmethod
    def at(cls, teacher: Teacher, root: Path) -> CachedTeacher:
        """The teacher with its folder under `root`."""
        return cls(teacher, ScoreCache(root, teacher.identity, len(teacher.label_ids)))

    def has(self, digest: str, rows: int) -> bool:
        """Whether the logits of so many rows are there; counts them if so."""
        kept = self.cache.read(digest)
        found = kept is not None and len(kept) == rows
        self.counts.reused += rows if found else 0
        return found

    def keep(self, digest: str, logits: NDArray[np.float32]) -> None:
        """Write logits that were just computed."""
        self.cache.write(digest, logits)
        self.counts.computed += len(logits)

    def wait(self, digest: str) -> NDArray[np.float32]:
        """Logits that are there, or that another process is about to write."""
        found: list[NDArray[np.float32]] = []

        def arrived() -> bool:
            logits = self.cache.read(digest)
            if logits is not None:
                found.append(logits)
            return logits is not None

        wait_until(arrived)
        return found[0]


def score_chunks(
    teachers: Sequence[CachedTeacher], chunks: Iterable[Chunk], progress: Callable[[int], None] | None = None
) -> list[str]:
    """See that every chunk of this process's share is in every cache; returns the digests of all chunks, in order.

    `progress` is called with the number of rows behind.
    """
    digests, done = [], 0
    for number, chunk in enumerate(chunks):
        digests.append(chunk.digest)
        if number % world_size() == rank():
            for cached in teachers:
                if not cached.has(chunk.digest, len(chunk.items)):
                    cached.keep(chunk.digest, cached.teacher.logits(chunk))
        done += len(chunk.items)
        if progress is not None:
            progress(done)
    return digests


def score_items(cached: CachedTeacher, items: Sequence[Item]) -> NDArray[np.float32]:
    """Logits of items in memory, `(n, num_labels of the teacher)`."""
    digests = score_chunks([cached], chunks_of(items))
    empty = np.empty((0, len(cached.teacher.label_ids)), dtype=np.float32)
    return np.concatenate([empty, *map(cached.wait, digests)])


def score_training_rows(cached: CachedTeacher, items: Sequence[Item]) -> NDArray[np.float32]:
    """The same for the training rows, for which a teacher that knows them by heart has logits of its own."""
    if not cached.teacher.fitted_here:
        return score_items(cached, items)
    if rank() == 0 and not cached.has(OUT_OF_FOLD, len(items)):
        cached.keep(OUT_OF_FOLD, cached.teacher.training_logits())
    return cached.wait(OUT_OF_FOLD)
