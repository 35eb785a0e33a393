"""Scoring speed on one NVIDIA GPU: shudun's fp16 graph beside torch and two habits of users, in one run.

python scripts/bench_gpu.py --json benchmarks/gpu.json
python scripts/bench_gpu.py --shape 12x768 --lengths 64,mix --rounds 5
python scripts/bench_gpu.py --wheel PARTS     # onnxruntime-gpu from a wheel in pieces; see benchmarks/README.md
python scripts/bench_gpu.py --device cpu --shape 2x64 --count 50     # does it run?

Random weights; texts of fixed lengths and of log-normal ones. Every round runs all ways once, in turn; medians are
reported. The limit counts all operations of the full model at the real lengths, at the peak of a large bf16 product
measured in this run and at the stated peak of an H200. What cannot run here has a row that says why.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_ways
import numpy as np
import torch
from gpu_ways import Way, Workload
from rich.console import Console
from rich.table import Table
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from shudun.items import Comment
from shudun.normalization import normalize_text
from shudun.tokenization import ItemTokenizer
from shudun_training.provenance import environment, now
from shudun_training.vocabulary import SPECIAL_TOKENS, train_tokenizer

HEADS = {768: 12, 312: 12}
VOCABULARY = 21128
MAX_LENGTH = 128
STATED_PEAK = 790e12
"""bf16 operations per second that a large product reaches on an H200."""

CHARACTERS = [char for char in map(chr, range(0x4E00, 0x4E00 + 20000)) if normalize_text(char) == char]
INSTALLED = "BENCH_GPU_ONNXRUNTIME"
"""Environment variable of a restarted run: where its onnxruntime-gpu was installed."""

FIRST_TEXTS = 256
"""Texts of the pass that warms a way up and tells how many it can do in `--pass-seconds`."""


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    if options.wheel is not None and INSTALLED not in os.environ:
        _restart_with_wheel(options.wheel)
    ends = time.monotonic() + options.seconds
    peak = measured_peak(options.device)
    rows = [row for shape in options.shape for row in measure_shape(shape, options, peak, ends)]
    content = {
        "rows": rows,
        "peak_flops": {"measured_bf16": peak, "stated_h200_bf16": STATED_PEAK},
        "machine": machine(options.device),
        "environment": environment(),
        "arguments": sys.argv[1:] if arguments is None else arguments,
        "date": now(),
    }
    report(content)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def measure_shape(shape: str, options: argparse.Namespace, peak: float, ends: float) -> Iterator[dict[str, Any]]:
    """Rows of one model over all kinds of texts."""
    layers, hidden = map(int, shape.split("x"))
    model, tokenizer = make_model(layers, hidden)
    for lengths in options.lengths.split(","):
        work = make_workload(model, tokenizer, lengths, options.count)
        ways = [*gpu_ways.onnx_ways(work, options.device)]
        ways += gpu_ways.torch_ways(work, options.device, compiled=options.compile)
        if lengths == "mix":
            ways += gpu_ways.habit_ways(work, options.device)
        tokens = float(work.encoded.lengths.mean())
        operations = float(operations_per_text(work))
        for way, status, speeds in measure(ways, work, options, ends):
            speed = statistics.median(speeds) if speeds else None
            yield {
                "shape": shape,
                "lengths": lengths,
                "mean_tokens": tokens,
                "way": way.name,
                "precision": way.precision,
                "tokenising": way.tokenising,
                "status": status,
                "texts_per_s": speed,
                "tokens_per_s": speed and speed * tokens,
                "share_of_measured_peak": speed and speed * operations / peak,
                "share_of_stated_peak": speed and speed * operations / STATED_PEAK,
                "texts_per_s_by_round": speeds,
            }


def measure(
    ways: list[Way], work: Workload, options: argparse.Namespace, ends: float
) -> Iterator[tuple[Way, str, list[float]]]:
    """Texts per second of each way in each round, with what became of it; no round starts after `ends`."""
    statuses, sizes = {}, {}
    for i, way in enumerate(ways):
        statuses[i], sizes[i] = _first_pass(way, len(work.items), options.pass_seconds, ends)
    speeds: dict[int, list[float]] = {i: [] for i in range(len(ways))}
    for _ in range(options.rounds):
        for i, way in enumerate(ways):
            if statuses[i] == "measured" and way.run is not None and time.monotonic() < ends:
                started = time.perf_counter()
                way.run(sizes[i])
                speeds[i].append(sizes[i] / (time.perf_counter() - started))
    for i, way in enumerate(ways):
        late = statuses[i] == "measured" and not speeds[i]
        yield way, "out of time" if late else statuses[i], speeds[i]


def _first_pass(way: Way, most: int, pass_seconds: float, ends: float) -> tuple[str, int]:
    """Warm a way up, check its rows, and find how many texts fit into `pass_seconds`."""
    if way.run is None or time.monotonic() > ends:
        return way.status if way.run is None else "out of time", 0
    n = min(FIRST_TEXTS, most)
    try:
        way.run(n)  # compiles, loads kernels
        started = time.perf_counter()
        logits = way.run(n)
        size = min(most, max(n, int(n * pass_seconds / (time.perf_counter() - started))))
        if size > n:
            logits = way.run(size)  # the shapes that will be measured
            n = size
    except Exception as error:  # noqa: BLE001 - a peer that breaks must not end the others' measurement
        return f"failed: {type(error).__name__}: {error}", 0
    if len(logits) != n or not np.isfinite(logits).all():
        return f"failed: {logits.shape} or not finite for {n} texts", 0
    return "measured", size


def measured_peak(device: str) -> float:
    """Operations per second of a large bf16 product, the best of several."""
    size, repeats = (8192, 20) if device == "cuda" else (512, 3)
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    best = 0.0
    for _ in range(4):
        _wait(device)
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        _wait(device)
        best = max(best, repeats * 2 * size**3 / (time.perf_counter() - started))
    return best


def operations_per_text(work: Workload) -> float:
    """Mean forward operations: 24·L·H²·S + 4·L·S²·H for S tokens."""
    layers, hidden = work.model.config.num_hidden_layers, work.model.config.hidden_size
    lengths = work.encoded.lengths.astype(np.float64)
    return float(layers * (24 * hidden**2 * lengths + 4 * lengths**2 * hidden).mean())


def make_model(layers: int, hidden: int) -> tuple[BertForSequenceClassification, PreTrainedTokenizerFast]:
    lines = ("".join(CHARACTERS[i : i + 100]) for i in range(0, len(CHARACTERS), 100))
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL_TOKENS}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(lines, vocab_size=VOCABULARY, min_frequency=1),
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=HEADS.get(hidden, max(hidden // 64, 1)),
        intermediate_size=4 * hidden,
        num_labels=16,
        problem_type="multi_label_classification",
    )
    return BertForSequenceClassification(config).eval(), tokenizer


def make_workload(
    model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, lengths: str, count: int
) -> Workload:
    """Texts of single known characters: of `lengths` tokens each, or "mix", log-normal around 27 tokens."""
    rng = np.random.default_rng(0)
    if lengths == "mix":
        sizes = np.clip(np.round(rng.lognormal(np.log(22), 0.55, count)), 2, MAX_LENGTH - 2).astype(int)
    else:
        sizes = np.full(count, int(lengths) - 2)
    letters = rng.choice(CHARACTERS, int(sizes.sum()))
    items = [Comment("".join(part)) for part in np.split(letters, np.cumsum(sizes)[:-1])]
    encoder = ItemTokenizer(tokenizer.backend_tokenizer.to_str(), max_length=MAX_LENGTH)
    return Workload(model, tokenizer, encoder, items, encoder.encode(items))


def machine(device: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"platform": platform.platform(), "cpus": os.cpu_count(), "device": device}
    try:
        import onnxruntime
    except ImportError as error:
        facts["onnxruntime"] = f"not installed: {error}"
    else:
        facts["onnxruntime"] = f"{onnxruntime.__version__}, {', '.join(onnxruntime.get_available_providers())}"
    if device == "cuda":
        command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda_of_torch"] = torch.version.cuda
        facts["nvidia_smi"] = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return facts


def report(content: dict[str, Any]) -> None:
    columns = ("shape", "lengths", "way", "precision", "texts/s", "tokens/s", "of measured peak", "of stated peak")
    table = Table(*columns, title=f"bf16 peak measured: {content['peak_flops']['measured_bf16'] / 1e12:,.1f} TFLOP/s")
    for row in content["rows"]:
        shown = [row["shape"], row["lengths"], row["way"], row["precision"]]
        if row["texts_per_s"] is None:
            table.add_row(*shown, row["status"])
            continue
        shares = [f"{row[name]:.1%}" for name in ("share_of_measured_peak", "share_of_stated_peak")]
        table.add_row(*shown, f"{row['texts_per_s']:,.0f}", f"{row['tokens_per_s']:,.0f}", *shares)
    Console(width=150).print(table)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _restart_with_wheel(parts: Path) -> None:
    """Put the pieces of an onnxruntime-gpu wheel together, install it into a folder of its own, start again with it."""
    pieces = sorted(parts.glob("*.whl*"))
    names = {piece.name.split(".whl")[0] for piece in pieces}
    if len(names) != 1:
        raise SystemExit(
            f"{parts}: expected the pieces NAME.whl.00, NAME.whl.01, ... of one wheel, got {sorted(names)}"
        )
    folder = Path(tempfile.mkdtemp(prefix="onnxruntime-gpu-"))
    wheel, site = folder / f"{names.pop()}.whl", str(folder / "site")
    with wheel.open("wb") as file:
        for piece in pieces:
            file.write(piece.read_bytes())
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", site, str(wheel)]
    subprocess.run(command, check=True)
    path = os.pathsep.join([site, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONPATH": path, INSTALLED: site})  # noqa: S606


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", action="append", help="LAYERSxWIDTH, repeatable; by default 12x768, 3x768, 4x312")
    parser.add_argument("--lengths", default="24,64,128,mix", help="tokens of every text, or mix")
    parser.add_argument("--count", type=int, default=20000, help="most texts of a pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pass-seconds", type=float, default=0.5, help="a way takes as many texts as fit in this time")
    parser.add_argument("--seconds", type=float, default=480, help="no pass starts after this time")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile of the packed model")
    parser.add_argument("--wheel", type=Path, help="folder with the pieces of an onnxruntime-gpu wheel")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    options.shape = options.shape or ["12x768", "3x768", "4x312"]
    return options


if __name__ == "__main__":
    main()
