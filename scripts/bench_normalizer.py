"""Speed of the text normaliser on one core, for all its ways, and its time on hostile texts.

python scripts/bench_normalizer.py --texts reviews.csv --column review --json benchmarks/normalizer.json

Without --texts, generated comments. Processor time of this process counts, the fastest of some rounds: that is what
other programs on the machine disturb least.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shudun.benchmark import generated_items
from shudun.normalization import NORMALIZER_VERSION, normalize, normalize_text, spelt_text
from shudun.records import Record, read_records
from shudun_training.provenance import environment

WAYS: dict[str, Callable[[str], object]] = {
    "text only": normalize_text,
    "text only, spelt out (model input)": spelt_text,
    "with offsets and variants": normalize,
}
HOSTILE = (
    "微",
    "\u200b",
    "①",
    "這",
    "零",
    "幺",
    "o",
    "\u0301",
    "\u200d",
    "🇻",
    "➕",
    "讠",
    "v",
    "\ud800",
    "\x00",
    " ",
    "🌸",
)


def main() -> None:
    arguments = parse_arguments()
    texts = read_texts(arguments)
    normalize("這➕薇")
    result: dict[str, Any] = {
        "texts": len(texts),
        "mean_characters": sum(map(len, texts)) / len(texts),
        "changed": sum(normalize_text(text) != text for text in texts),
        "with_variants": sum(bool(normalize(text).variants) for text in texts),
        "texts_per_second": {name: len(texts) / fastest(way, texts, arguments.rounds) for name, way in WAYS.items()},
        "seconds_for_long_runs": {f"U+{ord(char):04X}": long_run(char, arguments.long) for char in HOSTILE},
        "long_run_characters": arguments.long,
        "normalizer": NORMALIZER_VERSION,
        "machine": {"cpu": cpu_name(), "platform": platform.platform()},
        "environment": environment(),
    }
    show(result)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_texts(arguments: argparse.Namespace) -> list[str]:
    if arguments.texts is None:
        return [item.text for item in generated_items(arguments.count)]
    records = (record for record in read_records(arguments.texts) if isinstance(record, Record))
    return [text for record in records if (text := str(record.values.get(arguments.column) or ""))][: arguments.count]


def fastest(way: Callable[[str], object], texts: Sequence[str], rounds: int) -> float:
    return min(seconds(lambda: [way(text) for text in texts]) for _ in range(rounds))


def long_run(char: str, length: int) -> dict[str, float]:
    """Seconds for one character `length` times, in a text that switches every rule on."""
    text = f"加{char * length}這"
    return {name: seconds(lambda way=way: way(text)) for name, way in WAYS.items()}


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def show(result: dict[str, Any]) -> None:
    console = Console()
    table = Table("way", "texts/s", title=f"{result['texts']:,} texts of {result['mean_characters']:.0f} characters")
    for name, rate in result["texts_per_second"].items():
        table.add_row(name, f"{rate:,.0f}")
    console.print(table)
    console.print(f"changed: {result['changed']:,}  with a disguise class: {result['with_variants']:,}")
    table = Table("one character", *WAYS, title=f"seconds for {result['long_run_characters']:,} of one character")
    for name, times in result["seconds_for_long_runs"].items():
        table.add_row(name, *(f"{value:.2f}" for value in times.values()))
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, help="real texts: .jsonl, .csv or .parquet")
    parser.add_argument("--column", default="text", help="column of --texts")
    parser.add_argument("--count", type=int, default=100_000, help="most texts")
    parser.add_argument("--rounds", type=int, default=5, help="passes over all texts; the fastest counts")
    parser.add_argument("--long", type=int, default=10_000_000, help="length of the hostile texts")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
