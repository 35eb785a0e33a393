"""The teachers of one distillation together: their scores from the cache, and what they say as one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shudun.errors import ShudunError
from shudun.taxonomy import Taxonomy
from shudun_training.config import load_run_config
from shudun_training.distillation.config import DistillConfig, TeacherConfig
from shudun_training.distillation.ensemble import Voice, mean_logits, placed_logits, voice
from shudun_training.distillation.ranks import local_rank
from shudun_training.distillation.scoring import CachedTeacher, score_chunks, score_items, score_training_rows
from shudun_training.distillation.teachers import (
    CheckpointTeacher,
    LinearTeacher,
    Teacher,
    taught_columns,
)
from shudun_training.distillation.texts import Chunk
from shudun_training.examples import Example, label_matrix
from shudun_training.sources import SourceRecord

Rows = Mapping[str, Sequence[Example]]


class Panel:
    """Teachers with their caches. `hear` comes before anything is asked of them together."""

    def __init__(self, config: DistillConfig, rows: Rows, taxonomy: Taxonomy) -> None:
        """`rows`: examples of each split.

        Raises:
            ShudunError: a teacher is missing, damaged, or does not know the labels it is to teach.
        """
        self._config, self._rows, self._taxonomy = config, rows, taxonomy
        root = config.distillation.cache_dir or config.output_dir / "distillation" / "scores"
        teachers = [build_teacher(teacher, config, rows["train"], taxonomy) for teacher in config.teachers]
        self._columns = [
            taught_columns(teacher, section, taxonomy)
            for teacher, section in zip(teachers, config.teachers, strict=True)
        ]
        self.members = [CachedTeacher.at(teacher, root) for teacher in teachers]
        self.voices: list[Voice] = []
        self._heard: dict[str, list[NDArray[np.float32]]] = {}

    @property
    def inner(self) -> CheckpointTeacher | None:
        """The teacher whose hidden states, layers or tokenizer the student takes, if it takes any."""
        if not self._config.needs_inner_teacher:
            return None
        wanted = self._config.distillation.inner_teacher
        checkpoints = [member.teacher for member in self.members if isinstance(member.teacher, CheckpointTeacher)]
        return next(teacher for teacher in checkpoints if wanted in (None, teacher.name))

    def score(self, chunks: Iterable[Chunk], progress: Callable[[int], None] | None = None) -> list[str]:
        """See that the caches hold all chunks of this process's share; returns the digests of all."""
        return score_chunks(self.members, chunks, progress)

    def hear(self) -> None:
        """Score the labelled splits, and fit what each teacher says to the validation rows."""
        for split, examples in self._rows.items():
            items = [example.item for example in examples]
            score = score_training_rows if split == "train" else score_items
            self._heard[split] = [score(member, items) for member in self.members]
        labels = label_matrix(self._rows["validation"], self._taxonomy)
        self.voices = [
            voice(
                member.teacher.weight,
                columns,
                logits,
                labels,
                calibrate=self._config.distillation.calibrate_teachers,
            )
            for member, columns, logits in zip(self.members, self._columns, self._heard["validation"], strict=True)
        ]

    def said(self, digest: str) -> NDArray[np.float32]:
        """What the teachers say together of a chunk, `(rows, num_labels)`, NaN where all are silent; waits for it."""
        return self._together([member.wait(digest) for member in self.members])

    def said_of(self, split: str) -> NDArray[np.float32]:
        """The same of the rows of a split."""
        return self._together(self._heard[split])

    def each_of(self, split: str) -> dict[str, NDArray[np.float32]]:
        """Logits of each teacher alone of the rows of a split, as it gives them, in the taxonomy's order."""
        return {
            member.teacher.name: placed_logits(logits, columns)
            for member, columns, logits in zip(self.members, self._columns, self._heard[split], strict=True)
        }

    def release(self) -> None:
        """Give the memory of their device back."""
        for member in self.members:
            if isinstance(member.teacher, CheckpointTeacher):
                member.teacher.release()

    def identity(self) -> list[dict[str, Any]]:
        """All that the teachers' scores together depend on beside the texts, but for the validation rows."""
        return [
            {"name": teacher.name, "weight": teacher.weight, "columns": columns, **teacher.identity}
            for teacher, columns in zip((member.teacher for member in self.members), self._columns, strict=True)
        ]

    def _together(self, logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        spoken = [one.speak(own) for one, own in zip(self.voices, logits, strict=True)]
        return mean_logits(spoken, [one.weight for one in self.voices])


def build_teacher(
    section: TeacherConfig, config: DistillConfig, train: Sequence[Example], taxonomy: Taxonomy
) -> Teacher:
    """A teacher as its section says; weights are not loaded yet."""
    if section.linear:
        return LinearTeacher(section, train, taxonomy)
    return CheckpointTeacher(
        section,
        max_length=_teacher_length(section, config),
        bf16=teacher_bf16(config),
        device=torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu"),
        batch_tokens=config.distillation.batch_tokens,
    )


def teacher_bf16(config: DistillConfig) -> bool:
    """Whether teachers compute in bf16."""
    chosen = config.distillation.bf16
    if isinstance(chosen, bool):
        return chosen
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def check_unseen(teachers: Sequence[TeacherConfig], sources: Mapping[str, Sequence[SourceRecord]]) -> None:
    """Check that no teacher was trained on rows that the student is chosen or measured by.

    Only run folders say what they were trained on.

    Raises:
        ShudunError: the checksum of a training source of a teacher is that of a validation or test source.
    """
    measured = {record.sha256: record.name for split in ("validation", "test") for record in sources.get(split, [])}
    for teacher in teachers:
        if teacher.checkpoint is None or not (teacher.checkpoint / "run.json").is_file():
            continue
        trained = json.loads((teacher.checkpoint / "run.json").read_text(encoding="utf-8"))["sources"]["train"]
        if seen := [measured[source["sha256"]] for source in trained if source["sha256"] in measured]:
            raise ShudunError(
                f"teacher {teacher.shown_name}: was trained on {seen[0]}, which is a validation or test source here; "
                "what is measured on it would be worth nothing"
            )


def _teacher_length(section: TeacherConfig, config: DistillConfig) -> int:
    own = None if section.checkpoint is None else section.checkpoint / "config.yaml"
    if section.max_length is None and own is not None and own.is_file():
        return load_run_config(own).model.max_length
    return section.max_length or config.model.max_length
