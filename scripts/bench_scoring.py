"""Scoring speed of shudun beside its peers: same weights, same texts, one run, ways interleaved.

python scripts/bench_scoring.py --shape 3x768 --rounds 3 --json benchmarks/scoring-3x768.json
python scripts/bench_scoring.py --shape 4x312 --texts reviews.csv --column review

Random weights; every way gets raw texts and returns one row of scores per text, tokenising included. The limit
counts all operations of the full model at the real lengths, at the peak of this CPU. The OpenVINO way needs
`pip install openvino`; without it the row says so.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from rich.console import Console
from rich.table import Table
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, pipeline

from shudun import Comment, Scorer
from shudun.bundle import write_bundle
from shudun.calibration import Calibration, OperatingPoint
from shudun.jobs import score_file
from shudun.records import Record, read_records
from shudun.threads import available_cpus
from shudun.tokenization import Encoded
from shudun_training.checkpoint import item_tokenizer
from shudun_training.config import load_policy, load_taxonomy
from shudun_training.export_graph import Precision, export_graph
from shudun_training.onnx_export import export_stock_graph
from shudun_training.provenance import environment, now
from shudun_training.vocabulary import SPECIAL_TOKENS, train_tokenizer

ROOT = Path(__file__).parents[1]
HEADS = {768: 12, 312: 12, 288: 8}
VOCABULARY = 21128
MAX_LENGTH = 128
WARM_UP = 64
ZEN4_PEAK = {"fp32": 116e9, "int8": 470e9}
"""Operations per second of one Zen 4 core at its AVX-512 peak, measured; other CPUs are measured in the run."""

Way = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Entry:
    """One way to score, with the precision whose limit it is held against."""

    name: str
    precision: str
    batch_invariant: bool
    run: Way


@dataclass(frozen=True)
class Workload:
    """The model, its tokenizer and the texts that all ways share."""

    model: BertForSequenceClassification
    tokenizer: PreTrainedTokenizerFast
    texts: list[str]
    threads: int


def main() -> None:
    arguments = _arguments()
    layers, hidden = map(int, arguments.shape.split("x"))
    work = make_workload(layers, hidden, arguments)
    with tempfile.TemporaryDirectory() as folder:
        entries = [*ours(work, Path(folder)), *peers(work, Path(folder))]
        speeds = measure(entries, work.texts, arguments.rounds)
        cold_start = median_cold_start(Path(folder) / "int8")
    limits = {precision: limit(work, precision) for precision in ("fp32", "int8")}
    rows = [
        {
            "shape": arguments.shape,
            "way": entry.name,
            "precision": entry.precision,
            "batch_invariant": entry.batch_invariant,
            "texts_per_s": statistics.median(speeds[entry.name]),
            "share_of_limit": statistics.median(speeds[entry.name]) / limits[entry.precision],
        }
        for entry in entries
    ]
    report(rows, speeds, limits, cold_start, work, arguments)


def make_workload(layers: int, hidden: int, arguments: argparse.Namespace) -> Workload:
    cards = (ROOT / "data_cards" / "shudun-xhs" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    backend = train_tokenizer((json.loads(line)["text"] for line in cards), vocab_size=VOCABULARY, min_frequency=1)
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL_TOKENS}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    )
    torch.manual_seed(0)
    threads = arguments.threads or available_cpus()
    torch.set_num_threads(threads)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=HEADS.get(hidden, max(hidden // 64, 1)),
        intermediate_size=4 * hidden,
        max_position_embeddings=512,
        num_labels=16,
        problem_type="multi_label_classification",
    )
    model = BertForSequenceClassification(config).eval()
    texts = _file_texts(arguments) if arguments.texts else _generated_texts(tokenizer, arguments.count)
    return Workload(model, tokenizer, texts, threads)


def ours(work: Workload, folder: Path) -> list[Entry]:
    entries = []
    precisions: tuple[tuple[Precision, str, bool], ...] = (
        ("fp32", "fp32", True),
        ("int8", "int8", True),
        ("int8-dynamic", "int8", False),
    )
    for precision, limit_of, invariant in precisions:
        scorer = Scorer.from_bundle(_bundle(work, precision, folder), "cpu", work.threads)

        def run(texts: list[str], scorer: Scorer = scorer) -> np.ndarray:
            return scorer.run([Comment(text) for text in texts]).logits

        entries.append(Entry(f"shudun {precision}", limit_of, invariant, run))
    scorer = Scorer.from_bundle(folder / "int8", "cpu", work.threads)
    entries.append(Entry("shudun int8, file to file", "int8", True, _file_to_file(work, scorer, folder)))
    return entries


def _file_to_file(work: Workload, scorer: Scorer, folder: Path) -> Way:
    """JSONL in, JSONL out: reading, checks, tokenising, scores, decisions, writing."""
    sources = {}
    for texts in (work.texts, work.texts[:WARM_UP]):
        path = folder / f"{len(texts)}.jsonl"
        path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")
        sources[len(texts)] = path

    def run(texts: list[str]) -> np.ndarray:
        counts = score_file(sources[len(texts)], folder / "scored.jsonl", scorer)
        return np.empty((counts.scored, 0))

    return run


def peers(work: Workload, folder: Path) -> list[Entry]:
    entries = [
        Entry(f"transformers pipeline, batch {size}", "fp32", True, _pipeline(work, size)) for size in (1, 8, 32)
    ]
    stock = export_stock_graph(work.model)
    entries += [
        Entry("stock ONNX, arrival order, batch 32", "fp32", True, _onnx(work, stock, ordered=False)),
        Entry("stock ONNX, sorted", "fp32", True, _onnx(work, stock, ordered=True)),
        Entry("stock dynamic int8, sorted", "int8", False, _onnx(work, _dynamic(stock, folder), ordered=True)),
    ]
    for precision in ("f32", "bf16"):
        way = _openvino(work, stock, precision)
        if way is not None:
            entries.append(Entry(f"OpenVINO {precision}, sorted", "fp32", True, way))
    return entries


def measure(entries: list[Entry], texts: list[str], rounds: int) -> dict[str, list[float]]:
    """Texts per second of each way in each round; every round runs all ways once, in turn."""
    speeds: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for entry in entries:
        entry.run(texts[:WARM_UP])
    for _, entry in itertools.product(range(rounds), entries):
        started = time.perf_counter()
        scores = entry.run(texts)
        speeds[entry.name].append(len(texts) / (time.perf_counter() - started))
        if scores.shape[0] != len(texts):
            raise RuntimeError(f"{entry.name}: {scores.shape[0]} rows for {len(texts)} texts")
    return speeds


def median_cold_start(bundle: Path, runs: int = 5) -> float:
    """Seconds from the first import to the first score, in a new process each time."""
    code = (
        "import sys, time; started = time.perf_counter(); from shudun import Scorer; "
        "Scorer.from_bundle(sys.argv[1], 'cpu').score(['求链接']); print(time.perf_counter() - started)"
    )
    command = [sys.executable, "-c", code, str(bundle)]
    return statistics.median(float(subprocess.check_output(command, text=True)) for _ in range(runs))


def limit(work: Workload, precision: str) -> float:
    """Texts per second if all cores ran at their peak: 24·L·H²·S + 4·L·S²·H operations for a text of S tokens."""
    config = work.model.config
    layers, hidden = config.num_hidden_layers, config.hidden_size
    lengths = np.array([len(ids) for ids in work.tokenizer(work.texts, truncation=True)["input_ids"]], dtype=float)
    operations = layers * (24 * hidden**2 * lengths + 4 * lengths**2 * hidden).sum()
    return float(len(lengths) * work.threads * peak(precision) / operations)


def peak(precision: str) -> float:
    """Operations per second of one core."""
    if "avx512_vnni" in _cpu_flags() and "AuthenticAMD" in _cpu_info():
        return ZEN4_PEAK[precision]
    return _measured_peak(precision)


def report(
    rows: list[dict[str, Any]],
    speeds: dict[str, list[float]],
    limits: dict[str, float],
    cold_start: float,
    work: Workload,
    arguments: argparse.Namespace,
) -> None:
    table = Table("way", "limit of", "batch-invariant", "texts/s", "share of limit", "int8 / way")
    ratios = {
        name: statistics.median(a / b for a, b in zip(speeds["shudun int8"], values, strict=True))
        for name, values in speeds.items()
    }
    for row in rows:
        table.add_row(
            row["way"],
            row["precision"],
            "yes" if row["batch_invariant"] else "no",
            f"{row['texts_per_s']:,.0f}",
            f"{row['share_of_limit']:.0%}",
            f"{ratios[row['way']]:.2f}",
        )
    console = Console()
    lengths = [len(ids) for ids in work.tokenizer(work.texts, truncation=True)["input_ids"]]
    console.print(
        f"{arguments.shape}, {len(work.texts):,} texts, mean {np.mean(lengths):.1f} tokens, {work.threads} threads"
    )
    console.print(table)
    console.print(f"int8 bundle, from import to first score: {cold_start:.2f} s")
    if arguments.json:
        content = {
            "rows": rows,
            "ratios_of_shudun_int8": ratios,
            "texts_per_s_by_round": speeds,
            "limits_texts_per_s": limits,
            "cold_start_s": cold_start,
            "texts": len(work.texts),
            "mean_tokens": float(np.mean(lengths)),
            "threads": work.threads,
            "machine": {"cpu": _cpu_name(), "platform": platform.platform()},
            "environment": environment(),
            "date": now(),
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _bundle(work: Workload, precision: Precision, folder: Path) -> Path:
    taxonomy = load_taxonomy(ROOT / "configs" / "taxonomy" / "xhs.yaml")
    encoder = item_tokenizer(work.tokenizer, max_length=MAX_LENGTH)
    items = [Comment(text) for text in work.texts]
    point = OperatingPoint(0.5, None, "none", 0, None, None, None, None)
    path = folder / precision
    write_bundle(
        path,
        name=precision,
        created=now(),
        shudun_version="0",
        precision=precision,
        provenance={},
        graph=export_graph(work.model, precision=precision, encoder=encoder, calibration_items=items).graph,
        tokenizer=encoder,
        taxonomy=taxonomy,
        calibration=Calibration.identity(len(taxonomy.labels)),
        points=(point,) * len(taxonomy.labels),
        policy=load_policy(ROOT / "configs" / "policy" / "default.yaml"),
        metrics={},
    )
    return path


def _pipeline(work: Workload, batch_size: int) -> Way:
    classify = pipeline("text-classification", model=work.model, tokenizer=work.tokenizer, top_k=None, device="cpu")

    def run(texts: list[str]) -> np.ndarray:
        # The pipeline itself walks over the labels of every row: that is part of what its users wait for.
        return np.array(
            [[entry["score"] for entry in row] for row in classify(texts, batch_size=batch_size, truncation=True)]
        )

    return run


def _onnx(work: Workload, graph: bytes, *, ordered: bool) -> Way:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work.threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return _batched(work, lambda feeds: session.run(["logits"], feeds)[0], ordered=ordered)


def _openvino(work: Workload, graph: bytes, precision: str) -> Way | None:
    try:
        import openvino
    except ImportError:
        print("OpenVINO is not installed: its rows are left out (pip install openvino)", file=sys.stderr)
        return None
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": work.threads,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(io.BytesIO(graph)), "CPU", settings)
    return _batched(work, lambda feeds: compiled(feeds)["logits"], ordered=True)


def _batched(work: Workload, infer: Callable[[dict[str, np.ndarray]], np.ndarray], *, ordered: bool) -> Way:
    def run(texts: list[str]) -> np.ndarray:
        ids = work.tokenizer(texts, truncation=True)["input_ids"]
        lengths = np.array([len(row) for row in ids])
        order = np.argsort(-lengths, kind="stable") if ordered else np.arange(len(ids))
        scores = np.empty((len(ids), work.model.config.num_labels), dtype=np.float32)
        start = 0
        while start < len(order):
            size = max(512 // int(lengths[order[start]]), 1) if ordered else 32
            rows = order[start : start + size]
            scores[rows] = infer(_feeds([ids[row] for row in rows]))
            start += size
        return scores

    return run


def _feeds(rows: list[list[int]]) -> dict[str, np.ndarray]:
    flat = np.array(list(itertools.chain.from_iterable(rows)), dtype=np.int64)
    starts = np.cumsum([0, *map(len, rows)])
    lengths = np.diff(starts)
    width = int(lengths.max())
    ones = np.ones(len(rows), dtype=np.int64)
    encoded = Encoded(flat, starts, lengths, ones == 0, ones, pad_id=0, max_length=width)
    return encoded.batch(np.arange(len(rows)), width).feeds()


def _dynamic(graph: bytes, folder: Path) -> bytes:
    model = onnx.load_from_string(graph)
    del model.graph.value_info[:]  # stale shapes stop the quantiser's shape inference
    source, target = folder / "stock.onnx", folder / "stock-int8.onnx"
    onnx.save(model, source)
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)
    return target.read_bytes()


def _generated_texts(tokenizer: PreTrainedTokenizerFast, count: int) -> list[str]:
    """Texts of single known characters, with log-normal lengths of about 27 tokens on average."""
    rng = np.random.default_rng(0)
    characters = sorted(token for token in tokenizer.get_vocab() if len(token) == 1 and "\u4e00" <= token <= "\u9fff")
    lengths = np.clip(np.round(rng.lognormal(np.log(22), 0.55, count)), 2, MAX_LENGTH - 2).astype(int)
    return ["".join(rng.choice(characters, length)) for length in lengths]


def _file_texts(arguments: argparse.Namespace) -> list[str]:
    records = (record for record in read_records(arguments.texts) if isinstance(record, Record))
    texts = (record.values.get(arguments.column) for record in records)
    return list(itertools.islice((text for text in texts if text), arguments.count))


def _measured_peak(precision: str) -> float:
    size = 2048
    helper = onnx.helper
    if precision == "int8":
        a, b = np.zeros((size, size), np.uint8), np.ones((size, size), np.int8)
        node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
        kinds = (onnx.TensorProto.UINT8, onnx.TensorProto.INT32)
    else:
        a, b = (np.ones((size, size), np.float32) for _ in range(2))
        node, kinds = helper.make_node("MatMul", ["a", "b"], ["y"]), (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT)
    graph = helper.make_graph(
        [node],
        "peak",
        [helper.make_tensor_value_info("a", kinds[0], [size, size])],
        [helper.make_tensor_value_info("y", kinds[1], [size, size])],
        [onnx.numpy_helper.from_array(b, "b")],
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    times = []
    for _ in range(8):
        started = time.perf_counter()
        session.run(None, {"a": a})
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _cpu_flags() -> set[str]:
    return {flag for line in _cpu_info().splitlines() if line.startswith("flags") for flag in line.split()}


def _cpu_name() -> str:
    names = [line.partition(":")[2].strip() for line in _cpu_info().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="3x768", help="layers x hidden size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=1500, help="texts")
    parser.add_argument("--threads", type=int, help="default: what this process may use")
    parser.add_argument("--texts", type=Path, help="real texts: .jsonl, .csv or .parquet")
    parser.add_argument("--column", default="text", help="column of --texts")
    parser.add_argument("--json", type=Path, help="write rows, ratios, machine and versions here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
