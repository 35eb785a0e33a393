"""Teachers: what gives logits for texts. Checkpoints in torch, and the linear model of every report.

A teacher's columns are its own labels in its own order; `label_ids` names them, and everything else goes by name.
Knows nothing of caches, ensembles and students.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from shudun.batching import Batching, MemoryLimit, Outputs, plan_batches, run_within
from shudun.errors import DeviceMemoryError, ShudunError
from shudun.normalization import NORMALIZER_VERSION
from shudun.taxonomy import Taxonomy
from shudun.tokenization import ItemTokenizer, TokenBatch
from shudun_training import baseline
from shudun_training.baseline import LinearBaseline
from shudun_training.checkpoint import item_tokenizer, load_checkpoint
from shudun_training.distillation.config import TeacherConfig
from shudun_training.distillation.texts import Chunk, as_chunk
from shudun_training.examples import NEGATIVE, POSITIVE, Example, label_matrix
from shudun_training.sources import file_sha256
from shudun_training.unseen_probabilities import out_of_fold

LEAST_PROBABILITY = 1e-4
"""Probabilities of the linear model are kept this far from 0 and 1: a label with one class in a fold would otherwise
have an infinite logit."""

GPU_BATCH, CPU_BATCH = Batching(32768, length_step=16), Batching(2048, length_step=8)


class Teacher(Protocol):
    """Gives logits for texts.

    `identity` is all that they depend on beside the texts, as JSON values; `fitted_here` says whether it was fitted on
    the training rows by this very command.
    """

    name: str
    weight: float
    label_ids: tuple[str, ...]
    identity: Mapping[str, Any]
    fitted_here: bool

    def logits(self, chunk: Chunk) -> NDArray[np.float32]:
        """Logits of a chunk of any texts, `(rows, len(label_ids))`."""

    def training_logits(self) -> NDArray[np.float32]:
        """Logits of the training rows, `(rows, len(label_ids))`; only where `fitted_here`."""


class CheckpointTeacher:
    """A fine-tuned `transformers` folder with one logit per label."""

    fitted_here = False

    def __init__(
        self,
        config: TeacherConfig,
        *,
        max_length: int,
        bf16: bool,
        device: torch.device,
        batch_tokens: int | None = None,
    ) -> None:
        """`max_length`: tokens per text. The weights are loaded when they are first needed.

        Raises:
            ShudunError: no such checkpoint, or one without a multi-label head.
        """
        self.name, self.weight = config.shown_name, config.weight
        self.folder = checkpoint_folder(config)
        self.label_ids = _label_ids(self.folder, max_length)
        self.max_length = max_length
        files = sorted(path for path in self.folder.iterdir() if path.suffix in {".safetensors", ".json"})
        self.identity: Mapping[str, Any] = {
            "kind": "checkpoint",
            "files": {path.name: file_sha256(path) for path in files},
            "max_length": max_length,
            "normalizer": NORMALIZER_VERSION,
        }
        self._device, self._bf16 = device, bf16
        self._limit = MemoryLimit()
        batching = GPU_BATCH if device.type == "cuda" else CPU_BATCH
        self._batching = batching if batch_tokens is None else batching._replace(tokens=batch_tokens)

    @cached_property
    def loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Model in evaluation mode, and tokenizer."""
        return load_checkpoint(self.folder)

    @cached_property
    def encoder(self) -> ItemTokenizer:
        """The tokenizer as scoring uses it."""
        return item_tokenizer(self.loaded[1], max_length=self.max_length)

    def logits(self, chunk: Chunk) -> NDArray[np.float32]:
        """Logits of a chunk, `(rows, len(label_ids))`; rows of one length are computed together.

        Raises:
            ShudunError: a logit is not finite.
        """
        encoded = self.encoder.encode_rendered(chunk.rendered)
        logits = np.empty((len(chunk.items), len(self.label_ids)), dtype=np.float32)
        model = self.loaded[0].to(self._device)  # type: ignore[arg-type]  # transformers types `to` as taking no device
        for planned in plan_batches(encoded.lengths, self._limit.cap(self._batching), max_length=self.max_length):
            logits[planned.rows] = run_within(encoded, planned, lambda batch: self._run(model, batch), self._limit)[0]
        if not np.isfinite(logits).all():
            row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
            raise ShudunError(
                f"teacher {self.name}: no finite logits for the text {chunk.rendered[row].segments[0][:40]!r}; "
                "the checkpoint is damaged, or bf16 is too coarse for it (distillation.bf16: false)"
            )
        return logits

    def training_logits(self) -> NDArray[np.float32]:
        """Not for this teacher: training rows are texts like any other."""
        raise ValueError("a checkpoint has no logits of its own for the training rows")

    def release(self) -> None:
        """Give the device's memory back."""
        if "loaded" in self.__dict__:
            self.loaded[0].cpu()

    def _run(self, model: PreTrainedModel, batch: TokenBatch) -> Outputs:
        feeds = {name: torch.from_numpy(array).to(self._device) for name, array in batch.feeds().items()}
        try:
            with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
                logits = model(**feeds).logits
        except torch.cuda.OutOfMemoryError as error:
            raise DeviceMemoryError(str(error)) from error
        return logits.float().cpu().numpy(), np.empty((len(batch.input_ids), 0), dtype=np.float32)


