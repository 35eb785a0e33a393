"""One checksum over all labelled data of a run, and one for each split: equal exactly when the same rows were used.

Made from the recorded sources, so that runs of any age and machine compare; where the files lie does not matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

FIELDS: dict[str, Any] = {"sha256": None, "columns": {}, "annotated_labels": None, "share": 1.0, "repeat": 1}
"""What of a source decides which rows it gives, with the value that older records leave out."""

ALL = "all"


def data_checksums(sources: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Hex sha256 for `"all"` data and for each split, from source records (`SourceRecord.to_dict`)."""
    parts = {
        split: [{name: record.get(name, default) for name, default in FIELDS.items()} for record in records]
        for split, records in sorted(sources.items())
    }
    return {ALL: _digest(parts), **{split: _digest(records) for split, records in parts.items()}}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()
