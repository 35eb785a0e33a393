"""Pre-training in processes of its own: killed at any moment it ends with the same bytes; two learn as one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]
KILLS = 4
STEPS = 60


def values(folder: Path, **training: Any) -> dict[str, Any]:
    rows = (ROOT / "data_cards" / "shudun-xhs" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "texts.jsonl").write_text("\n".join(rows[:200]), encoding="utf-8")
    return {
        "name": "killed",
        "output_dir": "undisturbed",
        "texts": ["texts.jsonl"],
        # Wide enough that a save takes a noticeable time.
        "compact": {"vocab_size": 1200, "hidden_size": 128, "num_hidden_layers": 1, "intermediate_size": 1024},
        "max_length": 64,
        "held_out": {"share": 0.1, "every_steps": 25},
        "training": {
            "steps": STEPS,
            "warmup_steps": 5,
            "decay_steps": 10,
            "row_tokens": 32,
            "rows_per_step": 4,
            "save_steps": 1,
            "logging_steps": 1,
            **training,
        },
    }


def start(config: Path, folder: Path, *, resume: bool = False, processes: int = 1) -> subprocess.Popen[bytes]:
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command = [*launcher, "shudun", "pretrain", "--config", str(config), "--output-dir", str(folder)]
    with folder.with_suffix(".log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [*command, "--resume"] if resume else command,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def kill_after_saves(process: subprocess.Popen[bytes], checkpoints: Path, saves: int, delay: float) -> bool:
    """Wait for new checkpoints and a moment, then kill; `False` when the process ended by itself."""
    before = newest(checkpoints)
    while newest(checkpoints) < before + saves:
        if process.poll() is not None:
            return False
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def newest(checkpoints: Path) -> int:
    steps = [int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*") if not path.suffix]
    return max(steps, default=0)


def losses(folder: Path) -> list[tuple[float, float]]:
    entries = [json.loads(line) for line in (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(entry["masked"], entry["bag"]) for entry in entries if "masked" in entry]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_run_killed_inside_steps_and_saves_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(values(tmp_path)), encoding="utf-8")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert start(config, undisturbed).wait() == 0, undisturbed.with_suffix(".log").read_text(encoding="utf-8")
    draw = random.Random(0)  # noqa: S311
    kills = 0
    for number in range(KILLS):
        process = start(config, killed, resume=number > 0)
        kills += kill_after_saves(process, killed / "checkpoints", draw.randint(1, 9), draw.uniform(0, 0.06))
    assert kills >= KILLS - 1
    assert not (killed / "encoder").exists()
    assert start(config, killed, resume=True).wait() == 0, killed.with_suffix(".log").read_text(encoding="utf-8")
    parts = ["encoder/model.safetensors", f"checkpoints/step-{STEPS:08d}/optimizer.pt"]
    for part in parts:
        assert (killed / part).read_bytes() == (undisturbed / part).read_bytes(), part
    assert losses(killed) == losses(undisturbed)
    records = [json.loads((run / "run.json").read_text(encoding="utf-8")) for run in (killed, undisturbed)]
    assert [record["held_out"] for record in records] == [records[1]["held_out"]] * 2
    assert records[0]["tokens"] == records[1]["tokens"]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    settings = values(tmp_path, steps=16, precision="fp32", save_steps=8, gradient_accumulation_steps=2)
    # Dropout would be another one in each process.
    settings["compact"]["dropout"] = 0
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    for name, processes in (("one", 1), ("two", 2)):
        folder = tmp_path / name
        assert start(config, folder, processes=processes).wait() == 0, folder.with_suffix(".log").read_text()
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=2e-3)
    # Rounding grows with the steps; in the first ones nothing else can differ.
    np.testing.assert_allclose(losses(tmp_path / "two")[:5], losses(tmp_path / "one")[:5], rtol=2e-5)
    records = [json.loads((tmp_path / name / "run.json").read_text(encoding="utf-8")) for name in ("one", "two")]
    assert [record["processes"] for record in records] == [1, 2]
    assert records[0]["tokens"] == records[1]["tokens"]
    assert records[0]["held_out"]["held_out"] == pytest.approx(records[1]["held_out"]["held_out"], rel=2e-3)
    log = (tmp_path / "two.log").read_text(encoding="utf-8")
    assert log.count("step 16/16  loss") == 1
