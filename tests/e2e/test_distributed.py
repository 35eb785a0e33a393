"""Two processes on CPUs over gloo, started as on GPUs: they train as one, and one of them writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from shudun import Scorer, Taxonomy

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests" / "shudun_training"
sys.path.append(str(TESTS))

from tiny_fit import fit_tiny, losses, make_rows  # noqa: E402

pytestmark = pytest.mark.slow

TRAINING = {"gradient_accumulation_steps": 2, "save_steps": 2, "dropout": 0.0, "num_train_epochs": 2}
TRAIN, EPOCHS, BATCHES, STEPS = 34, 2, 5, 6
"""34 rows in batches of 2 times 4: four whole ones, and two rows for two processes."""


def launch(config: str, *command: str, threads: str = "1") -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = str(ROOT / "configs" / "accelerate" / f"{config}.yaml")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, "--num_processes", "2"]
    return subprocess.run(
        [*launcher, "--main_process_port", str(port), *command],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


class Pair:
    """Runs of two processes in a folder, and what they noted."""

    def __init__(self, folder: Path, texts: list[str], taxonomy: Taxonomy, *, config: str = "ddp") -> None:
        self.folder, self.config = folder, config
        self._settings = {
            "folder": str(folder / "run"),
            "texts": texts,
            "taxonomy": taxonomy.to_dict(),
            "training": TRAINING | {"per_device_train_batch_size": 4},
            "sharded": True,
            "resume": False,
            "stop": None,
        }

    def run(self, **settings: Any) -> subprocess.CompletedProcess[str]:
        path = self.folder / "settings.json"
        path.write_text(json.dumps(self._settings | settings), encoding="utf-8")
        return launch(self.config, str(TESTS / "distributed_fit.py"), str(path))

    def notes(self) -> list[dict[str, Any]]:
        return [json.loads((self.folder / f"notes-{rank}.json").read_text()) for rank in (0, 1)]

    def weights(self) -> bytes:
        return (self.folder / "run" / "checkpoint" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def pair(
    request: pytest.FixtureRequest, texts: list[str], taxonomy: Taxonomy, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    """A finished run of two processes."""
    pair = Pair(tmp_path_factory.mktemp(request.param), texts, taxonomy, config=request.param)
    result = pair.run()
    assert result.returncode == 0, result.stderr
    return pair


@pytest.fixture(scope="module")
def alone(texts: list[str], taxonomy: Taxonomy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The same run by one process with a batch twice as large."""
    folder, rows = tmp_path_factory.mktemp("alone"), make_rows(texts)
    parts = {"train": rows[:TRAIN], "validation": rows[TRAIN:]}
    return folder, fit_tiny(folder, rows, taxonomy, **parts, **TRAINING, per_device_train_batch_size=8)


def logged(log: list[dict[str, Any]], *names: str) -> np.ndarray:
    return np.array([[entry[name] for name in names] for entry in log if names[0] in entry])


def test_every_training_row_is_seen_once_in_an_epoch(pair: Pair) -> None:
    batches = [notes["batches"] for notes in pair.notes()]
    assert [len(part) for part in batches] == [BATCHES * EPOCHS] * 2
    for first in range(0, BATCHES * EPOCHS, BATCHES):
        seen = Counter(row for part in batches for batch in part[first : first + BATCHES] for row in batch)
        assert seen == dict.fromkeys(range(TRAIN), 1)


def test_every_evaluation_row_is_counted_once(pair: Pair, texts: list[str], taxonomy: Taxonomy) -> None:
    from shudun_training.examples import label_matrix

    expected = sorted(label_matrix(make_rows(texts)[TRAIN:], taxonomy).tolist())
    for notes in pair.notes():
        assert [sorted(labels) for labels in notes["measured"]] == [expected] * len(notes["measured"])
        assert notes["measured"]


