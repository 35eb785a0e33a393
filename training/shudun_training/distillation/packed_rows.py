"""Tokenised unlabelled rows and their teachers' logits on disk, read row by row through memory maps.

Flat files, rows one after another, and a manifest that is written last: without it the folder is unfinished. Any
number of rows costs a few pages of memory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shudun.tokenization import Encoded
from shudun_training.distillation.score_cache import write_whole

MANIFEST, IDS, STARTS, FIRST, LOGITS = "manifest.json", "ids.bin", "starts.bin", "first.bin", "logits.bin"


class PackedRow(NamedTuple):
    """One row: token ids int64 `(tokens,)`, tokens of segment 0, and logits float32 `(num_labels,)`."""

    ids: NDArray[np.int64]
    first: int
    logits: NDArray[np.float32]


def pack(
    folder: Path, key: str, batches: Iterable[tuple[Encoded, NDArray[np.float32]]], *, vocab_size: int, num_labels: int
) -> None:
    """Write rows, replacing what is in `folder`; `key` names all that they were made of."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    id_type = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
    rows = tokens = 0
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in (IDS, STARTS, FIRST, LOGITS)}
        for encoded, logits in batches:
            files[IDS].write(encoded.ids.astype(id_type).tobytes())
            files[STARTS].write((encoded.starts[:-1] + tokens).tobytes())
            files[FIRST].write(encoded.first.astype(np.uint16).tobytes())
            files[LOGITS].write(logits.astype(np.float32).tobytes())
            rows += len(logits)
            tokens += len(encoded.ids)
        files[STARTS].write(np.array([tokens], dtype=np.int64).tobytes())
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    manifest = {"key": key, "rows": rows, "tokens": tokens, "ids": id_type.name, "labels": num_labels}
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=2).encode("ascii"))


def is_packed(folder: Path, key: str) -> bool:
    """Whether `folder` holds whole files of this key."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        sizes = {name: (folder / name).stat().st_size for name in (IDS, STARTS, FIRST, LOGITS)}
    except (OSError, ValueError):
        return False
    return bool(manifest["key"] == key) and sizes == _sizes(manifest)


class PackedRows:
    """Random access to packed rows; opening costs nothing that grows with their number."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        rows, tokens, labels = manifest["rows"], manifest["tokens"], manifest["labels"]
        self._ids = _mapped(folder / IDS, manifest["ids"], (tokens,))
        self._starts = _mapped(folder / STARTS, "int64", (rows + 1,))
        self._first = _mapped(folder / FIRST, "uint16", (rows,))
        self._logits = _mapped(folder / LOGITS, "float32", (rows, labels))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row `(rows,)`."""
        return np.diff(self._starts)

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, row: int) -> PackedRow:
        ids = self._ids[self._starts[row] : self._starts[row + 1]].astype(np.int64)
        return PackedRow(ids, int(self._first[row]), np.array(self._logits[row]))


def _sizes(manifest: dict[str, Any]) -> dict[str, int]:
    rows = manifest["rows"]
    return {
        IDS: manifest["tokens"] * np.dtype(manifest["ids"]).itemsize,
        STARTS: 8 * (rows + 1),
        FIRST: 2 * rows,
        LOGITS: 4 * rows * manifest["labels"],
    }


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=dtype, mode="r", shape=shape) if 0 not in shape else np.empty(shape, dtype=dtype)
