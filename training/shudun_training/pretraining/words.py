"""Where words begin: borders of a Chinese word segmenter, carried over to the tokens of rendered items.

Words are looked for in the text as the encoder sees it, after normalisation. Tokens come with their places in that
text, so that a border between two words becomes a mark on the first token behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from shudun.errors import MissingExtraError, ShudunError
from shudun.rendering import Rendered
from shudun.tokenization import CHARS_PER_TOKEN, Encoded, ItemTokenizer


class Segmenter(Protocol):
    """Finds words."""

    @property
    def name(self) -> str:
        """What it is, with its version: other words are another store."""

    def borders(self, text: str) -> list[int]:
        """Where each word of a text begins, in code points, ascending."""


class Jieba:
    """The dictionary segmenter of jieba (MIT) in its Rust form; unknown words are found by its HMM."""

    def __init__(self) -> None:
        """Load the segmenter.

        Raises:
            MissingExtraError: it is not installed.
        """
        try:
            import rjieba
        except ImportError as error:
            raise MissingExtraError("masking.unit: word", "words", error) from error
        self._tokenize = rjieba.tokenize
        self.name = f"rjieba {version('rjieba')}"

    def borders(self, text: str) -> list[int]:
        """Where each word of a text begins, in code points, ascending."""
        return [start for _, start, _ in self._tokenize(text)]


class WordMarks:
    """Marks the tokens that begin a word."""

    def __init__(self, tokenizer: ItemTokenizer, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._limit = CHARS_PER_TOKEN * tokenizer.max_length
        self._tokenizer = Tokenizer.from_str(tokenizer.to_json())
        # As in `ItemTokenizer`: special tokens spelled out in a text are text.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def mark(self, rendered: Sequence[Rendered], encoded: Encoded) -> NDArray[np.bool_]:
        """Whether each token of `encoded.ids` begins a word; special tokens do.

        Args:
            rendered: the items, one row of `encoded` each.
            encoded: what `ItemTokenizer.encode_rendered` made of them.
        """
        segments = [segment[: self._limit] for row in rendered for segment in row.segments]
        found = iter(self._tokenizer.encode_batch(segments, add_special_tokens=False))
        texts = iter(segments)
        begins = np.ones(len(encoded.ids), np.bool_)
        for row, (start, end, first) in zip(rendered, _places(encoded), strict=True):
            inner = [(start + 1, start + first - 1), (start + first, end - 1)]
            for (low, high), _ in zip(inner, row.segments, strict=False):
                tokens, text = next(found), next(texts)
                _require_same(tokens, encoded.ids[low:high])
                begins[low:high] = self._begins(text, tokens)[: high - low]
        return begins

    def _begins(self, text: str, tokens: Encoding) -> NDArray[np.bool_]:
        starts = np.fromiter((start for start, _ in tokens.offsets), np.int64, len(tokens.offsets))
        word = np.searchsorted(np.asarray(self._segmenter.borders(text), np.int64), starts, side="right")
        begins: NDArray[np.bool_] = np.diff(word, prepend=-1) != 0
        return begins


def _places(encoded: Encoded) -> Iterator[tuple[int, int, int]]:
    """Start, end and length of segment 0 of each row."""
    starts = encoded.starts.tolist()
    return zip(starts, starts[1:], encoded.first.tolist(), strict=False)


def _require_same(tokens: Encoding, ids: NDArray[np.int64]) -> None:
    if tokens.ids[: len(ids)] != ids.tolist():
        raise ShudunError(f"word borders: the tokens of {tokens.tokens[:8]} are not those that were stored")
