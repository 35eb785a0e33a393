"""SIGKILL in the middle of saves and at any moment: the resumed run ends with the bytes of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from shudun_training.trainer_checkpoints import whole_checkpoints

ROOT = Path(__file__).parents[2]
KILLS = 5
SHIPPED_PARTS = ("checkpoint/model.safetensors", "bundle/model.onnx", "bundle/calibration.json", "bundle/metrics.json")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    rows = (ROOT / "data_cards" / "shudun-xhs" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(rows[:48]), encoding="utf-8")
    (tmp_path / "validation.jsonl").write_text("\n".join(rows[48:64]), encoding="utf-8")
    values = {
        "name": "killed",
        "output_dir": "undisturbed",
        "taxonomy": str(ROOT / "configs" / "taxonomy" / "xhs.yaml"),
        "policy": str(ROOT / "configs" / "policy" / "default.yaml"),
        "data": {"train": ["train.jsonl"], "validation": ["validation.jsonl"]},
        # Wide enough that a save takes a noticeable time.
        "model": {"max_length": 32, "compact": {"hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 2048}},
        "training": {"num_train_epochs": 8, "metric_for_best_model": "loss", "report_to": "none"},
    }
    path = tmp_path / "killed.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def start(config: Path, folder: Path, *, resume: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "shudun", "train", "--config", str(config), "--output-dir", str(folder)]
    with folder.with_suffix(".log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [*command, "--resume"] if resume else command,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def kill_at_next_save(process: subprocess.Popen[bytes], trainer: Path, delay: float) -> bool:
    """Wait for a new checkpoint folder, then kill; `False` when the process ended by itself."""
    before = set(trainer.glob("checkpoint-*"))
    while not set(trainer.glob("checkpoint-*")) - before:
        if process.poll() is not None:
            return False
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_run_killed_inside_its_saves_ends_as_an_undisturbed_one(config: Path, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert start(config, undisturbed, resume=False).wait() == 0

    delays = random.Random(0)  # noqa: S311
    kills = 0
    for _ in range(KILLS):
        process = start(config, killed, resume=bool(whole_checkpoints(killed / "trainer")))
        kills += kill_at_next_save(process, killed / "trainer", delays.uniform(0, 0.06))
    assert kills >= KILLS - 1
    assert not (killed / "bundle").exists()

    last = start(config, killed, resume=bool(whole_checkpoints(killed / "trainer")))
    assert last.wait() == 0, killed.with_suffix(".log").read_text(encoding="utf-8")
    for part in SHIPPED_PARTS:
        assert (killed / part).read_bytes() == (undisturbed / part).read_bytes(), part


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_run_killed_at_any_moment_ends_as_an_undisturbed_one(config: Path, tmp_path: Path) -> None:
    """Within epochs and accumulated batches, with disguised rows and early stopping; also before the first save."""
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    values["training"] |= {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 12,
        "save_steps": 4,
        "early_stopping_patience": 4,
    }
    values["augmentation"] = {"probability": 0.5}
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    started = time.monotonic()
    assert start(config, undisturbed, resume=False).wait() == 0
    seconds = time.monotonic() - started

    delays = random.Random(0)  # noqa: S311
    kills = 0
    while kills < KILLS:
        process = start(config, killed, resume=bool(whole_checkpoints(killed / "trainer")))
        try:
            code = process.wait(delays.uniform(0.3, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        else:
            assert code == 0, killed.with_suffix(".log").read_text(encoding="utf-8")
            break
    assert kills >= 2
    if not (killed / "report").exists():
        last = start(config, killed, resume=bool(whole_checkpoints(killed / "trainer")))
        assert last.wait() == 0, killed.with_suffix(".log").read_text(encoding="utf-8")
    for part in SHIPPED_PARTS:
        assert (killed / part).read_bytes() == (undisturbed / part).read_bytes(), part
