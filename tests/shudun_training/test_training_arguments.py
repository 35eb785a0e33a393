"""Training options: each reaches Trainer, "auto" follows the device, what cannot work says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from transformers import TrainingArguments
from transformers.trainer_utils import SaveStrategy

from shudun import ShudunError
from shudun_training import training_arguments as module
from shudun_training.config import TrainingConfig
from shudun_training.training_arguments import OUR_OWN, training_arguments

cpu_only = pytest.mark.skipif(torch.accelerator.is_available(), reason="asks for what a CPU does not have")

OTHER_VALUES: dict[str, Any] = {
    "learning_rate": 1e-4,
    "num_train_epochs": 2.5,
    "per_device_train_batch_size": 3,
    "per_device_eval_batch_size": 5,
    "gradient_accumulation_steps": 7,
    "weight_decay": 0.2,
    "warmup_ratio": 0.25,
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 2.0,
    "seed": 7,
    "bf16": True,
    "tf32": False,
    "optim": "adamw_torch",
    "torch_compile": True,
    "activation_checkpointing": True,
    "save_steps": 11,
    "early_stopping_patience": 9,
    "metric_for_best_model": "loss",
    "save_total_limit": 4,
    "logging_steps": 13,
    "dataloader_num_workers": 2,
    "report_to": "none",
}


def arguments(folder: Path, **values: Any) -> TrainingArguments:
    return training_arguments(TrainingConfig.model_validate({"report_to": "none"} | values), folder)


@cpu_only
def test_every_option_reaches_the_arguments(tmp_path: Path) -> None:
    default = TrainingConfig().model_dump()
    assert OTHER_VALUES.keys() == default.keys()
    assert all(OTHER_VALUES[name] != value for name, value in default.items())
    passed = arguments(tmp_path, **OTHER_VALUES)
    for name in OTHER_VALUES.keys() - OUR_OWN - {"report_to"}:
        assert getattr(passed, name) == OTHER_VALUES[name], name
    assert (passed.report_to, passed.bf16, passed.tf32) == ([], True, False)
    assert (passed.save_steps, passed.eval_steps, passed.save_strategy) == (11, 11, SaveStrategy.STEPS)
    assert passed.get_warmup_steps(100) == 25
    assert not passed.greater_is_better
    # Left to `CheckpointKeeper` and to `EarlyStoppingCallback`.
    assert passed.save_total_limit is None


@cpu_only
def test_auto_asks_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = arguments(tmp_path)
    assert (here.bf16, here.tf32, here.use_cpu, here.save_strategy) == (False, None, True, SaveStrategy.EPOCH)
    monkeypatch.setattr(module, "is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.setattr(module, "is_torch_tf32_available", lambda: True)
    config = TrainingConfig()
    assert (module._bf16(config), module._tf32(config)) == (True, True)


@cpu_only
def test_bf16_on_a_cpu_is_possible_where_it_is_asked_for(tmp_path: Path) -> None:
    passed = arguments(tmp_path, bf16=True)
    assert (passed.bf16, passed.device.type, passed.mixed_precision) == (True, "cpu", "bf16")


@cpu_only
@pytest.mark.parametrize(
    ("values", "environment", "message"),
    [
        ({"tf32": True}, {}, r"training\.tf32: needs an NVIDIA GPU .* set it to auto or false"),
        ({"torch_compile": True}, {"PATH": ""}, r"training\.torch_compile: needs a C\+\+ compiler.*install g\+\+"),
        ({}, {"ACCELERATE_MIXED_PRECISION": "fp16"}, r"mixed_precision fp16, the configuration for bf16 false"),
        ({}, {"ACCELERATE_MIXED_PRECISION": "bf16"}, r"set training\.bf16"),
        ({}, {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, r"set training\.torch_compile"),
        ({"lr_scheduler_type": "diagonal"}, {}, r"training: diagonal is not a valid SchedulerType"),
        ({}, {"WORLD_SIZE": "2"}, r"2 processes were started, torch\.distributed knows of 1"),
    ],
    ids=["tf32", "no-compiler", "fp16", "bf16", "dynamo", "scheduler", "no-group"],
)
def test_what_cannot_work_says_what_to_do(
    values: dict[str, Any],
    environment: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if "WORLD_SIZE" in environment:
        # As where a launcher's variables do not reach torch: a process group would wait for the other process.
        monkeypatch.setattr("accelerate.PartialState._prepare_backend", lambda *_: (None, DistributedType.NO))
    with pytest.raises(ShudunError, match=message):
        arguments(tmp_path, **values)


@cpu_only
def test_a_launcher_that_agrees_is_no_contradiction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert arguments(tmp_path, bf16=True).mixed_precision == "bf16"


@cpu_only
def test_several_gpus_need_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingArguments, "n_gpu", 4)
    with pytest.raises(ShudunError, match=r"4 GPUs and one process: .*ddp\.yaml .*CUDA_VISIBLE_DEVICES=0"):
        arguments(tmp_path)