def test_two_processes_compute_what_one_does(pair: Pair, alone: tuple[Path, Any]) -> None:
    """Known labels are counted over both processes and accumulated batches, or losses and gradients would differ."""
    folder, result = alone
    log = pair.notes()[0]["log"]
    for names in (("loss", "grad_norm"), ("eval_macro_ap", "eval_macro_f1_at_half")):
        np.testing.assert_allclose(logged(log, *names), logged(result.log_history, *names), rtol=1e-4)
    assert len(losses(result)) == STEPS
    expected, found = (
        load_file(folder / "checkpoint" / "model.safetensors"),
        load_file(pair.folder / "run" / "checkpoint" / "model.safetensors"),
    )
    assert {name: array.shape for name, array in found.items()} == {name: a.shape for name, a in expected.items()}
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-4, err_msg=name)


def test_the_checkpoint_is_one_stock_folder(pair: Pair) -> None:
    folder = pair.folder / "run" / "checkpoint"
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
    assert AutoConfig.from_pretrained(folder).architectures == ["BertForSequenceClassification"]
    _, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())


def test_one_process_writes_all_files_but_the_random_state_of_the_other(pair: Pair) -> None:
    files = [path for path in (pair.folder / "run").rglob("*") if path.is_file()]
    others = {path.name for path in files if path.stat().st_mode & 0o777 == 0o640}
    assert others == {"rng_state_1.pth"}
    assert [notes["main"] for notes in pair.notes()] == [[True], [False]]


def test_a_run_that_was_cut_off_ends_as_an_undisturbed_one(
    pair: Pair, texts: list[str], taxonomy: Taxonomy, tmp_path: Path
) -> None:
    cut = Pair(tmp_path, texts, taxonomy, config=pair.config)
    for settings, code in (({"stop": 5}, 1), ({"resume": True}, 0)):
        result = cut.run(**settings)
        assert result.returncode == code, result.stderr
        assert (tmp_path / "run" / "trainer" / "checkpoint-4").is_dir()
    assert cut.weights() == pair.weights()
    logs = [logged(runs.notes()[0]["log"], "loss", "grad_norm") for runs in (cut, pair)]
    np.testing.assert_array_equal(*logs)


def test_sharding_without_gpus_is_refused(texts: list[str], taxonomy: Taxonomy, tmp_path: Path) -> None:
    result = Pair(tmp_path, texts, taxonomy, config="fsdp").run(sharded=False)
    assert result.returncode != 0
    assert "the launcher asks for FSDP, which needs GPUs; use configs/accelerate/ddp.yaml on CPUs" in result.stderr


def test_the_command_trains_on_two_processes(tmp_path: Path) -> None:
    """From rows to a bundle; each rejected row stands in one place, once."""
    rows = (ROOT / "data_cards" / "shudun-xhs" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    bad = ['{"id": "x"}', "no json"]
    (tmp_path / "train.jsonl").write_text("\n".join([*rows[:40], *bad]) + "\n", encoding="utf-8")
    (tmp_path / "validation.jsonl").write_text("\n".join(rows[40:61]) + "\n", encoding="utf-8")
    compact = {"vocab_size": 400, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    values = {
        "name": "pair",
        "output_dir": "run",
        "taxonomy": str(ROOT / "configs" / "taxonomy" / "xhs.yaml"),
        "policy": str(ROOT / "configs" / "policy" / "default.yaml"),
        "data": {"train": ["train.jsonl"], "validation": ["validation.jsonl"], "on_bad_row": "skip"},
        "model": {"max_length": 32, "compact": compact | {"intermediate_size": 32}},
        "training": {"num_train_epochs": 2, "metric_for_best_model": "loss", "report_to": "tensorboard"},
        "thresholds": {"min_positives": 2},
    }
    config, run = tmp_path / "pair.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    result = launch("ddp", "-m", "shudun", "train", "--config", str(config))
    assert result.returncode == 0, result.stderr
    assert len(Scorer.from_bundle(run / "bundle").score(["加我微信 demo_0000"])) == 1
    (rejected,) = (run / "rejected").rglob("*.jsonl")
    assert len(rejected.read_text(encoding="utf-8").splitlines()) == len(bad)
    assert json.loads((run / "inputs.json").read_text(encoding="utf-8"))["processes"] == 2
    assert len(list(run.rglob("events.out.tfevents.*"))) == 1
    assert result.stderr.count("epoch 2/2") == 1
