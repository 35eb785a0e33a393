"""How much of the text a vocabulary cannot say: the rate of unknown tokens per split, and the commonest of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from shudun.errors import ShudunError
from shudun_training.audit.findings import EXAMPLES, Finding
from shudun_training.audit.table import RowTable
from shudun_training.config import CompactConfig
from shudun_training.personal_data import without_personal_data
from shudun_training.vocabulary import train_tokenizer

UNKNOWN_TOKEN = "[UNK]"  # noqa: S105  not a password

MANY_UNKNOWN = 0.01
"""Share of unknown tokens from which a split is reported."""

SAMPLE_ROWS = 20_000
"""Rows of a split that are tokenised; larger splits are sampled evenly."""

BATCH_TEXTS = 1024
PIECES = 20
PIECE_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class UnknownTokens:
    """Tokens of one split: of `tokens` in `rows` texts `unknown` are unknown; `pieces` are the commonest such texts."""

    rows: int
    tokens: int
    unknown: int
    pieces: tuple[tuple[str, int], ...]

    @property
    def rate(self) -> float:
        """Share of unknown tokens."""
        return self.unknown / self.tokens if self.tokens else 0.0


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer from a `tokenizer.json`, or from the bundle or checkpoint folder that holds one.

    Raises:
        ShudunError: no such file, not a tokenizer definition, or one without an unknown token.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the Rust parser raises bare Exception
        raise ShudunError(f"{file}: cannot be read as a tokenizer.json: {error}") from error
    if tokenizer.token_to_id(UNKNOWN_TOKEN) is None:
        raise ShudunError(f"{file}: expected a vocabulary with {UNKNOWN_TOKEN}, which this one lacks")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def unknown_by_split(
    tokenizer: Tokenizer | None, table: RowTable, split: NDArray[np.int16], splits: Sequence[str]
) -> dict[str, UnknownTokens]:
    """Unknown tokens of each split, in at most `SAMPLE_ROWS` of its rows.

    Args:
        tokenizer: the vocabulary; `None` for one by this project's rule from the rows of `train`, or from all rows
            where no split has that name.
        table: the texts.
        split: number of the split of each row, shape `(n,)`.
        splits: names of the splits.
    """
    rows = {name: _sample(np.flatnonzero(split == number)) for number, name in enumerate(splits)}
    if tokenizer is None:
        known = rows.get("train", np.concatenate(list(rows.values())))
        tokenizer = train_tokenizer(table.texts(known), vocab_size=CompactConfig().vocab_size)
    return {name: count_unknown(tokenizer, table.texts(sample)) for name, sample in rows.items()}


def unknown_findings(found: Mapping[str, UnknownTokens]) -> list[Finding]:
    """Splits with many unknown tokens."""
    return [
        Finding(
            "unknown_tokens",
            tokens.unknown,
            f"{split}: {tokens.rate:.2%} of the tokens are unknown",
            tuple(f"{piece!r} {count} times" for piece, count in tokens.pieces[:EXAMPLES]),
        )
        for split, tokens in found.items()
        if tokens.rate >= MANY_UNKNOWN
    ]


def count_unknown(tokenizer: Tokenizer, texts: Iterable[str]) -> UnknownTokens:
    """Tokenise texts and count what the vocabulary lacks."""
    unknown_id = tokenizer.token_to_id(UNKNOWN_TOKEN)
    pieces: Counter[str] = Counter()
    rows = tokens = 0
    for batch in _batches(iter(texts)):
        for text, encoding in zip(batch, tokenizer.encode_batch(batch, add_special_tokens=False), strict=True):
            tokens += len(encoding.ids)
            for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                if token_id == unknown_id:
                    pieces[text[start:end]] += 1
        rows += len(batch)
    shown = tuple(
        (without_personal_data(piece)[:PIECE_CHARACTERS], count) for piece, count in pieces.most_common(PIECES)
    )
    return UnknownTokens(rows, tokens, pieces.total(), shown)


def _sample(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows if len(rows) <= SAMPLE_ROWS else rows[np.linspace(0, len(rows) - 1, SAMPLE_ROWS).astype(np.int64)]


def _batches(texts: Iterator[str]) -> Iterator[Sequence[str]]:
    while batch := list(islice(texts, BATCH_TEXTS)):
        yield batch
