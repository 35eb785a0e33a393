"""How fast a bundle scores on this machine: throughput, single-text latency, memory.

Throughput is measured over whole passes, latency over single texts one after another. The share of the limit
needs the operations per second of one core, which the caller states; the model's shape comes from the bundle.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shudun.errors import BundleError
from shudun.items import Comment, Item
from shudun.normalization import normalize_text
from shudun.scorer import Scorer

LATENCY_TEXTS = 200
PERCENTILES = (50, 95, 99)
MEDIAN_CHARACTERS, SPREAD = 22, 0.55
"""Log-normal lengths of generated texts: about 27 tokens on average, like comments."""


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """Figures of one benchmark; speeds are medians over `rounds` passes.

    `latency_ms`: percentile → milliseconds of one text alone. `tokenising_us`: microseconds of one core a text,
    rendering included. `peak_memory_mb`: of the whole process so far.
    `share_of_limit`: `None` where no peak was stated.
    """

    texts: int
    mean_tokens: float
    rounds: int
    threads: int
    device: str
    precision: str
    texts_per_second: float
    tokens_per_second: float
    latency_ms: dict[str, float]
    tokenising_us: float
    peak_memory_mb: float
    share_of_limit: float | None
    machine: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def benchmark(
    scorer: Scorer,
    items: Sequence[Item],
    *,
    rounds: int = 3,
    peak_gops: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> BenchmarkResult:
    """Measure a scorer on items.

    Args:
        scorer: the loaded bundle.
        items: what to score, at least one.
        rounds: passes over all items; the median counts.
        peak_gops: billion operations per second of one core (or of the GPU) in the bundle's precision.
        progress: called with the number of passes done.

    Raises:
        BundleError: a share of the limit is asked for, but the bundle does not record its shape.
    """
    lengths = scorer.count_tokens(items)
    operations = None if peak_gops is None else model_operations(scorer, lengths)
    scorer.predict_proba(items[:64])
    speeds = []
    for done in range(rounds):
        started = time.perf_counter()
        scorer.predict_proba(items)
        speeds.append(len(items) / (time.perf_counter() - started))
        if progress is not None:
            progress(done + 1)
    speed = statistics.median(speeds)
    share = None
    if operations is not None and peak_gops is not None:
        share = speed * operations / len(items) / (peak_gops * 1e9 * scorer.threads)
    return BenchmarkResult(
        texts=len(items),
        mean_tokens=float(lengths.mean()),
        rounds=rounds,
        threads=scorer.threads,
        device=scorer.device,
        precision=scorer.manifest.precision,
        texts_per_second=speed,
        tokens_per_second=speed * float(lengths.mean()),
        latency_ms=_latency(scorer, items),
        tokenising_us=_tokenising(scorer, items, rounds),
        peak_memory_mb=_peak_memory(),
        share_of_limit=share,
        machine={"platform": platform.platform(), "python": platform.python_version(), "cpus": str(os.cpu_count())},
    )


def generated_items(count: int, *, seed: int = 0) -> list[Item]:
    """Comments of random Chinese characters that the normaliser leaves alone, with log-normal lengths."""
    rng = np.random.default_rng(seed)
    characters = [char for char in map(chr, range(0x4E00, 0x6E00)) if normalize_text(char) == char]
    lengths = np.clip(np.round(rng.lognormal(np.log(MEDIAN_CHARACTERS), SPREAD, count)), 2, 500).astype(int)
    return [Comment("".join(rng.choice(characters, length))) for length in lengths]


def model_operations(scorer: Scorer, lengths: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    """Forward operations of the full model over texts of these token lengths, by its matrix products.

    A layer takes `2 S (4 H² + 2 H I)` for its products and `4 S² H` for attention, with width H, inner width I
    and S tokens.
    """
    shape = scorer.manifest.provenance.get("shape")
    if not isinstance(shape, dict) or not {"layers", "hidden", "intermediate"} <= set(shape):
        raise BundleError("this bundle does not record its shape, so no share of a limit can be given; export it again")
    layers, hidden, inner = shape["layers"], shape["hidden"], shape["intermediate"]
    tokens = lengths.astype(np.float64)
    per_text = 2 * tokens * (4 * hidden**2 + 2 * hidden * inner) + 4 * tokens**2 * hidden
    return float(layers * per_text.sum())


def _latency(scorer: Scorer, items: Sequence[Item]) -> dict[str, float]:
    times = []
    for item in items[:LATENCY_TEXTS]:
        started = time.perf_counter()
        scorer.predict_proba([item])
        times.append((time.perf_counter() - started) * 1e3)
    return {f"p{percentile}": float(np.percentile(times, percentile)) for percentile in PERCENTILES}


def _tokenising(scorer: Scorer, items: Sequence[Item], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        started = time.process_time()
        scorer.count_tokens(items)
        times.append((time.process_time() - started) / len(items) * 1e6)
    return statistics.median(times)


def _peak_memory() -> float:
    # Kibibytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
