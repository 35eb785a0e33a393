"""Two gloo processes with every option: both end alike, and as one process with the same batches does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKER = """
import sys
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments, set_seed
from shudun_training.imbalance_losses import ZlprLoss
from shudun_training.regularised_trainer import RegularisedTrainer

folder, batch, options = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3])
torch.set_num_threads(1)
set_seed(0)
size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
dropout = 0.1 if options.get("r_drop_alpha") else 0.0
model = BertForSequenceClassification(
    BertConfig(vocab_size=50, num_labels=3, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **size)
)
labels = torch.randint(-1, 2, (32, 3))
labels[labels == -1] = -100
labels[3] = labels[17] = -100
ids = torch.randint(1, 50, (32, 6))
rows = [{"input_ids": x, "attention_mask": torch.ones(6, dtype=torch.int64), "labels": y} for x, y in zip(ids, labels)]
arguments = TrainingArguments(
    folder, use_cpu=True, per_device_train_batch_size=batch, gradient_accumulation_steps=2, max_steps=4,
    learning_rate=1e-2, train_sampling_strategy="sequential", report_to="none", save_strategy="no",
    disable_tqdm=True, dataloader_pin_memory=False,
)
trainer = RegularisedTrainer(model=model, args=arguments, train_dataset=rows, loss=ZlprLoss(), **options)
trainer.train()
weights = trainer.accelerator.unwrap_model(trainer.model).state_dict()
save_file(weights, f"{folder}/rank{arguments.process_index}.safetensors")
trainer.end()
"""
SURE = {"fgm_epsilon": 0.5, "layer_decay": 0.8, "ema_decay": 0.9}


def train(folder: Path, options: dict[str, float], *, processes: int) -> list[dict[str, torch.Tensor]]:
    script = folder / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if processes == 2 else []
    command = [sys.executable, *launcher, str(script), str(folder), str(8 // processes), repr(options)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [load_file(folder / f"rank{rank}.safetensors") for rank in range(processes)]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (one,) = train(tmp_path / "one", SURE, processes=1)
    first, second = train(tmp_path / "two", SURE, processes=2)
    for name, expected in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_with_r_drop_end_alike(tmp_path: Path) -> None:
    first, second = train(tmp_path, SURE | {"r_drop_alpha": 1.0}, processes=2)
    assert all(torch.equal(first[name], second[name]) for name in first)
