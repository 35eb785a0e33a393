"""Fine-tuning speed at equal quality: shudun's recipe beside stock Trainer and transformers' example, in one run.

python scripts/bench_training.py --shape 4x256 --json benchmarks/training-4x256.json           # CPU, shipped rows
python scripts/bench_training.py --encoder FOLDER --rows 2000 --train FILE --validation FILE --taxonomy FILE
python scripts/bench_training.py --shape 12x768 --texts short,long --rows 20000 --batch-size 256,512 --json FILE
python scripts/bench_training.py --shape 2x64 --texts short --rows 200 --rounds 1              # does it run?

Runs on the GPU where there is one, else on the CPU. Every round runs all recipes once, in turn, each from the same
weights with the seed of the round; medians over rounds are reported, speeds as ratios within a round. The first epoch
counts (kernels are chosen, graphs compiled there); the speed without it stands beside. FLOPs are those of the real
tokens: 3 · (24·L·H² + 4·L·S·H) a token for forward and backward, against the peak of a large product in this run.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table
from training_jobs import make_jobs
from training_recipes import QUALITY, STOCK, Job, Outcome, Recipe, recipes
from transformers.utils import logging
from transformers.utils.import_utils import enable_tf32

from shudun.threads import available_cpus
from shudun_training.provenance import environment, hardware, now

STATED_PEAK = 790e12
"""bf16 operations per second that a large product reaches on an H200."""


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # every run would say that the head is new
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.cuda.device_count() > 1:
        raise SystemExit(f"{torch.cuda.device_count()} GPUs: choose one with CUDA_VISIBLE_DEVICES=0")
    if device == "cpu":
        torch.set_num_threads(options.threads or available_cpus())
    bf16 = has_bf16(device)
    _forget_tf32()
    peaks = {name: measured_peak(device, kind) for name, kind in kinds(bf16).items()}
    chosen = recipes(device, bf16=bf16, extra=dict(options.ours))
    ends = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for job in make_jobs(options, Path(folder))
            for row in measured_rows(job, measure(job, chosen, options.rounds, ends, Path(folder)), peaks)
        ]
    content = {
        "rows": rows,
        "peak_flops": {"measured": peaks, "stated_h200_bf16": STATED_PEAK},
        "hardware": hardware(),
        "environment": environment(),
        "arguments": sys.argv[1:] if arguments is None else arguments,
        "date": now(),
    }
    report(content)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def measure(
    job: Job, chosen: Sequence[Recipe], rounds: int, ends: float, folder: Path
) -> dict[Recipe, list[Outcome] | str]:
    """Outcomes of each recipe in each round, or why there are none; no run starts after `ends`."""
    found: dict[Recipe, list[Outcome] | str] = {recipe: [] for recipe in chosen}
    for seed in range(rounds):
        for recipe in chosen:
            outcomes = found[recipe]
            if isinstance(outcomes, str):
                continue
            if time.monotonic() > ends:
                found[recipe] = outcomes or "out of time"
                continue
            _forget_tf32()
            target = folder / f"{job.name}-{recipe.name}-{seed}".replace(" ", "-").replace(",", "")
            try:
                outcomes.append(recipe.run(job, seed, target))
            except (RuntimeError, ValueError, torch.OutOfMemoryError) as error:
                # A recipe that does not fit or breaks must not end the measurement of the others.
                found[recipe] = f"failed: {type(error).__name__}: {str(error)[:300]}"
            _free()
            print(f"{job.name}, seed {seed}, {recipe.name}: {_status(found[recipe])}", file=sys.stderr, flush=True)
    return found


def measured_rows(
    job: Job, found: Mapping[Recipe, list[Outcome] | str], peaks: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """A row for each recipe: speeds, shares of the peaks, quality, and the ratio to stock Trainer round by round."""
    lengths = job.lengths()
    operations = training_operations(json.loads((job.encoder_folder / "config.json").read_text("utf-8")), lengths)
    stock = next((outcomes for recipe, outcomes in found.items() if recipe.name == STOCK), "missing")
    for recipe, outcomes in found.items():
        row: dict[str, Any] = {"job": job.name, "recipe": recipe.name, "precision": recipe.precision}
        row |= {"train_rows": len(job.train), "mean_tokens": float(lengths.mean())}
        row |= {"batch_size": job.training.per_device_train_batch_size, "status": _status(outcomes)}
        if isinstance(outcomes, list):
            row |= _figures(outcomes, lengths, operations, peaks[recipe.precision])
            row["times_stock"] = _ratio(outcomes, stock)
        yield row


def _figures(outcomes: Sequence[Outcome], lengths: Any, operations: float, peak: float) -> dict[str, Any]:
    whole = statistics.median(sum(outcome.epoch_seconds) / len(outcome.epoch_seconds) for outcome in outcomes)
    later = [seconds for outcome in outcomes for seconds in outcome.epoch_seconds[1:]]
    warm = statistics.median(later) if later else None
    return {
        "updates": outcomes[0].updates,
        "rows_per_s": len(lengths) / whole,
        "tokens_per_s": float(lengths.sum()) / whole,
        "share_of_measured_peak": operations / whole / peak,
        "tokens_per_s_after_first_epoch": warm and float(lengths.sum()) / warm,
        "share_of_measured_peak_after_first_epoch": warm and operations / warm / peak,
        "share_of_stated_h200_peak_after_first_epoch": warm and operations / warm / STATED_PEAK,
        "whole_fit_seconds": statistics.median(outcome.whole_seconds for outcome in outcomes),
        "quality": {name: statistics.mean(outcome.quality[name] for outcome in outcomes) for name in QUALITY},
        "epoch_seconds_by_round": [outcome.epoch_seconds for outcome in outcomes],
        "quality_by_round": [outcome.quality for outcome in outcomes],
    }


def _ratio(outcomes: Sequence[Outcome], stock: list[Outcome] | str) -> float | None:
    """Median over the rounds that both have finished."""
    if isinstance(stock, str) or not outcomes:
        return None
    pairs = zip(outcomes, stock, strict=False)
    ratios = [sum(other.epoch_seconds) / sum(outcome.epoch_seconds) for outcome, other in pairs]
    return statistics.median(ratios) if ratios else None


def training_operations(shape: Mapping[str, Any], lengths: Any) -> float:
    """Operations of an epoch over rows of these lengths: 3 · L · (8·H² + 4·H·I + 4·S·H) for each of S tokens.

    With I = 4·H, BERT's usual width, that is 3 · (24·L·H² + 4·L·S·H); embeddings and head are left out.
    """
    layers, hidden, inner = (shape[name] for name in ("num_hidden_layers", "hidden_size", "intermediate_size"))
    tokens = np.asarray(lengths, dtype=np.float64)
    return float(3 * layers * ((8 * hidden**2 + 4 * hidden * inner) * tokens + 4 * hidden * tokens**2).sum())


def has_bf16(device: str) -> bool:
    """Whether the device computes bfloat16 products faster than float32 ones by design."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    info = Path("/proc/cpuinfo")
    flags = info.read_text(encoding="utf-8").split() if info.exists() else []
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def kinds(bf16: bool) -> dict[str, torch.dtype]:
    return {"fp32": torch.float32, "bf16": torch.bfloat16} if bf16 else {"fp32": torch.float32}


