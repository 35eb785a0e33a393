"""The public scoring API, and the whole scoring path on one screen.

items ─ render ─ distinct ─ tokenise (windows) ─ batches of one length under a token budget ─ session ─ logits ─
pool windows ─ calibrate ─ decide ─ rows in input order. Needs numpy, tokenizers and onnxruntime; never the training
stack.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shudun.batching import Batching
from shudun.builtin import BUILTIN_BUNDLE
from shudun.bundle import Bundle, BundleManifest, read_bundle
from shudun.calibration import OperatingPoint
from shudun.devices import Device, GpuSettings
from shudun.errors import BundleError
from shudun.items import Item, as_item, is_blank
from shudun.policy import PASS, Action, Decider, Decision
from shudun.pooling import pool_windows
from shudun.recent import RecentResults, distinct
from shudun.rendering import Rendered
from shudun.session import GraphSession
from shudun.taxonomy import Taxonomy

BATCHING: Mapping[str, Batching] = {
    "cpu": Batching(512, 1),
    "cuda": Batching(16384, 16),
    "tensorrt": Batching(4096, 16),
}
"""Batches by device: small and without padding on a CPU, large on a GPU. TensorRT reserves memory for its largest."""

BLANK = "no text to score"
NOT_FINITE = "the model returned a non-finite score for this text"

CHUNK_ITEMS = 4096
"""Items that `score_iter` reads ahead; they are sorted by length among each other."""


Judged: TypeAlias = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Logits `(n, num_labels)` of items and whether each was cut, `(n,)`."""


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """The outcome for one item.

    `labels`: those that hold, most severe first; `scores`: label → calibrated probability, 0.0 for a label
    that does not apply to this kind of item; `truncated`: part of the text was not seen; `error`: why there
    is no score (then `suggestion` is "review", `labels` and `scores` are empty), else `None`.
    """

    id: str | None
    labels: tuple[str, ...]
    scores: Mapping[str, float]
    primary_label: str | None
    suggestion: Action
    truncated: bool
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row as plain JSON values, in the order of the output format."""
        # Not dataclasses.asdict, which copies every value deeply: this runs once a row.
        return {name: getattr(self, name) for name in self.__slots__} | {
            "labels": list(self.labels),
            "scores": dict(self.scores),
        }


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """Raw model output in input order: float32 `logits` `(n, num_labels)`, `embeddings` `(n, hidden)`."""

    logits: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    truncated: NDArray[np.bool_]


class Scorer:
    """Scores notes and comments with one bundle. Create it with `Scorer.from_bundle`; it can be pickled."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Device = "auto",
        threads: int | None = None,
        batch_tokens: int | None = None,
        max_windows: int = 1,
        gpu_memory: int | None = None,
        engine_cache: str | os.PathLike[str] | None = None,
    ) -> None:
        if max_windows < 1:
            raise ValueError(f"max_windows: expected at least 1, got {max_windows}")
        self._bundle = bundle
        engine = BATCHING["tensorrt"]
        self._session = GraphSession(
            bundle.graph,
            device=device,
            threads=threads,
            precision=bundle.manifest.precision,
            kind=bundle.manifest.provenance.get("graph"),
            gpu=GpuSettings(
                memory=gpu_memory,
                engine_cache=None if engine_cache is None else Path(engine_cache),
                rows=max((batch_tokens or engine.tokens) // engine.length_step, 1),
                tokens=bundle.tokenizer.max_length,
            ),
        )
        width, _ = self._session.widths
        if width != len(bundle.taxonomy.labels):
            raise BundleError(f"model.onnx has {width} outputs, the taxonomy {len(bundle.taxonomy.labels)} labels")
        self._decider = Decider(bundle.policy, bundle.taxonomy, bundle.points)
        batching = BATCHING[self._session.device]
        self._batching = batching if batch_tokens is None else batching._replace(tokens=batch_tokens)
        self._max_windows = max_windows

    @classmethod
    def from_bundle(
        cls,
        path: str | os.PathLike[str],
        device: Device = "auto",
        threads: int | None = None,
        *,
        batch_tokens: int | None = None,
        max_windows: int = 1,
        gpu_memory: int | None = None,
        engine_cache: str | os.PathLike[str] | None = None,
    ) -> Scorer:
        """Load and verify a bundle folder.

        Args:
            path: the bundle folder.
            device: "cpu", "cuda", "tensorrt", or "auto": CUDA when this onnxruntime has it and the bundle's precision
                runs there, else the CPU. TensorRT takes fp32 bundles of standard operators (`export --graph
                generic`) and computes them in fp16, which no gate has measured: evaluate such a bundle there.
            threads: batches computed at once, one thread each; by default one on a GPU, and on a CPU what affinity
                and cgroup quota leave this process.
            batch_tokens: most padded tokens per model run.
            max_windows: rows that a text longer than the bundle's `max_length` is spread over at most. A label's
                score is then the highest of its windows. With 1 the text is cut. The thresholds were fitted on cut
                texts.
            gpu_memory: most bytes of GPU memory for weights and activations.
            engine_cache: folder in which TensorRT keeps the engine that it builds at the first start.

        Raises:
            BundleError: the bundle is incomplete, altered or inconsistent.
            DeviceError: the requested device is not what would run, or cannot run this bundle's precision well.
        """
        return cls(
            read_bundle(path),
            device=device,
            threads=threads,
            batch_tokens=batch_tokens,
            max_windows=max_windows,
            gpu_memory=gpu_memory,
            engine_cache=engine_cache,
        )

    @classmethod
    def builtin(cls, device: Device = "auto", threads: int | None = None, *, max_windows: int = 1) -> Scorer:
        """Load the bundle that ships inside this package: shudun-xhs, int8; arguments as of `from_bundle`.

        It was trained on written, not observed notes and comments (its model card says what that means): a start,
        to be measured on your own rows before it decides anything.
        """
        return cls.from_bundle(BUILTIN_BUNDLE, device, threads, max_windows=max_windows)

    @property
    def bundle(self) -> Bundle:
        """The loaded bundle, graph included."""
        return self._bundle

    @property
    def taxonomy(self) -> Taxonomy:
        """Labels and their order."""
        return self._bundle.taxonomy

    @property
    def manifest(self) -> BundleManifest:
        """What the loaded bundle is."""
        return self._bundle.manifest

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """Thresholds per label, in label order, with what they were fitted on."""
        return self._bundle.points

    @property
    def device(self) -> str:
        """Where the model really runs: "cpu", "cuda" or "tensorrt"."""
        return self._session.device

    @property
    def threads(self) -> int:
        """Batches computed at once, one thread each."""
        return self._session.threads

    def score(self, items: Sequence[Item | str]) -> list[ScoredItem]:
        """Score items; one `ScoredItem` per item, in order. A `str` counts as a comment."""
        typed = _typed(items)
        output = self._start(typed)()
        return self._rows(typed, output.logits, output.truncated)

    def score_iter(self, items: Iterable[Item | str]) -> Iterator[ScoredItem]:
        """Score a stream in order with flat memory: reads up to two times `CHUNK_ITEMS` items ahead.

        While the caller works on the rows of one chunk, the model runs the next. A short text that came earlier in
        the stream is not computed again.
        """
        source, recent = iter(_not_text(items)), RecentResults()
        running: tuple[list[Item], Callable[[], Judged]] | None = None
        while chunk := _typed(list(islice(source, CHUNK_ITEMS))):
            started = self._start_chunk(chunk, recent)
            if running is not None:
                yield from self._rows(running[0], *running[1]())
            running = (chunk, started)
        if running is not None:
            yield from self._rows(running[0], *running[1]())

    def predict_proba(self, items: Sequence[Item | str]) -> NDArray[np.float32]:
        """Calibrated probabilities `(n, num_labels)`; 0.0 where a label does not apply, NaN where a row failed."""
        return self.judge(items)[0]

    def predict(self, items: Sequence[Item | str]) -> NDArray[np.bool_]:
        """Which labels hold, `(n, num_labels)`: the labels that `score` lists, as an array."""
        return self.judge(items)[1]

    def judge(self, items: Sequence[Item | str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """`predict_proba` and `predict` of the same items from one run of the model."""
        typed = _typed(items)
        logits = self._start(typed)().logits
        return self._judge(typed, logits, _errors(typed, logits))

    def embed(self, items: Sequence[Item | str]) -> NDArray[np.float32]:
        """Embeddings `(n, hidden)`: the last hidden state at `[CLS]`, averaged over windows, not normalised."""
        return self.run(_typed(items)).embeddings

    def count_tokens(self, items: Sequence[Item | str]) -> NDArray[np.int64]:
        """Tokens of each item as the model sees it, all windows and special tokens included, shape `(n,)`."""
        encoded = self._bundle.tokenizer.encode(_typed(items), max_windows=self._max_windows)
        return encoded.item_lengths

    def run(self, items: Sequence[Item]) -> ModelOutput:
        """Tokenise, batch and run the model; rows come back in input order."""
        return self._start(items)()

    def _start(self, items: Sequence[Item]) -> Callable[[], ModelOutput]:
        """Tokenise and begin to run; equal items are computed once. The returned function waits."""
        texts, copies = distinct(items)
        wait = self._start_texts(texts)

        def finish() -> ModelOutput:
            output = wait()
            return ModelOutput(output.logits[copies], output.embeddings[copies], output.truncated[copies])

        return finish

    def _start_chunk(self, items: Sequence[Item], recent: RecentResults) -> Callable[[], Judged]:
        """As `_start`, without what `recent` knows; what is new is remembered. Returns logits and truncation."""
        texts, copies = distinct(items)
        known = recent.known(texts)
        is_new = np.array([text not in known for text in texts], dtype=np.bool_)
        new = [text for text in texts if text not in known]
        wait = self._start_texts(new)

        def finish() -> Judged:
            output = wait()
            recent.remember(new, output.logits, output.truncated)
            logits = np.empty((len(texts), output.logits.shape[1]), dtype=np.float32)
            truncated = np.empty(len(texts), dtype=np.bool_)
            logits[is_new], truncated[is_new] = output.logits, output.truncated
            for row, text in zip(np.flatnonzero(~is_new), known, strict=True):
                logits[row], truncated[row] = known[text]
            return logits[copies], truncated[copies]

        return finish

    def _start_texts(self, texts: Sequence[Rendered]) -> Callable[[], ModelOutput]:
        encoded = self._bundle.tokenizer.encode_rendered(texts, max_windows=self._max_windows)
        wait = self._session.start(encoded, self._batching)

        def finish() -> ModelOutput:
            logits, embeddings = pool_windows(encoded, wait())
            return ModelOutput(logits, embeddings, encoded.truncated[encoded.first_rows])

        return finish

    def _rows(self, items: Sequence[Item], logits: NDArray[np.float32], cut: NDArray[np.bool_]) -> list[ScoredItem]:
        errors = _errors(items, logits)
        probabilities, selected = self._judge(items, logits, errors)
        # Lists once for all rows: most rows of ordinary traffic need no more than their scores.
        scores, truncated = probabilities.tolist(), cut.tolist()
        held = np.asarray(selected.any(axis=1)).tolist()
        decisions = [
            self._decider.decide(probabilities[i], selected[i]) if any_held else PASS for i, any_held in enumerate(held)
        ]
        return [self._row(item, scores[i], decisions[i], truncated[i], errors[i]) for i, item in enumerate(items)]

    def _judge(
        self, items: Sequence[Item], logits: NDArray[np.float32], errors: Sequence[str | None]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        applicable = self.taxonomy.applicable([item.kind for item in items])
        probabilities = np.where(applicable, self._bundle.calibration.apply(logits), np.float32(0.0))
        probabilities[[error is not None for error in errors]] = np.nan
        return probabilities, self._decider.select(probabilities, applicable)

    def _row(
        self,
        item: Item,
        scores: Sequence[float],
        decision: Decision,
        truncated: bool,
        error: str | None,
    ) -> ScoredItem:
        if error is not None:
            return ScoredItem(item.id, (), {}, None, suggestion="review", truncated=truncated, error=error)
        return ScoredItem(
            id=item.id,
            labels=decision.labels,
            scores=dict(zip(self.taxonomy.label_ids, scores, strict=True)),
            primary_label=decision.primary_label,
            suggestion=decision.action,
            truncated=truncated,
        )


def _errors(items: Sequence[Item], logits: NDArray[np.float32]) -> list[str | None]:
    """Why each row has no score; `None` where it has one."""
    finite = np.asarray(np.isfinite(logits).all(axis=1))
    return [BLANK if is_blank(item) else None if ok else NOT_FINITE for item, ok in zip(items, finite, strict=True)]


def _typed(items: Iterable[Item | str]) -> list[Item]:
    return [as_item(item) for item in _not_text(items)]


def _not_text(items: Iterable[Item | str]) -> Iterable[Item | str]:
    # A str is itself a sequence of str: each character would be scored as a comment.
    if isinstance(items, str):
        raise TypeError("expected a list of items, got one str; wrap it in a list: [text]")
    return items
