#!/usr/bin/env python
"""How good a run is by the number of its labelled rows, beside the linear baseline on the same rows.

python scripts/learning_curve.py configs/train/xhs-builtin.yaml configs/train/xhs-compact.yaml --rows 100 300 1000 all

Each configuration is trained on parts of its training rows (a smaller part lies within a larger one) with as many
steps as on all of them, up to `--most-epochs`, and measured on all its test rows. Whole runs are left in OUTPUT.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shudun_training.config import RunConfig, load_run_config, load_taxonomy
from shudun_training.pipeline import run_config
from shudun_training.provenance import environment
from shudun_training.run_files import REPORT, REPORT_JSON
from shudun_training.sources import load_examples

COLUMNS = ("configuration", "rows", "macro-F1", "macro-AP", "encoder alone", "n-gram branch alone", "linear baseline")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG")
    parser.add_argument("--rows", nargs="+", default=["100", "300", "1000", "all"], help="training rows of each part")
    parser.add_argument("--most-epochs", type=float, default=60)
    parser.add_argument("--output", type=Path, default=Path("runs/learning-curve"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = [
        measure(load_run_config(path), rows, arguments.most_epochs, arguments.output)
        for path in arguments.configs
        for rows in arguments.rows
    ]
    Console().print(table(found))
    if arguments.json is not None:
        result = {"environment": environment(), "runs": found}
        arguments.json.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def measure(config: RunConfig, rows: str, most_epochs: float, output: Path) -> dict[str, Any]:
    """Train on about so many rows (drawn by their ids), and read the run's own report."""
    total = row_count(config)
    share = 1.0 if rows == "all" else min(int(rows) / total, 1.0)
    epochs = min(config.training.num_train_epochs / share, most_epochs)
    training = config.training.model_copy(update={"num_train_epochs": epochs, "early_stopping_patience": 1000})
    train = [source.model_copy(update={"share": share}) for source in config.data.train]
    folder = (output / f"{config.name}-{rows}").resolve()
    run_config(
        config.model_copy(
            update={
                "output_dir": folder,
                "training": training,
                "data": config.data.model_copy(update={"train": train}),
            }
        )
    )
    report = json.loads((folder / REPORT / REPORT_JSON).read_text(encoding="utf-8"))
    parts = {name: part["macro_ap"] for name, part in report.get("parts", {}).items()}
    return {
        "configuration": config.name,
        "rows": round(share * total),
        "epochs": epochs,
        "model": {key: report["model"][key] for key in ("macro_f1", "macro_ap")},
        "parts_macro_ap": parts,
        "baseline": {key: report["baseline"][key] for key in ("macro_f1", "macro_ap")},
        "difference": report["difference"],
    }


def row_count(config: RunConfig) -> int:
    rows, _ = load_examples(
        config.data.train,
        load_taxonomy(config.taxonomy),
        on_bad_row="fail",
        rejected_dir=config.output_dir / "rejected",
    )
    return len(rows)


def table(found: list[dict[str, Any]]) -> Table:
    made = Table(*COLUMNS, title="by the number of training rows; parts and baseline: macro-AP")
    for run in found:
        parts = run["parts_macro_ap"]
        made.add_row(
            run["configuration"],
            f"{run['rows']:,}",
            f"{run['model']['macro_f1']:.3f}",
            f"{run['model']['macro_ap']:.3f}",
            f"{parts['encoder']:.3f}" if parts else "",
            f"{parts['ngram_branch']:.3f}" if parts else "",
            f"{run['baseline']['macro_ap']:.3f}",
        )
    return made


if __name__ == "__main__":
    main()
