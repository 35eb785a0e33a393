"""One process of a distributed run, started by a launcher: fits the tiny model and notes what it saw.

`python distributed_fit.py SETTINGS.json`; the notes of process N go to `notes-N.json` beside the settings.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import accelerate.state
from accelerate.utils import DistributedType
from tiny_fit import fit_tiny, make_rows
from transformers import modeling_utils

from shudun import Taxonomy
from shudun_training import finetune


def allow_sharding_on_cpus() -> None:
    """FSDP2 works over gloo; accelerate turns it on for GPUs alone, so processes on CPUs pass for such."""
    begin = accelerate.state.PartialState.__init__

    def begin_as_gpu(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    accelerate.state.PartialState.__init__ = begin_as_gpu


def note_rows(notes: dict[str, list[Any]]) -> None:
    """Note the rows of each training batch by number, and the labels of each evaluation as it is measured."""
    make, collate, measure = finetune.training_dataset, finetune.Collator.__call__, finetune.EpochMetrics.__call__

    def numbered(*args: Any) -> Any:
        rows = make(*args)
        return rows.add_column("number", list(range(len(rows))))

    def noting_collate(self: Any, rows: Any) -> Any:
        if "number" in rows[0]:
            notes["batches"].append([row["number"] for row in rows])
        return collate(self, rows)

    def noting_measure(self: Any, prediction: Any) -> Any:
        notes["measured"].append(prediction.label_ids.tolist())
        return measure(self, prediction)

    finetune.training_dataset = numbered
    finetune.Collator.__call__ = noting_collate
    finetune.EpochMetrics.__call__ = noting_measure


def stop_at(step: int) -> None:
    """Let every process end without a word at the beginning of a step."""

    def on_step_begin(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            os._exit(7)

    finetune.EpochLines.on_step_begin = on_step_begin


def main(path: Path) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    rank = os.environ["RANK"]
    # The mode of each file tells who wrote it, whatever library did; safetensors has a mode of its own.
    if rank != "0":
        os.umask(0o027)
        modeling_utils.safe_save_file = None
    notes: dict[str, list[Any]] = {"batches": [], "measured": []}
    note_rows(notes)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and settings["sharded"]:
        allow_sharding_on_cpus()
    if settings["stop"] is not None:
        stop_at(settings["stop"])
    rows = make_rows(settings["texts"])
    result = fit_tiny(
        Path(settings["folder"]),
        rows,
        Taxonomy.from_dict(settings["taxonomy"]),
        train=rows[:34],
        validation=rows[34:],
        resume=settings["resume"],
        **settings["training"],
    )
    notes["log"] = result.log_history
    notes["main"] = [result.is_main_process]
    path.with_name(f"notes-{rank}.json").write_text(json.dumps(notes), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
