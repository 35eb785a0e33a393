"""What a search leaves behind: its trials, their states, the best configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from shudun import terminal
from shudun_training.config import RunConfig, save_run_config, with_values
from shudun_training.search_config import Value

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

TRIALS, BEST = "trials.jsonl", "best.yaml"
ERROR, STEPS = "error", "steps"
"""Attributes of a trial: why it failed, and its optimiser steps so far."""

PARTS_OF_EPOCH = 1000
"""optuna counts reports in whole numbers; a run may be measured several times in an epoch."""

_SHOWN = 5


def completed(study: Study) -> list[FrozenTrial]:
    """Completed trials, the best first."""
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

    found = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(found, key=lambda x: x.value or 0.0, reverse=study.direction == StudyDirection.MAXIMIZE)


def finished(study: Study) -> int:
    """Trials that ended by themselves; one that failed would fail again."""
    return sum(_state(trial) not in {"running", "waiting", "interrupted"} for trial in study.get_trials(deepcopy=False))


def _state(trial: FrozenTrial) -> str:
    name = trial.state.name.lower()
    return "interrupted" if name == "fail" and ERROR not in trial.user_attrs else name


def write_results(study: Study, config: RunConfig, folder: Path) -> None:
    """Write a line for each trial and, where one was completed, the best configuration; each file whole or not."""
    lines = [json.dumps(_record(trial), ensure_ascii=False) + "\n" for trial in study.get_trials(deepcopy=False)]
    _replace(folder / TRIALS, "".join(lines))
    if best := completed(study):
        save_run_config(with_values(config, best[0].params), folder / f"{BEST}.new")
        (folder / f"{BEST}.new").replace(folder / BEST)


def _record(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": _state(trial),
        "value": trial.value,
        "params": trial.params,
        "epochs": {point / PARTS_OF_EPOCH: value for point, value in sorted(trial.intermediate_values.items())},
        "steps": trial.user_attrs.get(STEPS),
        "seconds": None if trial.duration is None else round(trial.duration.total_seconds(), 3),
        "error": trial.user_attrs.get(ERROR),
    }


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def print_best(study: Study, folder: Path) -> None:
    """Show the best trials and how to train with the first of them."""
    names = list(study.best_trial.params)
    table = Table("trial", "validation", *names, title=f"best of {finished(study)} trials", title_justify="left")
    for trial in completed(study)[:_SHOWN]:
        table.add_row(str(trial.number), f"{trial.value:.4f}", *(_shown(trial.params.get(name)) for name in names))
    console = terminal.console()
    console.print(table)
    console.print(f"train it: shudun train --config {folder / BEST}", soft_wrap=True)


def _shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
