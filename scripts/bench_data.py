"""How fast, and in how much memory, labelled files of any size are validated and audited.

python scripts/bench_data.py [--rows 10000 100000 1000000] [--folder DIR] [--json benchmarks/data-tools.json]

Makes synthetic rows from the clauses of data_cards/shudun-xhs (seeded), about a tenth of them copies or light edits of
earlier rows, and runs the commands in processes of their own. Rows are made for load, not for their meaning.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shudun_training.provenance import environment, now

ROOT = Path(__file__).parents[1]
TAXONOMY = ROOT / "configs" / "taxonomy" / "xhs.yaml"
SPLITS = ("train", "validation", "test")
SEED = 20261120
RECENT = 2000
"""Copies are drawn from this many rows before them, so that making rows takes flat memory too."""

COMMANDS: dict[str, list[str]] = {
    "validate": ["validate"],
    "audit": ["audit", "--split-column", "split", "--fail-on", "never"],
    "audit --near-duplicates exact": [
        "audit", "--split-column", "split", "--fail-on", "never", "--near-duplicates", "exact",
    ],
}  # fmt: skip


def synthetic_rows(count: int) -> Iterator[dict[str, Any]]:
    """Rows of both kinds: clauses of one to five shipped rows in a new order, labels and evidence of the first."""
    rng = random.Random(SEED)  # noqa: S311  not for secrets
    shipped = [
        json.loads(line)
        for split in SPLITS
        for line in (ROOT / "data_cards" / "shudun-xhs" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    clauses = [part for row in shipped for part in re.split(r"(?<=[，。！？,!?\n])", row["text"]) if part.strip()]
    recent: list[dict[str, Any]] = []
    for number in range(count):
        first, fate = rng.choice(shipped), rng.random()
        if recent and fate < 0.1:
            row = dict(rng.choice(recent))
            row["text"] += "" if fate < 0.06 else rng.choice(["！", "。", "哈", "~"])
        elif fate < 0.2:
            row = {**first, "text": first["text"] + "".join(rng.choices(clauses, k=rng.randint(1, 4)))}
        else:
            row = {**first, "text": "".join(rng.choices(clauses, k=rng.randint(1, 5))), "evidence": None}
        row |= {"id": f"row-{number}-x", "group": f"g{number}", "split": rng.choices(SPLITS, (8, 1, 1))[0]}
        recent[number % RECENT : number % RECENT + 1] = [row]
        yield row


def write_rows(path: Path, count: int) -> float:
    """Write rows; characters of title and text on average."""
    characters = 0
    with path.open("w", encoding="utf-8") as file:
        for row in synthetic_rows(count):
            characters += len(row["title"]) + len(row["text"])
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return characters / count


def measure(command: list[str], path: Path) -> dict[str, float]:
    """Run one command on a file: wall and CPU seconds, and peak resident memory of its process."""
    words = [sys.executable, "-m", "shudun", "data", command[0], str(path), "--taxonomy", str(TAXONOMY), *command[1:]]
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(words, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(words)} failed:\n{output.read().decode('utf-8', 'replace')[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_memory_mb": round(usage.ru_maxrss / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where the rows lie while they are read; a temporary folder else")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = []
    columns = ("rows", "command", "rows/s", "seconds", "CPU s", "peak MB")
    print("{:>9}  {:<30} {:>8} {:>8} {:>8} {:>8}".format(*columns))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "rows.jsonl"
        for count in arguments.rows:
            characters = write_rows(path, count)
            for name, command in COMMANDS.items():
                figures = measure(command, path)
                speed = round(count / figures["seconds"])
                row = {
                    "rows": count,
                    "mean_characters": round(characters, 1),
                    "command": name,
                    "rows_per_second": speed,
                }
                results.append(row | figures)
                print(f"{count:>9,}  {name:<30} {speed:>8,} " + " ".join(f"{value:>8}" for value in figures.values()))
            sys.stdout.flush()
    if arguments.json is not None:
        report = {"created": now(), "cpus": os.cpu_count(), "seed": SEED, "results": results, **environment()}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
