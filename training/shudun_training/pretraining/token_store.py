"""Tokenised texts on disk: ids of all texts one after another, read back through memory maps.

A store is written once for a corpus and a tokenizer and holds whole texts with their special tokens; what a training
step sees of them is the business of `packing`. Knows nothing of masks or models.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shudun.errors import ShudunError
from shudun.tokenization import Encoded
from shudun.wordpiece import spans

IDS, STARTS, FIRST, BEGINS, META = "ids.bin", "starts.npy", "first.npy", "begins_word.bin", "store.json"


@dataclass(frozen=True, slots=True)
class TokenStore:
    """Token ids of many texts.

    `ids`: uint16 or uint32, all texts one after another, text `i` is `ids[starts[i]:starts[i + 1]]`, special tokens
    included. `starts`: int64 `(texts + 1,)`. `first`: int32 `(texts,)`, tokens of each text that belong to segment 0.
    `begins_word`: bool as long as `ids`, or `None` where words were not looked for.
    """

    ids: NDArray[np.unsignedinteger]
    starts: NDArray[np.int64]
    first: NDArray[np.int32]
    begins_word: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, shape `(texts,)`."""
        return np.diff(self.starts)


@dataclass(frozen=True, slots=True)
class _Meta:
    fingerprint: str
    dtype: str
    texts: int
    tokens: int
    words: bool


class StoreWriter:
    """Appends encoded texts to a store; use it as a context manager.

    The description is written last: a folder without it is no store.
    """

    def __init__(self, folder: Path, fingerprint: str, *, vocab_size: int, words: bool) -> None:
        """`fingerprint` says what the texts and the tokenizer were; `words`: word borders are given as well."""
        self.texts = 0
        self._folder, self._fingerprint = folder, fingerprint
        self._dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        self._lengths: list[NDArray[np.int64]] = []
        self._first: list[NDArray[np.int32]] = []
        folder.mkdir(parents=True, exist_ok=True)
        for name in (META, BEGINS):
            (folder / name).unlink(missing_ok=True)
        self._ids = (folder / IDS).open("wb")
        self._begins = (folder / BEGINS).open("wb") if words else None

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ids.close()
        if self._begins is not None:
            self._begins.close()
        if kind is None:
            self._finish()

    def add(self, encoded: Encoded, rows: NDArray[np.int64], begins_word: NDArray[np.bool_] | None = None) -> None:
        """Append the given rows in their order, some perhaps several times; `begins_word` is as long as all ids.

        Raises:
            ValueError: word borders are missing, or not asked for.
        """
        if (begins_word is None) != (self._begins is None):
            raise ValueError("word borders are given for all texts of a store or for none")
        lengths = encoded.lengths[rows]
        source = spans(encoded.starts[rows], lengths)
        self._ids.write(encoded.ids[source].astype(self._dtype).tobytes())
        if self._begins is not None and begins_word is not None:
            self._begins.write(begins_word[source].tobytes())
        self._lengths.append(lengths)
        self._first.append(encoded.first[rows].astype(np.int32))
        self.texts += len(rows)

    def _finish(self) -> None:
        starts = np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *self._lengths]))])
        np.save(self._folder / STARTS, starts)
        np.save(self._folder / FIRST, np.concatenate([np.empty(0, np.int32), *self._first]))
        meta = _Meta(self._fingerprint, self._dtype.name, self.texts, int(starts[-1]), self._begins is not None)
        (self._folder / META).write_text(json.dumps(asdict(meta), indent=2) + "\n", encoding="utf-8")


def read_store(folder: Path, fingerprint: str) -> TokenStore | None:
    """Open a store; `None` where there is none of these texts and this tokenizer.

    Raises:
        ShudunError: the store is these texts', but its files do not fit together.
    """
    try:
        meta = _Meta(**json.loads((folder / META).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    if meta.fingerprint != fingerprint:
        return None
    try:
        store = TokenStore(
            ids=_mapped(folder / IDS, np.dtype(meta.dtype), meta.tokens),
            starts=np.load(folder / STARTS, allow_pickle=False),
            first=np.load(folder / FIRST, allow_pickle=False),
            begins_word=_mapped(folder / BEGINS, np.dtype(np.bool_), meta.tokens) if meta.words else None,
        )
    except (OSError, ValueError) as error:
        raise ShudunError(f"{folder}: the token store is damaged ({error}); remove it to have it made again") from error
    if len(store) != meta.texts or len(store.first) != meta.texts or store.starts[-1] != meta.tokens:
        raise ShudunError(f"{folder}: the token store is damaged; remove it to have it made again")
    return store


def _mapped(path: Path, dtype: np.dtype[Any], size: int) -> NDArray[Any]:
    if path.stat().st_size != size * dtype.itemsize:
        raise ValueError(f"{path.name} holds {path.stat().st_size:,} bytes, expected {size * dtype.itemsize:,}")
    return np.memmap(path, dtype=dtype, mode="r") if size else np.empty(0, dtype)
