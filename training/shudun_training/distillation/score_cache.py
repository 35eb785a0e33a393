"""Teachers' logits on disk: one file for each teacher and chunk of texts, named by the digest of the texts.

A chunk is found again by what its texts are, wherever they stand, so a second run, a resumed one, or one with more
texts computes only what is new; another teacher has another folder. Each file carries a checksum of its numbers: a
damaged one counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

MANIFEST = "manifest.json"


class ScoreCache:
    """The files of one teacher; logits are float32 `(rows, num_labels)`."""

    def __init__(self, root: Path, identity: Mapping[str, Any], num_labels: int) -> None:
        """`identity`: all that the logits depend on beside the texts, as JSON values; it names the folder."""
        text = json.dumps(identity, ensure_ascii=True, sort_keys=True)
        self.folder = root / hashlib.sha256(text.encode("ascii")).hexdigest()[:20]
        self._num_labels = num_labels
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / MANIFEST, (json.dumps(identity, ensure_ascii=False, indent=2) + "\n").encode("utf-8"))

    def read(self, digest: str) -> NDArray[np.float32] | None:
        """Logits of the chunk with this digest; `None` where they are absent or damaged."""
        try:
            with safe_open(self._path(digest), framework="numpy") as file:
                logits: NDArray[np.float32] = file.get_tensor("logits")
                expected = (file.metadata() or {}).get("sha256")
        except (OSError, SafetensorError):
            return None
        sound = logits.dtype == np.float32 and logits.shape[1:] == (self._num_labels,)
        return logits if sound and expected == _checksum(logits) else None

    def write(self, digest: str, logits: NDArray[np.float32]) -> None:
        """Keep the logits of a chunk; the file appears whole or not at all."""
        data = save({"logits": np.ascontiguousarray(logits)}, metadata={"sha256": _checksum(logits)})
        write_whole(self._path(digest), data)

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.safetensors"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that others may be waiting for: it takes its name when all of it is on disk."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _checksum(logits: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(logits).tobytes()).hexdigest()
