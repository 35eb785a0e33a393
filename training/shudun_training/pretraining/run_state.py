"""What may start or go on in a pre-training folder: weights never stand beside texts or settings they did not see.

Settings that change no weight (how often to save, measure or write a line) may be changed on resume. The number of
steps may be changed as long as the learning rate was the same in every step done.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shudun.errors import ShudunError
from shudun.normalization import NORMALIZER_VERSION
from shudun_training.pretraining.checkpointing import Checkpoints
from shudun_training.pretraining.config import OptimizationConfig, PretrainConfig
from shudun_training.pretraining.corpus import TextRecord
from shudun_training.pretraining.schedule import Schedule
from shudun_training.run_folder import differences

RECORD, INPUTS, CURVE, CHECKPOINTS = "run.json", "inputs.json", "curve.jsonl", "checkpoints"
SCHEDULED = ("steps", "warmup_steps", "decay_steps")
HARMLESS = ("save_steps", "save_total_limit", "logging_steps")


def schedule_of(training: OptimizationConfig) -> Schedule:
    """The schedule that a configuration asks for."""
    return Schedule(training.steps, training.warmup_steps, training.decay_steps)


def start_run(folder: Path, checkpoints: Checkpoints) -> None:
    """Begin a run; a finished one of the same folder is replaced.

    Raises:
        ShudunError: the folder holds checkpoints of a run that did not finish.
    """
    if len(checkpoints) and not (folder / RECORD).exists():
        raise ShudunError(
            f"{folder}: holds checkpoints of a run that did not finish; go on with --resume, "
            f"or remove {folder / CHECKPOINTS} to start again"
        )
    for name in (RECORD, CURVE, INPUTS):
        (folder / name).unlink(missing_ok=True)
    checkpoints.clear()
    folder.mkdir(parents=True, exist_ok=True)


def settle_inputs(
    folder: Path,
    config: PretrainConfig,
    records: Sequence[TextRecord],
    vocabulary: str,
    *,
    step: int,
    resume: bool,
) -> None:
    """Write what a run learns from; on `resume` first check that it may go on from a step.

    Texts, vocabulary, settings and the learning rates of all steps done must be the same.

    Raises:
        ShudunError: no run was started here, or something changed since; the message names what.
    """
    inputs = _inputs(config, records, vocabulary)
    if resume:
        _require_same(folder, inputs, schedule_of(config.training), step)
    text = json.dumps(inputs, ensure_ascii=False, indent=2)
    (folder / INPUTS).write_text(text + "\n", encoding="utf-8")


def _require_same(folder: Path, after: dict[str, Any], schedule: Schedule, step: int) -> None:
    try:
        before = json.loads((folder / INPUTS).read_text(encoding="utf-8"))
        past = Schedule(**before["schedule"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShudunError(f"{folder}: no run to resume ({error}); start without --resume") from error
    changed = differences({**before, "schedule": None}, {**after, "schedule": None})
    if changed:
        raise ShudunError(
            f"{folder}: cannot resume, changed since the run started: {', '.join(changed)}. "
            "Undo the change, or start again in another folder"
        )
    if not past.agrees(schedule, step):
        raise ShudunError(
            f"{folder}: cannot resume at step {step:,} with {', '.join(f'training.{name}' for name in SCHEDULED)} of "
            f"this configuration: steps done would have had other learning rates (steps {past.steps:,}, warmup "
            f"{past.warmup_steps:,}, decay {past.decay_steps:,}). Before the learning rate begins to fall 'steps' may "
            "be changed; afterwards begin a new run at an earlier checkpoint with --branch"
        )


def _inputs(config: PretrainConfig, records: Sequence[TextRecord], vocabulary: str) -> dict[str, Any]:
    values = config.model_dump(mode="json", exclude={"output_dir", "weights"})
    training = values["training"]
    del values["held_out"]["every_steps"]
    for name in (*SCHEDULED, *HARMLESS):
        del training[name]
    return {
        "normalizer": NORMALIZER_VERSION,
        "vocabulary": vocabulary,
        "config": values,
        "schedule": schedule_of(config.training)._asdict(),
        "sources": [record.to_dict() for record in records],
    }
