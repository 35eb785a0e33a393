"""One validated YAML file = one distillation: the sections of a run, and teachers, unlabelled texts, distillation.

Relative paths are relative to the file that holds them, as in a run configuration.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from shudun.records import FORMATS
from shudun_training.config import ModelConfig, RunConfig, read_config
from shudun_training.config_section import Section

TEXT_FORMATS = (".txt", ".txt.gz")

LINEAR = "linear"
"""Name of the linear teacher."""


class TeacherConfig(Section):
    """One teacher: exactly one of `checkpoint` and `linear`."""

    checkpoint: Path | None = None
    """Run folder of `shudun train` or `shudun distill`, or a stock `transformers` folder with a multi-label head."""

    linear: bool = False
    """The linear model of every report, fitted on the training rows."""

    name: str = ""
    """Name in reports; by default that of the folder, or "linear"."""

    weight: float = Field(default=1.0, gt=0)
    """Weight of its logits in the mean over teachers."""

    labels: list[str] | None = Field(default=None, min_length=1)
    """Labels it teaches; by default all of the taxonomy, each of which it must know then."""

    max_length: int | None = Field(default=None, ge=8, le=512)
    """Tokens per text that it sees; by default those of its own run, or else the student's."""

    @model_validator(mode="after")
    def _one_kind(self) -> TeacherConfig:
        if (self.checkpoint is not None) == self.linear:
            raise ValueError("give exactly one of 'checkpoint: FOLDER' and 'linear: true'")
        if self.linear and self.max_length is not None:
            raise ValueError("the linear teacher reads whole texts; leave out 'max_length'")
        return self

    @property
    def shown_name(self) -> str:
        """`name`, or what stands for it."""
        if self.name or self.checkpoint is None:
            return self.name or LINEAR
        folder = self.checkpoint
        return folder.parent.name if folder.name == "checkpoint" else folder.name


class UnlabelledConfig(Section):
    """One file of texts without labels."""

    path: Path
    """`.txt` (one comment a line), `.jsonl`, `.csv` or `.parquet` (rows of the item format), all but the last also
    `.gz`."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Field → column, where the names differ."""

    @model_validator(mode="after")
    def _readable(self) -> UnlabelledConfig:
        name = self.path.name.lower()
        if not name.endswith((*FORMATS, *TEXT_FORMATS)):
            raise ValueError(f"expected a file ending in {', '.join((*TEXT_FORMATS, *FORMATS))}")
        if self.columns and name.endswith(TEXT_FORMATS):
            raise ValueError("a text file has no columns")
        return self


