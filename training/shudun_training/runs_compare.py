"""`shudun runs compare`: what differs between runs in configuration, data and versions, and in figures.

Differences of figures are shown only where they mean something: between systems measured on the same rows with the
same labels. Where the scores of these rows were kept, each has a paired 95 % bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shudun.errors import ShudunError
from shudun_training.bootstrap import Interval, paired_differences
from shudun_training.row_scores import RowScores, load_row_scores
from shudun_training.run_files import REPORT, SCORES
from shudun_training.run_summary import RunFiles, checksums, flattened, read_run_files

UNCOMPARED = {"name", "output_dir"}
"""Keys of a configuration that say where a run lies, not what it is."""

PER_LABEL = ("f1", "ap")


@dataclass(frozen=True, slots=True)
class Run:
    """One run to compare: its shown name, its files and, where they were kept, the scores of its measured rows."""

    shown: str
    files: RunFiles
    scores: RowScores | None

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read a run folder.

        Raises:
            ShudunError: the folder holds no run, or a file of it is damaged.
        """
        path = folder / REPORT / SCORES
        files = read_run_files(folder)
        scores = load_row_scores(path) if files.report is not None and path.exists() else None
        return cls(str(folder), files, scores)


def compare(runs: Sequence[Run], *, seed: int = 0) -> dict[str, Any]:
    """Compare runs with the first of them, as plain JSON values.

    Returns:
        `runs`; `config` and `versions` (changed keys → a value for each run); `data` (checksums for each run, and
        whether they are `same`); `metrics` (figures for each run, overall and per label); `differences`, one for
        each run after the first: `comparable` with `why`, and run minus first with intervals where there are any.
    """
    first, *others = runs
    return {
        "runs": [run.shown for run in runs],
        "config": _changed([dict(flattened(_compared(run.files.config))) for run in runs]),
        "data": _data(runs),
        "versions": _changed([dict(flattened(run.files.environment)) for run in runs]),
        "metrics": [_metrics(run) for run in runs],
        "differences": [_difference(run, first, seed=seed) for run in others],
    }


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in UNCOMPARED}


def _changed(values: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Keys whose values differ; an absent one is `None`, as one that a configuration leaves open."""
    keys = dict.fromkeys(key for mapping in values for key in mapping)
    return {
        key: [mapping.get(key) for mapping in values]
        for key in keys
        if any(mapping.get(key) != values[0].get(key) for mapping in values)
    }


def _data(runs: Sequence[Run]) -> dict[str, Any]:
    found = [checksums(run.files.sources) for run in runs]
    names = dict.fromkeys(name for mapping in found for name in mapping)
    return {
        name: {
            "same": all(mapping.get(name) == found[0].get(name) for mapping in found),
            "checksums": [mapping.get(name) for mapping in found],
        }
        for name in names
    }


def _metrics(run: Run) -> dict[str, Any] | None:
    report = run.files.report
    if report is None:
        return None
    return {
        "measured_on": report.split,
        "rows": report.counts.get("rows"),
        "test": report.model.overall(),
        "baseline": report.baseline.overall(),
        "validation": None if run.files.validation is None else run.files.validation.overall(),
        "per_label": {
            label: {name: row.get(name) for name in (*PER_LABEL, "positives")}
            for label, row in report.model.per_label.items()
        },
    }


def _difference(run: Run, first: Run, *, seed: int) -> dict[str, Any]:
    """Run minus first: intervals where both kept their scores, plain differences where the data are the same."""
    comparable, why = _comparable(run, first)
    result: dict[str, Any] = {"run": run.shown, "minus": first.shown, "comparable": comparable, "why": why}
    if not comparable:
        return result
    if run.scores is not None and first.scores is not None:
        ours, theirs = run.scores.ordered(), first.scores.ordered()
        found = paired_differences(ours.predictions, theirs.predictions, ours.references, seed=seed)
        labels = dict(zip(ours.label_ids, found.per_label, strict=True))
        return result | {"intervals": True, "overall": found.macro, "per_label": labels}
    return result | {"intervals": False, **_plain(run.files, first.files)}


def _comparable(run: Run, first: Run) -> tuple[bool, str]:
    """Whether two runs were measured on the same rows with the same labels, and the reason in words."""
    ours, theirs = run.files.report, first.files.report
    if ours is None or theirs is None:
        return False, f"{(run if ours is None else first).shown} has no report"
    if list(ours.model.per_label) != list(theirs.model.per_label):
        return False, "the labels differ"
    if run.scores is not None and first.scores is not None:
        return _same_rows(run.scores, first.scores)
    if _measured_rows(run.files) != _measured_rows(first.files):
        return False, "the measured rows differ: figures of different rows do not compare"
    return True, "the same rows; no intervals, since the scores of the rows were not kept by both"


def _measured_rows(files: RunFiles) -> str | None:
    """Checksum of the rows that a report is about."""
    if files.report is None:
        return None
    found = files.report.data or files.sources.get(files.report.split)
    return None if found is None else checksums({"measured": found})["measured"]


def _same_rows(run: RowScores, first: RowScores) -> tuple[bool, str]:
    ours, theirs = run.ordered(), first.ordered()
    if not np.array_equal(ours.rows, theirs.rows):
        shared = len(np.intersect1d(ours.rows, theirs.rows))
        counts = f"{len(ours.rows):,} and {len(theirs.rows):,} rows, {shared:,} of them shared"
        return False, f"the measured rows differ ({counts}): figures of different rows do not compare"
    changed = int((ours.references != theirs.references).any(axis=1).sum())
    if changed:
        return False, f"the same texts, but {changed:,} of {len(ours.rows):,} rows are labelled otherwise"
    return True, f"the same {len(ours.rows):,} rows with the same labels"


def _plain(run: RunFiles, first: RunFiles) -> dict[str, Any]:
    if run.report is None or first.report is None:
        raise ShudunError("expected two measured runs")
    ours, theirs = run.report.model, first.report.model
    return {
        "overall": {
            f"macro_{name}": _delta(getattr(ours, f"macro_{name}"), getattr(theirs, f"macro_{name}"))
            for name in PER_LABEL
        },
        "per_label": {
            label: {name: _delta(row.get(name), theirs.per_label[label].get(name)) for name in PER_LABEL}
            for label, row in ours.per_label.items()
        },
    }


def _delta(ours: float | None, theirs: float | None) -> Interval | None:
    return None if ours is None or theirs is None else {"delta": ours - theirs}
