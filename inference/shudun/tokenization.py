"""From items to padded integer arrays: one tokenisation and one truncation rule for training and scoring.

`ItemTokenizer` wraps a BERT-style `tokenizer.json`. Truncation rule: the context segment (title or parent
text) keeps at most a quarter of the token budget, or more where the judged segment leaves room; the judged
segment takes the rest. Or the judged segment is spread over several windows, each a row with the same context.
Text past `CHARS_PER_TOKEN` characters a token is not even tokenised, so that cost and memory stay bounded.
Every item says whether anything of it was cut.
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
from shudun.truncation import cut
from shudun.wordpiece import Ragged, segment_encoder, spans

CHARS_PER_TOKEN = 64
"""Characters of one segment that are tokenised at most, per token of `max_length`."""


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
    """Token ids of many rows, ragged and unpadded. A row is an item, or one window of a long one.

    `ids`: int64, all rows one after another; row `i` is `ids[starts[i]:starts[i + 1]]`.
    `first`: int64 `(rows,)`, tokens of each row that belong to segment 0. `truncated`: bool `(rows,)`, whether
    something of the row's item is in no row. `windows`: int64 `(items,)`, consecutive rows of each item.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    first: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    windows: NDArray[np.int64]
    pad_id: int
    max_length: int

    @property
    def first_rows(self) -> NDArray[np.int64]:
        """The first row of each item, shape `(items,)`."""
        return np.cumsum(self.windows) - self.windows

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, special tokens included, shape `(rows,)`."""
        return np.diff(self.starts)

    @property
    def item_lengths(self) -> NDArray[np.int64]:
        """Tokens of each item, all its windows and their special tokens included, shape `(items,)`."""
        ends = np.append(self.first_rows, len(self.starts) - 1)
        return np.asarray(np.diff(self.starts[ends]), dtype=np.int64)

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
        self._segments = segment_encoder(self._tokenizer)
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

    def encode(self, items: Sequence[Item], *, max_windows: int = 1) -> Encoded:
        """Tokenise items in order, as `encode_rendered` does."""
        return self.encode_rendered([render(item) for item in items], max_windows=max_windows)

    def encode_rendered(self, rendered: Sequence[Rendered], *, max_windows: int = 1) -> Encoded:
        """Tokenise rendered items in order.

        Args:
            rendered: what `render` returns for each item.
            max_windows: rows that a text longer than `max_length` is spread over at most; what is left then is
                cut and flagged.
        """
        limit = CHARS_PER_TOKEN * self.max_length * max_windows
        tokens = self._segments.encode([segment[:limit] for row in rendered for segment in row.segments])
        clipped = np.array([any(len(segment) > limit for segment in row.segments) for row in rendered], dtype=np.bool_)
        sizes = np.fromiter((len(row.segments) for row in rendered), np.int64, len(rendered))
        primary = np.fromiter((row.primary for row in rendered), np.int64, len(rendered))
        return self._assemble(tokens, sizes, primary, clipped, max_windows)

    def _assemble(
        self,
        tokens: Ragged,
        sizes: NDArray[np.int64],
        primary: NDArray[np.int64],
        clipped: NDArray[np.bool_],
        max_windows: int,
    ) -> Encoded:
        """Rows from segments: `sizes` segments of each item, one after another, the `primary` one judged."""
        pair = sizes - 1
        judged = np.cumsum(sizes) - sizes + primary
        context = judged + pair * (1 - 2 * primary)
        cuts = cut(
            tokens.counts[judged],
            tokens.counts[context] * pair,
            self.max_length - 2 - pair,
            max_windows=max_windows,
        )
        begins = np.cumsum(tokens.counts) - tokens.counts
        owner = cuts.owner
        parts = [
            (begins[judged][owner] + cuts.offset, cuts.judged),
            (begins[context][owner], cuts.context),
        ]
        swapped = primary[owner] == 1
        (first_begin, first), (second_begin, second) = (
            [np.where(swapped, b, a) for a, b in zip(parts[i], parts[1 - i], strict=True)] for i in (0, 1)
        )
        starts = np.cumsum(np.concatenate([[0], 2 + first + pair[owner] * (second + 1)]))
        # What is not overwritten below is a separator.
        ids = np.full(starts[-1], self._sep, dtype=np.int64)
        ids[starts[:-1]] = self._cls
        ids[spans(starts[:-1] + 1, first)] = tokens.ids[spans(first_begin, first)]
        ids[spans(starts[:-1] + 2 + first, second)] = tokens.ids[spans(second_begin, second)]
        return Encoded(
            ids=ids,
            starts=starts,
            first=first + 2,
            truncated=(clipped | cuts.truncated)[owner],
            windows=cuts.windows,
            pad_id=self._pad,
            max_length=self.max_length,
        )

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
