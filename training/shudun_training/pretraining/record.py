"""What remains to be known of a finished run: where it comes from, what it saw, how far it came."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.table import Table

from shudun import terminal
from shudun_training.pretraining.checkpointing import Progress, digest
from shudun_training.pretraining.config import PretrainConfig
from shudun_training.pretraining.corpus import TextRecord
from shudun_training.pretraining.models import ENCODER
from shudun_training.pretraining.run_state import RECORD
from shudun_training.provenance import environment, now
from shudun_training.sources import file_sha256

COUNTS = ("read", "good", "rejected", "trained", "held_out", "truncated")


def write_record(
    folder: Path,
    config: PretrainConfig,
    records: Sequence[TextRecord],
    counts: Sequence[Mapping[str, Any]],
    model: Any,
    accelerator: Accelerator,
    *,
    end: Progress,
    figures: Mapping[str, float],
    branch: Path | None,
) -> dict[str, Any]:
    """Write `run.json`; its presence says that the run is finished."""
    record = {
        "name": config.name,
        "created": now(),
        "environment": environment(),
        "config": config.model_dump(mode="json"),
        "sources": [{**r.to_dict(), **count} for r, count in zip(records, counts, strict=True)],
        "branched_from": None if branch is None else {"path": str(branch), "sha256": digest(branch)},
        "vocabulary": end.vocabulary,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": end.step,
        "tokens": end.tokens,
        "hours": end.seconds / 3600,
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "held_out": dict(figures),
        "encoder_sha256": file_sha256(folder / ENCODER / "model.safetensors"),
    }
    text = json.dumps(record, ensure_ascii=False, indent=2, allow_nan=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")
    return record


def print_result(record: Mapping[str, Any], folder: Path) -> None:
    """Print the counts of each source and where the encoder is."""
    console = terminal.console()
    table = Table("source", *(name.replace("_", "-") for name in COUNTS), title_justify="left")
    for source in record["sources"]:
        table.add_row(Path(source["path"]).name, *(f"{source[name]:,}" for name in COUNTS))
    console.print(table)
    hours, tokens = record["hours"], record["tokens"]
    console.print(f"{record['steps']:,} steps, {tokens:,} tokens, {hours:.2f} h")
    if record["held_out"]:
        console.print("held-out loss {held_out:.3f}, perplexity {perplexity:.1f}".format(**record["held_out"]))
    console.print(f"encoder: {folder / ENCODER} (use it as model.encoder of `shudun train`)", soft_wrap=True)
