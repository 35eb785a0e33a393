"""Names of what lies in a run folder; see `pipeline` for what each holds. Light to import."""

from __future__ import annotations

CONFIG, INPUTS, RECORD = "config.yaml", "inputs.json", "run.json"
STARTS, LOCK = "starts.jsonl", ".lock"
CURVES, CURVES_PICTURE = "curves.jsonl", "curves.svg"
TRAINER, CHECKPOINT, BUNDLE, REPORT = "trainer", "checkpoint", "bundle", "report"
REPORT_JSON, REPORT_TEXT, SCORES = "report.json", "report.md", "scores.npz"
"""These three lie in REPORT."""

METRICS = "metrics.json"
"""This one lies in a bundle."""
