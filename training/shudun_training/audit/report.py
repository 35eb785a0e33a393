"""The report of an audit as data: what `--json` writes and what the terminal and the page show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shudun.taxonomy import Taxonomy
from shudun_training.audit.findings import LEVELS, Finding
from shudun_training.audit.labels import LabelCounts
from shudun_training.audit.surface import FEATURES
from shudun_training.audit.tokens import UnknownTokens

LENGTH_EDGES = (0, 5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 1000, 1 << 31)
"""Limits of the length histogram in characters."""


@dataclass(frozen=True, slots=True)
class AuditedFile:
    """One file and its rows: `read == good + rejected`."""

    path: str
    read: int
    good: int
    rejected: int


@dataclass(frozen=True)
class AuditReport:
    """Everything that was found.

    `surface` is `(num_labels, len(FEATURES))` AUCs, NaN where there are too few rows; `lengths` holds histograms of
    the characters of positive and of clean rows over `LENGTH_EDGES`; `repeated` the rows that repeat another one,
    exactly and nearly, as far as that was looked for; `personal_data` kind → findings.
    """

    taxonomy: Taxonomy
    files: Sequence[AuditedFile]
    splits: Sequence[str]
    counts: LabelCounts
    surface: NDArray[np.float64]
    lengths: Mapping[str, NDArray[np.int64]]
    near_duplicates: str
    repeated: Mapping[str, int]
    vocabulary: str
    unknown_tokens: Mapping[str, UnknownTokens]
    personal_data: Mapping[str, int]
    findings: Sequence[Finding]
    seconds: float

    @property
    def rows(self) -> int:
        """Good rows of all files."""
        return sum(file.good for file in self.files)

    def level_counts(self) -> dict[str, int]:
        """Level → number of findings."""
        return {level: sum(finding.level == level for finding in self.findings) for level in LEVELS}

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values; figures that do not exist are null."""
        labels = self.taxonomy.label_ids
        return {
            "taxonomy": {"id": self.taxonomy.id, "version": self.taxonomy.version},
            "files": [asdict(file) for file in self.files],
            "findings": [finding.to_dict() for finding in self.findings],
            "splits": {split: self._split(number) for number, split in enumerate(self.splits)},
            "surface_auc": {
                label: {
                    feature: None if np.isnan(value) else round(float(value), 4)
                    for feature, value in zip(FEATURES, self.surface[index], strict=True)
                }
                for index, label in enumerate(labels)
            },
            "near_duplicates": {"mode": self.near_duplicates, "repeated_rows": dict(self.repeated)},
            "unknown_tokens": {
                "vocabulary": self.vocabulary,
                "splits": {split: asdict(found) | {"rate": found.rate} for split, found in self.unknown_tokens.items()},
            },
            "personal_data": dict(self.personal_data),
            "seconds": round(self.seconds, 3),
        }

    def write_json(self, path: Path) -> None:
        """Write `to_dict` as a file, folders included."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=2, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")

    def _split(self, number: int) -> dict[str, Any]:
        labels, counts = self.taxonomy.label_ids, self.counts
        together = counts.together[number]
        return {
            "rows": int(counts.rows[number]),
            "notes": int(counts.kinds[number, 0]),
            "comments": int(counts.kinds[number, 1]),
            "clean": int(counts.clean[number]),
            "positives": dict(zip(labels, counts.positives[number].tolist(), strict=True)),
            "unknown": dict(zip(labels, counts.unknown[number].tolist(), strict=True)),
            "together": [
                [labels[i], labels[j], int(together[i, j])] for i, j in np.argwhere(np.triu(together, k=1)).tolist()
            ],
        }
