"""From items to padded integer arrays: one tokenisation and one truncation rule for training and scoring.

`ItemTokenizer` wraps a BERT-style `tokenizer.json`. Truncation rule: the context segment (title or parent
text) keeps at most a quarter of the token budget, or more where the judged segment leaves room; the judged
segment takes the rest. Text past `CHARS_PER_TOKEN * max_length` characters is not even tokenised, so that
cost and memory stay bounded. Every row says whether anything was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from shudun.errors import BundleError
from shudun.items import Item
from shudun.rendering import Rendered, render

CHARS_PER_TOKEN = 64
"""Characters of one segment that are tokenised at most, per token of `max_length`."""

CONTEXT_SHARE = 4
"""The context segment is guaranteed at most one `CONTEXT_SHARE`-th of the token budget."""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Padded model input.

    `input_ids`, `attention_mask`, `token_type_ids`: int64 `(batch, seq_len)`; `truncated`: bool `(batch,)`.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    def __post_init__(self) -> None:
        shape = self.input_ids.shape
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            array = getattr(self, name)
            if array.dtype != np.int64 or array.ndim != 2 or array.shape != shape:
                raise ValueError(f"{name}: expected int64 of shape {shape}, got {array.dtype} {array.shape}")
        if self.truncated.dtype != np.bool_ or self.truncated.shape != shape[:1]:
            raise ValueError(f"truncated: expected bool of shape {shape[:1]}, got {self.truncated.shape}")

    def feeds(self) -> dict[str, NDArray[np.int64]]:
        """The arrays by model input name."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "token_type_ids": self.token_type_ids,
        }


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of many items, ragged and unpadded.

    `ids`: int64, all rows one after another; row `i` is `ids[starts[i]:starts[i + 1]]`.
    `first`: int64 `(n,)`, tokens of each row that belong to segment 0; `truncated`: bool `(n,)`.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    first: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    pad_id: int
    max_length: int

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, special tokens included, shape `(n,)`."""
        return np.diff(self.starts)

    def batch(self, rows: NDArray[np.int64], width: int | None = None) -> TokenBatch:
        """Pad the given rows on the right to `width` tokens, by default to the longest of them."""
        lengths = self.lengths[rows]
        longest = int(lengths.max(initial=0))
        position = np.arange(longest if width is None else max(width, longest), dtype=np.int64)[None, :]
        real = position < lengths[:, None]
        source = np.where(real, self.starts[rows][:, None] + position, 0)
        return TokenBatch(
            input_ids=np.where(real, self.ids[source], self.pad_id) if self.ids.size else source,
            attention_mask=real.astype(np.int64),
            token_type_ids=(real & (position >= self.first[rows][:, None])).astype(np.int64),
            truncated=self.truncated[rows],
        )


class ItemTokenizer:
    """A BERT-style tokenizer with this project's rendering and truncation.

    The ids equal those of the checkpoint's own tokenizer called as `tokenizer([segment_0], [segment_1])`
    whenever nothing is cut. (Without the lists, `transformers` takes an empty second segment for none.) Special
    tokens spelled out in a text are the exception: here they are plain text.
    """

    def __init__(self, tokenizer_json: str, *, max_length: int) -> None:
        """Parse a `tokenizer.json`; `max_length` is in tokens, special tokens included (at least 8)."""
        if max_length < 8:
            raise ValueError(f"max_length: expected at least 8 tokens, got {max_length}")
        self.max_length = max_length
        self._json = tokenizer_json
        self._tokenizer = _parse(tokenizer_json)
        self._cls, self._sep, self._pad = (self._special(name) for name in ("[CLS]", "[SEP]", "[PAD]"))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self._json, self.max_length))

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def pad_id(self) -> int:
        """Id of the padding token."""
        return self._pad

    def to_json(self) -> str:
        """The tokenizer definition this object was built from."""
        return self._json

    def encode(self, items: Sequence[Item]) -> Encoded:
        """Tokenise items in order; rows longer than `max_length` are cut and flagged."""
        rendered = [render(item) for item in items]
        limit = CHARS_PER_TOKEN * self.max_length
        clipped = [segment[:limit] for row in rendered for segment in row.segments]
        encodings = self._tokenizer.encode_batch_fast(clipped, add_special_tokens=False)
        segment_ids = iter([encoding.ids for encoding in encodings])
        starts, first, truncated = [0], [], []
        ids: list[int] = []
        for row in rendered:
            parts = [next(segment_ids) for _ in row.segments]
            cut = self._truncate(parts, row)
            ids += [self._cls, *parts[0], self._sep]
            first.append(len(parts[0]) + 2)
            if len(parts) == 2:
                ids += [*parts[1], self._sep]
            starts.append(len(ids))
            truncated.append(cut or any(len(segment) > limit for segment in row.segments))
        return Encoded(
            ids=np.array(ids, dtype=np.int64),
            starts=np.array(starts, dtype=np.int64),
            first=np.array(first, dtype=np.int64),
            truncated=np.array(truncated, dtype=np.bool_),
            pad_id=self._pad,
            max_length=self.max_length,
        )

    def _truncate(self, parts: list[list[int]], row: Rendered) -> bool:
        """Cut `parts` in place to the token budget; say whether anything was cut."""
        budget = self.max_length - 1 - len(parts)
        if sum(map(len, parts)) <= budget:
            return False
        primary = row.primary
        if len(parts) == 2:
            context = 1 - primary
            keep = min(len(parts[context]), max(budget // CONTEXT_SHARE, budget - len(parts[primary])))
            parts[context] = parts[context][:keep]
            budget -= keep
        parts[primary] = parts[primary][:budget]
        return True

    def _special(self, name: str) -> int:
        token_id = self._tokenizer.token_to_id(name)
        if token_id is None:
            raise BundleError(f"tokenizer: expected a BERT-style vocabulary with {name}, which this one lacks")
        return int(token_id)


def _parse(tokenizer_json: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # the Rust parser raises bare Exception
        raise BundleError(f"tokenizer.json: not a tokenizers definition: {error}") from error
    # A "[SEP]" that somebody types is text like any other, never a control token.
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _rebuild(tokenizer_json: str, max_length: int) -> ItemTokenizer:
    return ItemTokenizer(tokenizer_json, max_length=max_length)
