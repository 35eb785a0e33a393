"""Token ids of text segments: the `tokenizers` library, and a table in front of it for BERT-style tokenizers.

In a BERT-style tokenizer every Chinese character and every punctuation mark is a token of its own, whatever stands
beside it. `TableEncoder` looks those up in an array by code point and asks the library only for the words between
them, each distinct word once. What a character is, is not assumed but asked of the library, when it is first met; so
the ids are the library's own, at a fraction of the time. Knows nothing of items, special tokens or truncation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

UNSEEN, IN_WORD, NO_TOKEN = -3, -2, -1
"""Table values of characters that are no token by themselves: not asked for yet, part of a word, separator."""

CODE_POINTS = 0x110000
SEPARATOR = "\n"
PASS_CHARACTERS = 1 << 20
"""Characters that are encoded in one pass, so that memory stays bounded."""

CACHED_WORDS, CACHED_WORD_CHARACTERS = 1 << 16, 32
"""Most words that are remembered, and the length up to which they are."""


class Ragged(NamedTuple):
    """Token ids of many segments one after another: int64 `ids`, and int64 `counts` of each segment, `(n,)`."""

    ids: NDArray[np.int64]
    counts: NDArray[np.int64]


class SegmentEncoder(Protocol):
    """Turns segments into token ids."""

    def encode(self, segments: Sequence[str]) -> Ragged:
        """Token ids of each segment, without special tokens."""


def segment_encoder(tokenizer: Tokenizer) -> SegmentEncoder:
    """The fastest encoder that returns exactly what `tokenizer` would."""
    library = LibraryEncoder(tokenizer)
    return TableEncoder(tokenizer, library) if _is_bert_style(tokenizer) else library


class LibraryEncoder:
    """The library alone, for any tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, segments: Sequence[str]) -> Ragged:
        """Token ids of each segment, without special tokens."""
        ids = self.lists(segments)
        return Ragged(_flat(ids), np.fromiter(map(len, ids), np.int64, len(ids)))

    def lists(self, segments: Sequence[str]) -> list[list[int]]:
        """Token ids of each segment as a list."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(segments, add_special_tokens=False)]


class TableEncoder:
    """Characters by table, words by a bounded cache of the library's answers."""

    def __init__(self, tokenizer: Tokenizer, library: LibraryEncoder) -> None:
        self._tokenizer = tokenizer
        self._library = library
        self._table = np.full(CODE_POINTS, UNSEEN, dtype=np.int32)
        self._words: dict[str, list[int]] = {}

    def encode(self, segments: Sequence[str]) -> Ragged:
        """Token ids of each segment, without special tokens."""
        passes = [self._encode_pass(group) for group in _groups(segments)]
        if len(passes) == 1:
            return passes[0]
        ids, counts = zip(*passes, strict=True) if passes else ([], [])
        return Ragged(np.concatenate([*ids, np.empty(0, np.int64)]), np.concatenate([*counts, np.empty(0, np.int64)]))

    def _encode_pass(self, segments: Sequence[str]) -> Ragged:
        text = SEPARATOR.join([*segments, ""])
        tokens = self._characters(np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32))
        starts, ends = _runs(tokens == IN_WORD)
        words = self._word_ids([text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)])
        # Tokens that each character stands for: a word's all stand at its first one.
        single = tokens >= 0
        counts = single.astype(np.int64)
        counts[starts] = words.counts
        places = np.cumsum(counts)
        ids = np.empty(places[-1], dtype=np.int64)
        places -= counts
        ids[places[single]] = tokens[single]
        ids[spans(places[starts], words.counts)] = words.ids
        ends_of_segments = np.cumsum(np.fromiter(map(len, segments), np.int64, len(segments)) + 1) - 1
        return Ragged(ids, np.diff(places[ends_of_segments], prepend=0))

    def _characters(self, codes: NDArray[np.uint32]) -> NDArray[np.int32]:
        tokens = self._table[codes]
        unseen = tokens == UNSEEN
        if unseen.any():
            for code in np.unique(codes[unseen]).tolist():
                self._table[code] = self._classify(chr(code))
            tokens = self._table[codes]
        return tokens

    def _classify(self, character: str) -> int:
        """What the library makes of a character between two letters, whose tokens it must leave alone."""
        normalised = self._tokenizer.normalizer.normalize_str(f"a{character}a")
        pieces = [piece for piece, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(normalised)]
        if pieces == ["a", "a"]:
            return NO_TOKEN
        (ids,) = self._library.lists([character])
        alone = len(pieces) == 3 and pieces[0] == pieces[2] == "a" and len(ids) == 1
        return ids[0] if alone else IN_WORD

    def _word_ids(self, words: list[str]) -> Ragged:
        known = self._words
        missing = list({word for word in words if word not in known})
        if missing:
            found = dict(zip(missing, self._library.lists(missing), strict=True))
            known = known | found
            short = {word: ids for word, ids in found.items() if len(word) <= CACHED_WORD_CHARACTERS}
            # Another thread may be reading the dictionary: it is replaced, never emptied.
            self._words = short if len(known) > CACHED_WORDS else self._words | short
        ids = [known[word] for word in words]
        return Ragged(_flat(ids), np.fromiter(map(len, ids), np.int64, len(ids)))


def spans(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers `start, start + 1, ...`, `length` of them for each pair, one after another."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def _is_bert_style(tokenizer: Tokenizer) -> bool:
    names = (type(tokenizer.normalizer).__name__, type(tokenizer.model).__name__)
    plain = all(token.special for token in tokenizer.get_added_tokens_decoder().values())
    if names != ("BertNormalizer", "WordPiece") or not plain or not tokenizer.encode_special_tokens:
        return False
    rule = json.loads(tokenizer.pre_tokenizer.__getstate__()) if tokenizer.pre_tokenizer is not None else {}
    first, *rest = rule.get("pretokenizers", [rule])
    return first.get("type") == "BertPreTokenizer" and all(map(_splits_characters, rest))


def _splits_characters(rule: Mapping[str, Any]) -> bool:
    """Whether a pre-tokeniser only sets single characters apart, whatever their neighbours."""
    if rule["type"] == "Digits":
        return bool(rule["individual_digits"])
    pattern = rule.get("pattern", {}).get("Regex", "")
    one_class = re.fullmatch(r"\[[^\[\]^]+\]", pattern) is not None
    return rule["type"] == "Split" and rule["behavior"] == "Isolated" and not rule["invert"] and one_class


def _groups(segments: Sequence[str]) -> Iterator[Sequence[str]]:
    """Consecutive segments of about `PASS_CHARACTERS` together."""
    start = size = 0
    for end, segment in enumerate(segments):
        if size + len(segment) > PASS_CHARACTERS and end > start:
            yield segments[start:end]
            start, size = end, 0
        size += len(segment) + 1
    if start < len(segments):
        yield segments[start:]


def _runs(inside: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends of the runs of `True`."""
    edges = np.flatnonzero(np.diff(inside.view(np.int8), prepend=0, append=0))
    return edges[::2], edges[1::2]


def _flat(ids: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.fromiter(chain.from_iterable(ids), np.int64, sum(map(len, ids)))
