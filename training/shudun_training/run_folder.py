"""What may start or go on in a run folder: weights never stand beside a configuration they did not come from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shudun.errors import ShudunError
from shudun.normalization import NORMALIZER_VERSION
from shudun_training.config import RunConfig
from shudun_training.processes import process_count
from shudun_training.run_files import INPUTS, RECORD, TRAINER
from shudun_training.sources import SourceRecord
from shudun_training.trainer_checkpoints import whole_checkpoints


def start_run(folder: Path, config: RunConfig, sources: Mapping[str, Sequence[SourceRecord]]) -> None:
    """Begin a run from the first step; a finished run of the same folder is replaced.

    Raises:
        ShudunError: the folder holds a whole checkpoint of a run that did not finish.
    """
    if whole_checkpoints(folder / TRAINER) and not (folder / RECORD).exists():
        raise ShudunError(
            f"{folder}: holds checkpoints of a run that did not finish; go on with --resume, "
            f"or remove {folder / TRAINER} to start again"
        )
    (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder / TRAINER, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_inputs(config, sources), ensure_ascii=False, indent=2)
    (folder / INPUTS).write_text(text + "\n", encoding="utf-8")


def resume_run(folder: Path, config: RunConfig, sources: Mapping[str, Sequence[SourceRecord]]) -> None:
    """Check that a run may go on: same configuration, rows, text normalisation, number of processes.

    Raises:
        ShudunError: no run was started here, or something changed since; the message names what.
    """
    try:
        before = json.loads((folder / INPUTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ShudunError(f"{folder}: no run to resume ({error}); start without --resume") from error
    changed = differences(before, _inputs(config, sources))
    if changed:
        raise ShudunError(
            f"{folder}: cannot resume, changed since the run started: {', '.join(changed)}. "
            "Undo the change, or start again in another folder"
        )


def check_normalizer(folder: Path, record: Mapping[str, Any]) -> None:
    """Check that a finished run, by its record, was trained on text normalised as it is now.

    Raises:
        ShudunError: another version, or a run from before versions were recorded.
    """
    trained = record.get("environment", {}).get("normalizer")
    if trained != NORMALIZER_VERSION:
        raise ShudunError(
            f"{folder}: trained on text of normaliser {trained!r}, this shudun has {NORMALIZER_VERSION!r}; "
            "train again, or export with the shudun that trained it"
        )


def _inputs(config: RunConfig, sources: Mapping[str, Sequence[SourceRecord]]) -> dict[str, Any]:
    return {
        "normalizer": NORMALIZER_VERSION,
        "processes": process_count(),
        "config": config.model_dump(mode="json", exclude={"output_dir"}),
        "sources": {split: [record.to_dict() for record in records] for split, records in sources.items()},
    }


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Where two JSON values differ, as paths such as `config.training.seed`."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return [x for key in keys for x in differences(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [x for i, (old, new) in pairs for x in differences(old, new, f"{path}[{i}]")]
    return [] if before == after else [path]
