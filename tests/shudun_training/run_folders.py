"""Run folders written by hand, with the fields that a test asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from shudun_training.row_scores import RowScores

LABELS = ("a", "b")


def figures(value: float) -> dict[str, Any]:
    row = {"f1": value, "ap": value, "positives": 5, "threshold": 0.5}
    return {
        "macro_f1": value,
        "micro_f1": value,
        "macro_ap": value,
        "per_label": {label: dict(row) for label in LABELS},
    }


def sources(**changed: str) -> dict[str, list[dict[str, Any]]]:
    """Records of three splits; `test="..."` changes the checksum of a split's rows."""
    sizes = {"train": 30, "validation": 10, "test": 12}
    return {
        split: [{"path": f"/x/{split}", "sha256": changed.get(split, split), "good": size, "used": size, "columns": {}}]
        for split, size in sizes.items()
    }


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def make_run(
    folder: Path,
    *,
    upto: str = "report",
    value: float = 0.5,
    config: Mapping[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    finished: str = "2026-11-20T10:00:00+00:00",
    scores: RowScores | None = None,
) -> Path:
    """A run folder as it is once it was started, trained, or measured (`upto` start, record, report)."""
    model: dict[str, Any] = {"encoder": None, "compact": {"num_hidden_layers": 2, "hidden_size": 16}}
    whole = {"name": folder.name, "output_dir": str(folder), "model": model, "training": {"num_train_epochs": 3}}
    whole |= config or {}
    write_json(folder / "inputs.json", {"config": whole, "sources": data or sources()})
    (folder / "config.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    lines = [{"step": 4, "epoch": 1.0, "seconds": 8.0}, {"step": 8, "epoch": 2.0, "seconds": 16.5}]
    (folder / "curves.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    if upto == "start":
        return folder
    record = {
        "name": whole["name"],
        "finished": finished,
        "environment": {"shudun": "0", "normalizer": "1", "git_revision": "abc", "packages": {"torch": "2"}},
        "sources": data or sources(),
        "steps": 8,
        "log": [{"epoch": 2.0, "loss": 0.1}, {"train_runtime": 16.0, "epoch": 2.0}],
    }
    write_json(folder / "run.json", record)
    if upto == "record":
        return folder
    write_json(folder / "bundle" / "metrics.json", {"validation": figures(value + 0.1)})
    report = {
        "model": figures(value),
        "baseline": figures(0.4),
        "difference": {"macro_f1": {"delta": 0.1, "low": 0.05, "high": 0.2, "resamples": 1000}, "macro_ap": None},
        "counts": {"rows": 12},
        "split": "test",
    }
    write_json(folder / "report" / "report.json", report)
    if scores is not None:
        scores.save(folder / "report" / "scores.npz")
    return folder


def random_scores(seed: int, *, rows: int = 40, skill: float = 0.3) -> RowScores:
    """Scores of the same rows with the same labels for every seed."""
    truth = (np.random.default_rng(99).random((rows, len(LABELS))) < 0.4).astype(np.int64)
    scores = (skill * truth + (1 - skill) * np.random.default_rng(seed).random(truth.shape)).astype(np.float32)
    return RowScores(LABELS, np.arange(rows, dtype=np.uint64), scores, scores >= 0.5, truth)