class LinearTeacher:
    """The linear baseline on the training rows; it speaks for labels with positives and negatives there.

    It knows its own rows by heart, so those get the logits of models of folds that they are not in.
    """

    fitted_here = True

    def __init__(self, config: TeacherConfig, train: Sequence[Example], taxonomy: Taxonomy) -> None:
        self.name, self.weight = config.shown_name, config.weight
        self._items = [example.item for example in train]
        groups = (example.meta.get("group") for example in train)
        self._groups = [None if group is None else str(group) for group in groups]
        labels = label_matrix(train, taxonomy)
        both = (labels == POSITIVE).any(axis=0) & (labels == NEGATIVE).any(axis=0)
        self._labels = labels[:, both]
        self.label_ids = tuple(label for label, taught in zip(taxonomy.label_ids, both, strict=True) if taught)
        self.identity: Mapping[str, Any] = {
            "kind": "linear",
            "code": file_sha256(Path(baseline.__file__)),
            "sklearn": sklearn.__version__,
            "texts": as_chunk(self._items).digest,
            "labels": {"ids": self.label_ids, "sha256": hashlib.sha256(self._labels.tobytes()).hexdigest()},
            "groups": hashlib.sha256(repr(self._groups).encode("utf-8", "surrogatepass")).hexdigest(),
            "normalizer": NORMALIZER_VERSION,
        }

    @cached_property
    def _model(self) -> LinearBaseline:
        return LinearBaseline().fit(self._items, self._labels)

    def logits(self, chunk: Chunk) -> NDArray[np.float32]:
        """Logits of a chunk of texts that are no training rows, `(rows, len(label_ids))`."""
        return _log_odds(self._model.predict_proba(chunk.items))

    def training_logits(self) -> NDArray[np.float32]:
        """Logits of the training rows, each by a model that has not seen it or a near-duplicate of it."""
        return _log_odds(out_of_fold(self._items, self._labels, self._groups, seed=0))


def checkpoint_folder(config: TeacherConfig) -> Path:
    """The folder of the weights: that of a run holds `checkpoint`.

    Raises:
        ShudunError: there is none.
    """
    folder = config.checkpoint
    if folder is None:
        raise ValueError("the linear teacher has no folder")
    found = folder / "checkpoint" if (folder / "checkpoint").is_dir() else folder
    if not (found / "config.json").is_file():
        raise ShudunError(
            f"{folder}: no teacher here; expected a run folder of `shudun train` that is finished, or a "
            "`transformers` folder with config.json and model.safetensors"
        )
    return found


def taught_columns(teacher: Teacher, config: TeacherConfig, taxonomy: Taxonomy) -> list[int | None]:
    """Column of the teacher for each label of the taxonomy, by name; `None` where it does not speak.

    Raises:
        ShudunError: its labels and the taxonomy, or the labels it is asked to teach, do not agree.
    """
    asked = taxonomy.label_ids if config.labels is None else config.labels
    if unknown := sorted(set(asked) - set(taxonomy.label_ids)):
        raise ShudunError(f"teacher {teacher.name}: not in taxonomy {taxonomy.id}: {', '.join(unknown)}")
    missing = [label for label in asked if label not in teacher.label_ids]
    # Columns of the linear model come from the taxonomy: what is missing there is only without rows of both kinds.
    if missing and (config.labels is not None or not config.linear):
        raise ShudunError(
            f"teacher {teacher.name}: does not know {', '.join(missing)} (it knows {', '.join(teacher.label_ids)}); "
            "list the labels that it is to teach under 'labels'"
        )
    foreign = sorted(set(teacher.label_ids) - set(taxonomy.label_ids))
    if foreign and config.labels is None:
        raise ShudunError(
            f"teacher {teacher.name}: its labels {', '.join(foreign)} are not in taxonomy {taxonomy.id}; "
            "list the labels that it is to teach under 'labels'"
        )
    column = {label: i for i, label in enumerate(teacher.label_ids) if label in asked}
    return [column.get(label) for label in taxonomy.label_ids]


def _label_ids(folder: Path, max_length: int) -> tuple[str, ...]:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ShudunError(f"{folder}: its config.json cannot be read: {error}") from error
    if config.problem_type not in (None, "multi_label_classification"):
        raise ShudunError(f"{folder}: expected a multi-label head, got problem_type {config.problem_type!r}")
    if max_length > config.max_position_embeddings:
        raise ShudunError(
            f"{folder}: has positions for {config.max_position_embeddings} tokens; set 'max_length' of the teacher "
            f"to at most that instead of {max_length}"
        )
    return tuple(config.id2label[i] for i in range(config.num_labels))


def _log_odds(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    clipped = np.clip(probabilities.astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.log(clipped / (1 - clipped)).astype(np.float32)