def _as_unlabelled(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


class StudentConfig(ModelConfig):
    """What is trained: exactly one of `encoder`, `compact` and `teacher_layers`."""

    teacher_layers: int | list[int] | None = None
    """A copy of the inner teacher with fewer layers: so many, evenly spaced, or these (from 1)."""

    teacher_tokenizer: bool = False
    """The compact student takes over the inner teacher's tokenizer, `compact.vocab_size` is not used then.
    Needed where it learns hidden states."""

    @model_validator(mode="after")
    def _one_encoder(self) -> StudentConfig:
        if sum(choice is not None for choice in (self.encoder, self.compact, self.teacher_layers)) != 1:
            raise ValueError("give exactly one of 'encoder', 'compact' and 'teacher_layers'")
        if self.teacher_tokenizer and self.compact is None:
            raise ValueError("'teacher_tokenizer' is for a compact student; the others have a tokenizer already")
        if self.teacher_layers is not None:
            layers = [self.teacher_layers] if isinstance(self.teacher_layers, int) else self.teacher_layers
            if not layers or min(layers) < 1 or any(b <= a for a, b in pairwise(layers)):
                raise ValueError("teacher_layers: expected one layer or more, counted from 1, in rising order")
        return self


class DistillationConfig(Section):
    """How the student learns from the teachers."""

    temperature: float = Field(default=2.0, gt=0)
    """Divides the logits of student and teachers in the soft loss (Hinton et al. 2015)."""

    alpha: float = Field(default=0.5, ge=0, le=1)
    """Share of the label in the loss of a cell that has one; the teachers have the rest. Cells without a label
    are the teachers' alone."""

    calibrate_teachers: bool = True
    """Fit each teacher's logits to the validation rows before the mean is taken, so that their scales agree."""

    hidden_weight: float = Field(default=0.0, ge=0)
    """Weight of the loss over hidden states; 0 is off. Needs the inner teacher's tokenizer in the student."""

    hidden_loss: Literal["mse", "cosine"] = "mse"

    layer_map: dict[int, int] | None = None
    """Student layer → teacher layer, 0 being the embeddings; evenly spaced by default."""

    inner_teacher: str | None = None
    """Name of the teacher whose hidden states, layers or tokenizer the student takes; needed where several are
    checkpoints."""

    bf16: bool | Literal["auto"] = "auto"
    """Arithmetic of the teachers. auto: on a CUDA device that supports it, and nowhere else."""

    batch_tokens: int | None = Field(default=None, ge=1)
    """Most padded tokens of a teacher's batch; by default 32768 on a GPU and 2048 on a CPU."""

    cache_dir: Path | None = None
    """Where teachers' scores are kept for later runs; `distillation/scores` of the run folder by default."""


class DistillConfig(RunConfig):
    """A whole distillation."""

    model: StudentConfig
    teachers: list[TeacherConfig] = Field(min_length=1)
    unlabelled: list[Annotated[UnlabelledConfig, BeforeValidator(_as_unlabelled)]] = Field(default_factory=list)
    distillation: DistillationConfig = DistillationConfig()

    @model_validator(mode="after")
    def _names_are_known(self) -> DistillConfig:
        names = Counter(teacher.shown_name for teacher in self.teachers)
        if repeated := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"teachers: several are called {repeated[0]!r}; give each a 'name' of its own")
        if self.needs_inner_teacher:
            checkpoints = [teacher.shown_name for teacher in self.teachers if teacher.checkpoint is not None]
            inner = self.distillation.inner_teacher
            if not checkpoints:
                raise ValueError("hidden states, layers and tokenizer come from a checkpoint, and no teacher is one")
            own_tokens = self.model.compact is not None and not self.model.teacher_tokenizer
            if self.distillation.hidden_weight and own_tokens:
                raise ValueError("hidden states need the teacher's tokens: set model.teacher_tokenizer: true")
            if (inner is None and len(checkpoints) > 1) or (inner is not None and inner not in checkpoints):
                raise ValueError(f"distillation.inner_teacher: expected one of {', '.join(checkpoints)}, got {inner}")
        return self

    @property
    def needs_inner_teacher(self) -> bool:
        """Whether the student takes anything but scores from a teacher."""
        return bool(self.distillation.hidden_weight or self.model.teacher_tokenizer or self.model.teacher_layers)

    @property
    def student_folder(self) -> Path:
        """Where a student that is no ready encoder is put before it is trained."""
        return self.output_dir / "student"

    def run_config(self) -> RunConfig:
        """The same as an ordinary run, which fine-tunes the encoder, or else what lies in `student_folder`."""
        values: dict[str, Any] = {name: getattr(self, name) for name in RunConfig.model_fields}
        encoder = self.model.encoder or str(self.student_folder)
        student = ModelConfig(encoder=encoder, revision=self.model.revision, max_length=self.model.max_length)
        return RunConfig(**(values | {"model": student}))


def load_distill_config(path: Path, *, output_dir: Path | None = None) -> DistillConfig:
    """Read and check the configuration of a distillation; paths in it become absolute.

    Raises:
        ConfigError: the file is missing, no YAML, or holds unknown keys or unusable values (all listed).
    """
    config = read_config(path, DistillConfig, output_dir=output_dir)
    base = path.resolve().parent
    cache = config.distillation.cache_dir
    folder = config.output_dir / "distillation" / "scores" if cache is None else (base / cache).resolve()
    teachers = [
        teacher if teacher.checkpoint is None else _moved(teacher, "checkpoint", base / teacher.checkpoint)
        for teacher in config.teachers
    ]
    return config.model_copy(
        update={
            "teachers": teachers,
            "unlabelled": [_moved(source, "path", base / source.path) for source in config.unlabelled],
            "distillation": config.distillation.model_copy(update={"cache_dir": folder}),
        }
    )


def _moved(section: Any, field: str, path: Path) -> Any:
    return section.model_copy(update={field: path.resolve()})