def measured_peak(device: str, kind: torch.dtype) -> float:
    """Operations per second of a large product, the best of several."""
    size, repeats = (8192, 10) if device == "cuda" else (1536, 2)
    a, b = (torch.randn(size, size, dtype=kind, device=device) for _ in range(2))
    best = 0.0
    for _ in range(4):
        _wait(device)
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        _wait(device)
        best = max(best, repeats * 2 * size**3 / (time.perf_counter() - started))
    return best


def report(content: Mapping[str, Any]) -> None:
    shown = "  ".join(f"{name} {peak / 1e12:,.3f}" for name, peak in content["peak_flops"]["measured"].items())
    columns = ("job", "recipe", "rows/s", "tokens/s", "of peak", "of peak, warm", "x stock", "macro-AP", "macro-F1")
    table = Table(*columns, title=f"measured peaks, TFLOP/s: {shown}", title_justify="left")
    for row in content["rows"]:
        if "rows_per_s" not in row:
            table.add_row(row["job"], row["recipe"], row["status"])
            continue
        warm, ratio = row["share_of_measured_peak_after_first_epoch"], row["times_stock"]
        table.add_row(
            row["job"],
            f"{row['recipe']} ({row['precision']})",
            f"{row['rows_per_s']:,.1f}",
            f"{row['tokens_per_s']:,.0f}",
            f"{row['share_of_measured_peak']:.1%}",
            "-" if warm is None else f"{warm:.1%}",
            "-" if ratio is None else f"{ratio:.2f}",
            *(f"{row['quality'][name]:.3f}" for name in QUALITY),
        )
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def _status(outcomes: list[Outcome] | str) -> str:
    if isinstance(outcomes, str):
        return outcomes
    return f"{len(outcomes)} rounds" if outcomes else "not run"


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _free() -> None:
    if torch.cuda.is_available():
        gc.collect()  # a model and its trainer hold each other
        torch.cuda.empty_cache()


def _forget_tf32() -> None:
    """TrainingArguments switch TF32 on for the whole process: a recipe must not inherit it from the one before."""
    if torch.cuda.is_available():
        enable_tf32(False)


def _own(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME:option=value,option=value`, values as in YAML."""
    name, _, settings = text.partition(":")
    pairs = [pair.partition("=")[::2] for pair in settings.split(",") if pair]
    if not name or not pairs or not all(key and value for key, value in pairs):
        raise argparse.ArgumentTypeError("expected NAME:option=value,..., e.g. workers:dataloader_num_workers=4")
    return f"shudun, {name}", {key: yaml.safe_load(value) for key, value in pairs}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="4x256", help="LAYERSxWIDTH of an encoder from random weights")
    parser.add_argument("--encoder", type=Path, help="folder of a pre-trained encoder, instead of --shape")
    parser.add_argument("--texts", default="rows", help="rows (files), short, long (generated), joined with commas")
    parser.add_argument("--train", type=Path, help="labelled rows; by default those of data_cards/shudun-xhs")
    parser.add_argument("--validation", type=Path)
    parser.add_argument("--taxonomy", type=Path)
    parser.add_argument("--rows", type=int, help="most training rows")
    parser.add_argument("--validation-rows", type=int, help="most validation rows")
    parser.add_argument("--batch-size", default="32", help="rows of an update, several joined with commas")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3, help="each with a seed of its own")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no run starts after this time")
    parser.add_argument("--threads", type=int, help="of the CPU; by default what this process may use")
    parser.add_argument(
        "--ours", type=_own, action="append", default=[], help="NAME:option=value,...: our recipe with other options"
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
