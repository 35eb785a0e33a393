"""The student that training starts from, where it is no ready encoder: a stock folder like any encoder's.

Either a compact encoder from random weights, with a vocabulary of all texts or the inner teacher's, or a copy of the
inner teacher with some of its layers (Sanh et al. 2019).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from shudun.errors import ShudunError
from shudun.taxonomy import Taxonomy
from shudun_training.checkpoint import build_model, build_tokenizer, item_tokenizer, load_checkpoint, save_checkpoint
from shudun_training.config import ModelConfig
from shudun_training.distillation.config import DistillConfig
from shudun_training.distillation.ranks import rank, wait_until
from shudun_training.distillation.score_cache import write_whole
from shudun_training.distillation.teachers import CheckpointTeacher

TOKENIZER_PARTS = ("normalizer", "pre_tokenizer", "model", "added_tokens")
"""Parts of a tokenizer.json that decide ids."""


def prepare_student(
    config: DistillConfig,
    taxonomy: Taxonomy,
    *,
    texts: Callable[[], Iterable[str]],
    inner: CheckpointTeacher | None,
    key: str,
) -> PreTrainedTokenizerBase:
    """See that the student's folder holds what `key` names, and return the student's tokenizer.

    `texts`: all texts, for a vocabulary; `key`: of everything that the student is made from.
    """
    if config.model.encoder is None:
        marker = config.output_dir / "distillation" / "student.json"
        marker.parent.mkdir(parents=True, exist_ok=True)
        data = json.dumps({"key": key}).encode("ascii")

        def ready() -> bool:
            return marker.is_file() and marker.read_bytes() == data

        if rank() == 0 and not (ready() and config.student_folder.is_dir()):
            marker.unlink(missing_ok=True)
            shutil.rmtree(config.student_folder, ignore_errors=True)
            _build(config, taxonomy, texts, inner)
            write_whole(marker, data)
        wait_until(ready)
    return build_tokenizer(config.run_config().model, ())


def keep_layers(model: PreTrainedModel, layers: int | Sequence[int]) -> None:
    """Drop all layers of a BERT-like encoder but these (from 1), or but so many, evenly spaced with the last kept.

    Raises:
        ShudunError: it has no such layers, or shares its weights among layers.
    """
    encoder = getattr(model.base_model, "encoder", None)
    stack = getattr(encoder, "layer", None)
    if not isinstance(stack, nn.ModuleList):
        raise ShudunError(f"model.teacher_layers: {type(model).__name__} has no list of layers to choose from")
    total = len(stack)
    chosen = [round(i * total / layers) for i in range(1, layers + 1)] if isinstance(layers, int) else list(layers)
    if len(chosen) > total or max(chosen) > total:
        raise ShudunError(f"model.teacher_layers: the teacher has {total} layers, got {layers}")
    encoder.layer = nn.ModuleList([stack[layer - 1] for layer in chosen])  # type: ignore[union-attr]
    model.config.num_hidden_layers = len(chosen)


def require_same_tokenizer(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, name: str) -> None:
    """Check that two tokenizers give the same ids.

    Raises:
        ShudunError: they do not: hidden states of different tokens cannot be compared.
    """
    ours, theirs = (_id_parts(tokenizer) for tokenizer in (student, teacher))
    if different := [part for part in TOKENIZER_PARTS if ours[part] != theirs[part]]:
        raise ShudunError(
            f"hidden states need one tokenizer for student and teacher {name}; they differ in {', '.join(different)}. "
            "Set model.teacher_tokenizer: true (compact student), choose an encoder with the teacher's vocabulary, "
            "or set distillation.hidden_weight: 0"
        )


def _build(
    config: DistillConfig, taxonomy: Taxonomy, texts: Callable[[], Iterable[str]], inner: CheckpointTeacher | None
) -> None:
    set_seed(config.training.seed)
    if config.model.teacher_layers is not None:
        teacher = _inner(inner)
        model, tokenizer = load_checkpoint(teacher.folder)
        keep_layers(model, config.model.teacher_layers)
        # A head whose rows stand for other labels would be worse than a new one.
        same_labels = teacher.label_ids == taxonomy.label_ids
        kept = model if same_labels else cast("PreTrainedModel", model.base_model)
        save_checkpoint(kept, tokenizer, config.student_folder)
        return
    compact = ModelConfig(compact=config.model.compact, max_length=config.model.max_length)
    tokenizer = _inner(inner).loaded[1] if config.model.teacher_tokenizer else build_tokenizer(compact, texts())
    save_checkpoint(build_model(compact, taxonomy, tokenizer), tokenizer, config.student_folder)


def _inner(inner: CheckpointTeacher | None) -> CheckpointTeacher:
    if inner is None:
        raise ValueError("the configuration asks for an inner teacher without naming one")
    return inner


def _id_parts(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    definition = json.loads(item_tokenizer(tokenizer, max_length=8).to_json())
    return {part: definition.get(part) for part in TOKENIZER_PARTS}
