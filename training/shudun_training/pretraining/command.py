"""`shudun pretrain`: texts, tokenizer, token stores, model, loop, encoder; one configuration, one run folder."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from shudun.errors import ShudunError
from shudun_training.checkpoint import item_tokenizer
from shudun_training.pretraining import checkpointing, models, run_state
from shudun_training.pretraining.batches import Batches, StepRows, Vocabulary
from shudun_training.pretraining.checkpointing import Checkpoints, Progress
from shudun_training.pretraining.config import PretrainConfig, load_pretrain_config, save_pretrain_config
from shudun_training.pretraining.corpus import describe
from shudun_training.pretraining.held_out import HeldOut
from shudun_training.pretraining.loop import Learner, kept_step, learn
from shudun_training.pretraining.objective import Objective
from shudun_training.pretraining.optimizers import Optimizers
from shudun_training.pretraining.preparation import Corpus, open_corpus, prepare, settle_tokenizer
from shudun_training.pretraining.record import print_result, write_record
from shudun_training.pretraining.reporting import Curve
from shudun_training.pretraining.words import Jieba
from shudun_training.row_progress import row_progress

LONGEST_PREPARATION = timedelta(days=2)


def pretrain(path: Path, *, output_dir: Path | None = None, resume: bool = False, branch: Path | None = None) -> None:
    """Pre-train by a configuration file; with `branch`, from a checkpoint folder of another run.

    Raises:
        ShudunError: see the parts; nothing is overwritten that an unfinished run needs.
    """
    config = load_pretrain_config(path, output_dir=output_dir)
    accelerator = _accelerator(config)
    folder, records = config.output_dir, describe(config.texts)
    training = config.training
    kept = [kept_step(training)]
    checkpoints = Checkpoints(folder / run_state.CHECKPOINTS, keep=training.save_total_limit, keep_steps=kept)
    origin = _origin(checkpoints, resume=resume, branch=branch)
    start = checkpointing.read_progress(origin) if origin else Progress()
    segmenter = Jieba() if config.masking.unit == "word" else None

    if accelerator.is_main_process:
        if not resume:
            run_state.start_run(folder, checkpoints)
        with row_progress() as progress:
            tokenizer = settle_tokenizer(config, folder, resume=resume, progress=progress)
            digest = models.vocabulary_digest(tokenizer)
            run_state.settle_inputs(folder, config, records, digest, step=start.step, resume=resume)
            encoder = item_tokenizer(tokenizer, max_length=config.max_length)
            prepare(config, records, encoder, folder / "store", segmenter=segmenter, progress=progress)
        save_pretrain_config(config, folder / "config.yaml")
    accelerator.wait_for_everyone()

    tokenizer = models.read_tokenizer(folder / models.TOKENIZER)
    encoder = item_tokenizer(tokenizer, max_length=config.max_length)
    corpus = open_corpus(config, records, encoder, folder / "store", segmenter=segmenter)
    start = _require_vocabulary(start, models.vocabulary_digest(tokenizer), origin)
    model = models.begin(config, tokenizer, origin, models.attention_for(accelerator.device))
    learner = _learner(model, config, accelerator, origin)
    batches, held_out = _data(config, corpus, models.masking_vocabulary(tokenizer), accelerator)
    curve = Curve(folder / run_state.CURVE, start=start.step, steps=training.steps, shown=accelerator.is_main_process)
    with curve:
        end, figures = learn(
            learner,
            batches,
            held_out,
            start=start,
            measure_every=config.held_out.every_steps,
            checkpoints=checkpoints,
            curve=curve,
        )
    if accelerator.is_main_process:
        models.save_encoder(model, tokenizer, folder / models.ENCODER, half=config.weights == "fp16")
        record = write_record(
            folder, config, records, corpus.counts, model, accelerator, end=end, figures=figures, branch=branch
        )
        print_result(record, folder)
    accelerator.end_training()


def _accelerator(config: PretrainConfig) -> Accelerator:
    made = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",  # autocast is around the losses alone
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_PREPARATION)],
    )
    known = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if made.distributed_type not in known:
        raise ShudunError(f"pretrain: runs data-parallel (DDP); accelerate is set up for {made.distributed_type.value}")
    parts = made.num_processes * config.training.gradient_accumulation_steps
    if parts > config.training.rows_per_step:
        raise ShudunError(
            f"training.rows_per_step is {config.training.rows_per_step}, less than {made.num_processes} processes × "
            f"{config.training.gradient_accumulation_steps} accumulated parts: some would have no row"
        )
    if made.device.type == "cuda" and config.training.tf32:
        torch.set_float32_matmul_precision("high")
    return made


def _origin(checkpoints: Checkpoints, *, resume: bool, branch: Path | None) -> Path | None:
    if resume and branch is not None:
        raise ShudunError("give --resume to go on in this folder, or --branch to begin at a checkpoint; not both")
    if branch is not None:
        checkpointing.verify(branch)
        return branch
    # A run that was cut off before its first checkpoint goes on from the first step.
    return checkpoints.newest() if resume else None


def _require_vocabulary(start: Progress, digest: str, origin: Path | None) -> Progress:
    if origin is not None and start.vocabulary != digest:
        raise ShudunError(f"{origin}: learnt with another vocabulary than this run's")
    return replace(start, vocabulary=digest)


def _learner(model: Any, config: PretrainConfig, accelerator: Accelerator, origin: Path | None) -> Learner:
    training = config.training
    model.train()
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    objective = Objective(model, dtype=dtype, bag=config.bag_weight > 0).to(accelerator.device)
    optimizers = Optimizers(model, training)
    if origin is not None:
        optimizers.load(checkpointing.read_optimizers(origin))
    if training.torch_compile:
        model.base_model.compile()
    distributed = accelerator.prepare_model(objective)
    return Learner(objective, distributed, optimizers, accelerator, training, config.bag_weight)


def _data(
    config: PretrainConfig, corpus: Corpus, vocabulary: Vocabulary, accelerator: Accelerator
) -> tuple[Batches, HeldOut]:
    training = config.training
    rows = StepRows(
        corpus.train, row_tokens=training.row_tokens, rows_per_step=training.rows_per_step, seed=training.seed
    )
    place = {"seed": training.seed, "rank": accelerator.process_index, "world": accelerator.num_processes}
    parts = training.gradient_accumulation_steps
    return (
        Batches(rows, config.masking, vocabulary, parts=parts, **place),
        HeldOut(corpus.held_out, config.masking, vocabulary, row_tokens=training.row_tokens, **place),
    )
