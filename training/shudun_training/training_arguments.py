"""From `TrainingConfig` to transformers' `TrainingArguments`: what "auto" means here, and what cannot work here.

Every option of the configuration is passed on; what the device or the launcher rules out is an error with a way out.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils.import_utils import is_torch_bf16_gpu_available, is_torch_tf32_available

from shudun.errors import ShudunError
from shudun_training.config import TrainingConfig
from shudun_training.processes import process_count

OUR_OWN = {"early_stopping_patience", "warmup_ratio", "save_total_limit", "bf16", "tf32", "save_steps"}
"""Options that reach Trainer under another name, through a callback or after a look at the device."""


STEPS = ("save_steps", "eval_steps")
"""One number: Trainer finds the best checkpoint only among those that were evaluated and saved at the same step."""


def training_arguments(config: TrainingConfig, folder: Path) -> TrainingArguments:
    """Arguments of a run that writes its checkpoints into `folder`.

    Raises:
        ShudunError: an option that cannot work on this device or under this launcher.
    """
    _check_compiler(config)
    bf16 = _bf16(config)
    _check_launcher(bf16)
    strategy = "epoch" if config.save_steps is None else "steps"
    steps: dict[str, Any] = {} if config.save_steps is None else dict.fromkeys(STEPS, config.save_steps)
    try:
        arguments = TrainingArguments(
            output_dir=str(folder),
            bf16=bf16,
            tf32=_tf32(config),
            warmup_steps=config.warmup_ratio,
            eval_strategy=strategy,
            save_strategy=strategy,
            load_best_model_at_end=True,
            greater_is_better=config.metric_for_best_model != "loss",
            restore_callback_states_from_checkpoint=True,
            logging_nan_inf_filter=False,
            train_sampling_strategy="group_by_length",
            label_names=["labels"],
            # The collator chooses what a batch holds; teachers' logits are no argument of a model's forward.
            remove_unused_columns=False,
            disable_tqdm=not sys.stderr.isatty(),
            dataloader_pin_memory=torch.cuda.is_available(),
            ddp_find_unused_parameters=False,
            data_seed=config.seed,
            # Without it several processes on CPUs would not find each other, and each would train for itself.
            use_cpu=not torch.accelerator.is_available(),
            **steps,
            **config.model_dump(exclude=OUR_OWN),
        )
    except ValueError as error:
        raise ShudunError(f"training: {error}") from error
    _check_processes(arguments)
    return arguments


def _bf16(config: TrainingConfig) -> bool:
    if config.bf16 in ("auto", "native"):
        return bool(is_torch_bf16_gpu_available()) or (config.bf16 == "native" and _cpu_has_bf16())
    if config.bf16 and torch.cuda.is_available() and not is_torch_bf16_gpu_available():
        raise ShudunError("training.bf16: this GPU has no bfloat16 (Ampere or newer has); set it to auto or false")
    return bool(config.bf16)


def _cpu_has_bf16() -> bool:
    # torch has no public name for this.
    return not torch.accelerator.is_available() and torch.cpu._is_avx512_bf16_supported()


def _tf32(config: TrainingConfig) -> bool | None:
    if config.tf32 == "auto":
        return True if is_torch_tf32_available() else None
    if config.tf32 and not is_torch_tf32_available():
        raise ShudunError(
            "training.tf32: needs an NVIDIA GPU of Ampere or newer, none is here; set it to auto or false"
        )
    return config.tf32


def _check_compiler(config: TrainingConfig) -> None:
    compilers = (os.environ.get("CXX", ""), "g++", "clang++")
    if config.torch_compile and not any(name and shutil.which(name) for name in compilers):
        raise ShudunError(
            "training.torch_compile: needs a C++ compiler, found neither $CXX, g++ nor clang++; install g++"
        )


def _check_launcher(bf16: bool) -> None:
    # Trainer would follow the launcher without a word, and the record of the run would say something else.
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", "bf16" if bf16 else "no"):
        raise ShudunError(
            f"the launcher asks for mixed_precision {launched}, the configuration for bf16 {str(bf16).lower()}: "
            "leave mixed_precision out of the launch (or 'no' in its file) and set training.bf16"
        )
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise ShudunError("the launcher asks for a dynamo_backend: leave it out and set training.torch_compile")


def _check_processes(arguments: TrainingArguments) -> None:
    if arguments.n_gpu > 1:
        raise ShudunError(
            f"{arguments.n_gpu} GPUs and one process: start one process for each with `accelerate launch "
            "--config_file configs/accelerate/ddp.yaml -m shudun train ...`, or choose one with CUDA_VISIBLE_DEVICES=0"
        )
    if arguments.world_size != process_count():
        raise ShudunError(
            f"{process_count()} processes were started, torch.distributed knows of {arguments.world_size}: "
            "start them with `accelerate launch` or `torchrun`"
        )
