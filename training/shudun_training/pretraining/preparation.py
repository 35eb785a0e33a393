"""From texts to token stores: one of texts to train on, one of texts that are held out and never trained on.

A text is held out by its own hash, so it is in every run, wherever it stands and whatever stands beside it. Stores of
the same texts, tokenizer and settings are used again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from shudun.errors import ShudunError
from shudun.items import Item
from shudun.normalization import NORMALIZER_VERSION
from shudun.rendering import Rendered, plain_text, render
from shudun.tokenization import ItemTokenizer
from shudun_training.pretraining import models
from shudun_training.pretraining.config import NewEncoderConfig, PretrainConfig
from shudun_training.pretraining.corpus import TextCounts, TextReader, TextRecord, readers
from shudun_training.pretraining.emoji import EmojiCover
from shudun_training.pretraining.token_store import StoreWriter, TokenStore, read_store
from shudun_training.pretraining.words import Segmenter, WordMarks
from shudun_training.vocabulary import train_tokenizer

TRAIN, HELD_OUT, COUNTS = "train", "held_out", "counts.json"
CHUNK_TEXTS = 8192

RowProgress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Token stores of a run, and the counts of each source; `held_out` may be empty."""

    train: TokenStore
    held_out: TokenStore
    counts: list[dict[str, Any]]


def settle_tokenizer(
    config: PretrainConfig, folder: Path, *, resume: bool, progress: RowProgress
) -> PreTrainedTokenizerBase:
    """The tokenizer of a run: the configured one, or one with a vocabulary of the texts; it is kept in the run folder.

    On `resume` one of the texts is read from there, and nothing is written.

    Raises:
        ShudunError: it cannot be read, or the texts cannot.
    """
    given = models.given_tokenizer(config)
    if resume:
        return given or models.read_tokenizer(folder / models.TOKENIZER)
    if given is None and config.compact is not None:
        given = _own_tokenizer(config, config.compact, folder, progress)
    if given is None:
        raise ValueError("a configuration has an encoder or a compact one")
    given.save_pretrained(folder / models.TOKENIZER)
    return given


def _own_tokenizer(
    config: PretrainConfig, compact: NewEncoderConfig, folder: Path, progress: RowProgress
) -> PreTrainedTokenizerBase:
    emoji = EmojiCover()
    made = train_tokenizer(
        emoji.watch(_vocabulary_texts(config, folder, progress)),
        vocab_size=compact.vocab_size,
        min_frequency=compact.min_frequency,
        always=emoji,
    )
    return models.wrap_tokenizer(made, compact)


def _vocabulary_texts(config: PretrainConfig, folder: Path, progress: RowProgress) -> Iterator[str]:
    """The texts as an encoder sees them, each once."""
    done = 0
    for reader in readers(config.texts, on_bad_row=config.on_bad_row, rejected_dir=folder):
        for item in reader:
            yield plain_text(item)
            done += 1
            if done % CHUNK_TEXTS == 0:
                progress("counting characters", done)


def prepare(
    config: PretrainConfig,
    records: Sequence[TextRecord],
    tokenizer: ItemTokenizer,
    folder: Path,
    *,
    segmenter: Segmenter | None,
    progress: RowProgress,
) -> None:
    """Write the token stores into `folder`, unless it has those of the same texts, tokenizer and settings.

    Raises:
        ShudunError: a source cannot be read, or no text is left to train on.
    """
    key = fingerprint(config, records, tokenizer, segmenter)
    if _opened(folder, key) is not None:
        return
    size, words = tokenizer.vocab_size, segmenter is not None
    sources = readers(config.texts, on_bad_row=config.on_bad_row, rejected_dir=folder.parent)
    with (
        StoreWriter(folder / TRAIN, key, vocab_size=size, words=words) as train,
        StoreWriter(folder / HELD_OUT, key, vocab_size=size, words=words) as held_out,
    ):
        writing = _Writing(train, held_out, tokenizer, config.held_out.share, segmenter, progress)
        counts = [writing.source(reader, r.repeat) for reader, r in zip(sources, records, strict=True)]
        (folder / COUNTS).write_text(json.dumps([asdict(count) for count in counts]), encoding="utf-8")


def open_corpus(
    config: PretrainConfig,
    records: Sequence[TextRecord],
    tokenizer: ItemTokenizer,
    folder: Path,
    *,
    segmenter: Segmenter | None,
) -> Corpus:
    """Open what `prepare` wrote.

    Raises:
        ShudunError: the stores are damaged, or hold no text to train on.
    """
    corpus = _opened(folder, fingerprint(config, records, tokenizer, segmenter))
    if corpus is None:
        raise ShudunError(f"{folder}: the token stores are not those of this configuration; was it changed meanwhile?")
    if not len(corpus.train):
        raise ShudunError("texts: no text is left to train on")
    return corpus


def fingerprint(
    config: PretrainConfig, records: Sequence[TextRecord], tokenizer: ItemTokenizer, segmenter: Segmenter | None
) -> str:
    """Digest of everything that decides what the stores hold."""
    parts = {
        "sources": [{name: value for name, value in r.to_dict().items() if name != "path"} for r in records],
        "on_bad_row": config.on_bad_row,
        "held_out": config.held_out.share,
        "max_length": tokenizer.max_length,
        "tokenizer": hashlib.sha256(tokenizer.to_json().encode("utf-8")).hexdigest(),
        "normalizer": NORMALIZER_VERSION,
        "segmenter": None if segmenter is None else segmenter.name,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("ascii")).hexdigest()


def is_held_out(rendered: Rendered, share: float) -> bool:
    """Whether a text belongs to the share that is never trained on; its context does not count."""
    text = rendered.segments[rendered.primary].strip() or "\n".join(rendered.segments)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


class _Writing:
    """Writes sources into two stores, chunk by chunk."""

    def __init__(
        self,
        train: StoreWriter,
        held_out: StoreWriter,
        tokenizer: ItemTokenizer,
        share: float,
        segmenter: Segmenter | None,
        progress: RowProgress,
    ) -> None:
        self._train, self._held_out, self._tokenizer, self._share = train, held_out, tokenizer, share
        self._marks = None if segmenter is None else WordMarks(tokenizer, segmenter)
        self._progress = progress
        self._done = 0

    def source(self, reader: TextReader, repeat: int) -> TextCounts:
        """Write all texts of a source and count them."""
        counts = TextCounts()
        for chunk in _chunks(reader):
            self._add(chunk, repeat, counts)
            self._progress("tokenising", self._done)
        reader.count(counts)
        return counts

    def _add(self, items: Sequence[Item], repeat: int, counts: TextCounts) -> None:
        rendered = [render(item) for item in items]
        encoded = self._tokenizer.encode_rendered(rendered)
        begins = None if self._marks is None else self._marks.mark(rendered, encoded)
        held_out = np.array([is_held_out(row, self._share) for row in rendered], dtype=np.bool_)
        self._train.add(encoded, _rows(~held_out).repeat(repeat), begins)
        self._held_out.add(encoded, _rows(held_out), begins)
        counts.trained += int((~held_out).sum())
        counts.held_out += int(held_out.sum())
        counts.truncated += int(encoded.truncated.sum())
        self._done += len(items)


def _rows(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.flatnonzero(chosen)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK_TEXTS)):
        yield chunk


def _opened(folder: Path, key: str) -> Corpus | None:
    train, held_out = (read_store(folder / name, key) for name in (TRAIN, HELD_OUT))
    if train is None or held_out is None:
        return None
    counts = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
    return Corpus(train, held_out, counts)
