"""One validated YAML file = one reproducible run.

Unknown keys are refused and all errors are reported together. Names under `training` are those of
transformers' `TrainingArguments`. Relative paths are relative to the file that holds them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from shudun.errors import ShudunError
from shudun.policy import Policy
from shudun.records import FORMATS
from shudun.taxonomy import Taxonomy


class ConfigError(ShudunError):
    """A configuration file is not usable; the message lists every problem in it."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class SourceConfig(_Section):
    """One source of labelled rows."""

    path: str
    """A file (.jsonl, .csv, .parquet, also .gz), a folder that holds `<split>.jsonl`, a folder written by
    `datasets.save_to_disk`, or a hub id."""

    split: str | None = None
    """Split of a folder or hub data set."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Field → column, where the names differ."""

    annotated_labels: list[str] | None = None
    """Labels this source annotates at all; all others are unknown in each of its rows. Default: every label."""

    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the rows that is used. Rows are drawn by their ids: the same ones in every run, and a smaller share
    is part of a larger one."""

    repeat: int = Field(default=1, ge=1)
    """How often an epoch of training sees each row, so that a small source is not drowned by large ones. The
    baseline and every measurement see it once."""


def _as_source(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


Source = Annotated[SourceConfig, BeforeValidator(_as_source)]


class DataConfig(_Section):
    """Where rows come from, and what happens to bad ones."""

    train: list[Source] = Field(min_length=1)
    validation: list[Source] = Field(min_length=1)
    test: list[Source] = Field(default_factory=list)
    """Evaluated once at the end; never used for any choice."""

    on_bad_row: Literal["fail", "skip"] = "fail"

    @model_validator(mode="after")
    def _only_training_repeats(self) -> DataConfig:
        if any(source.repeat != 1 for source in (*self.validation, *self.test)):
            raise ValueError("'repeat' is for sources of 'train': rows that are measured count once")
        return self


class CompactConfig(_Section):
    """A BERT encoder from random weights with a vocabulary of its own, for places without a model hub."""

    vocab_size: int = Field(default=6000, ge=64)
    hidden_size: int = Field(default=256, ge=8)
    num_hidden_layers: int = Field(default=4, ge=1)
    num_attention_heads: int = Field(default=4, ge=1)
    intermediate_size: int = Field(default=1024, ge=8)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> CompactConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")
        return self


class ModelConfig(_Section):
    """What is fine-tuned: exactly one of `encoder` and `compact`."""

    encoder: str | None = None
    """Hub id or local folder of a BERT-family encoder (safetensors), or `builtin`, the one that ships with shudun."""

    revision: str | None = None
    """Hub revision (branch, tag or commit) of `encoder`."""

    compact: CompactConfig | None = None
    max_length: int = Field(default=128, ge=8, le=512)
    """Tokens per text, special tokens included; longer texts are cut and flagged."""

    @model_validator(mode="after")
    def _one_encoder(self) -> ModelConfig:
        if (self.encoder is None) == (self.compact is None):
            raise ValueError("give exactly one of 'encoder' (hub id or folder) and 'compact' (from random weights)")
        return self


class TrainingConfig(_Section):
    """Optimisation; names and meaning as in `TrainingArguments`."""

    learning_rate: float = Field(default=3e-5, gt=0)
    num_train_epochs: float = Field(default=5, gt=0)
    per_device_train_batch_size: int = Field(default=32, ge=1)
    per_device_eval_batch_size: int = Field(default=64, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps over which the learning rate rises."""

    lr_scheduler_type: str = "linear"
    max_grad_norm: float = Field(default=1.0, gt=0)
    seed: int = 42
    bf16: bool | Literal["auto"] = "auto"
    """auto: on a CUDA device that supports it, and nowhere else."""

    early_stopping_patience: int = Field(default=3, ge=1)
    """Epochs without a better `metric_for_best_model` after which training stops."""

    metric_for_best_model: Literal["macro_ap", "macro_f1_at_half", "loss"] = "macro_ap"
    save_total_limit: int = Field(default=2, ge=1)
    logging_steps: int = Field(default=10, ge=1)
    dataloader_num_workers: int = Field(default=0, ge=0)
    report_to: Literal["tensorboard", "none"] = "tensorboard"


class LossConfig(_Section):
    """Masked binary cross-entropy over known labels."""

    pos_weight: Literal["none", "balanced"] | dict[str, float] = "none"
    """Weight of positives per label: none (1), balanced (negatives / positives, capped), or by label id."""

    max_pos_weight: float = Field(default=10.0, ge=1)
    """Cap of "balanced"."""


class AugmentationConfig(_Section):
    """Disguised copies in place of training rows, drawn anew in each epoch; see `augmentation` and `disguise`."""

    probability: float = Field(default=0.0, ge=0, le=1)
    """Share of the training rows that are disguised in an epoch, with and without violations alike; 0 is off."""

    families: list[str] | None = None
    """Disguise families in use; all by default."""

    held_out: list[str] = Field(default_factory=list)
    """Families and alias words that are never written, so that tests can use them."""

    intensity: float = Field(default=0.6, ge=0, le=1)
    """Share of a row's contact wording that is disguised."""

    seed: int = 42

    @model_validator(mode="after")
    def _names_are_known(self) -> AugmentationConfig:
        from shudun_training.disguise.selection import select_families

        try:
            select_families(self.families, self.held_out)
        except ShudunError as error:
            raise ValueError(str(error)) from error
        return self


class ThresholdConfig(_Section):
    """How thresholds are chosen on the validation split."""

    precision: float | None = Field(default=None, gt=0, le=1)
    """Reach at least this precision with the largest recall; where it cannot be reached, or when null, best F1."""

    automatic_precision: float = Field(default=0.95, gt=0, le=1)
    """Precision from which an action needs no human."""

    min_positives: int = Field(default=5, ge=1)
    """Labels with fewer validation positives keep 0.5 and are never automatic."""

    min_automatic: int = Field(default=10, ge=1)
    """Least number of validation rows above an automatic threshold: one lucky row proves no precision."""


class RunConfig(_Section):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output_dir: Path
    taxonomy: Path
    policy: Path
    data: DataConfig
    model: ModelConfig
    training: TrainingConfig = TrainingConfig()
    loss: LossConfig = LossConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    thresholds: ThresholdConfig = ThresholdConfig()


def load_run_config(path: Path, *, output_dir: Path | None = None) -> RunConfig:
    """Read and check a run configuration; paths in it become absolute.

    Raises:
        ConfigError: the file is missing, no YAML, or holds unknown keys or unusable values (all listed).
    """
    raw = _read_yaml(path)
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as error:
        problems = [f"  {'.'.join(map(str, e['loc'])) or '(file)'}: {e['msg']}" for e in error.errors()]
        raise ConfigError("\n".join([f"{path}: {len(problems)} problem(s):", *problems])) from error
    base = path.resolve().parent
    data = config.data.model_copy(
        update={
            split: [_absolute_source(source, base) for source in getattr(config.data, split)]
            for split in ("train", "validation", "test")
        }
    )
    model = config.model
    if model.encoder is not None and (base / model.encoder).is_dir():
        model = model.model_copy(update={"encoder": str((base / model.encoder).resolve())})
    return config.model_copy(
        update={
            "output_dir": output_dir.resolve() if output_dir else (base / config.output_dir).resolve(),
            "taxonomy": (base / config.taxonomy).resolve(),
            "policy": (base / config.policy).resolve(),
            "data": data,
            "model": model,
        }
    )


def save_run_config(config: RunConfig, path: Path) -> None:
    """Write a configuration as YAML; `load_run_config` reads it back unchanged."""
    path.write_text(
        yaml.safe_dump(config.model_dump(mode="json"), allow_unicode=True, sort_keys=False), encoding="utf-8"
    )


def load_taxonomy(path: Path) -> Taxonomy:
    """Read a taxonomy from YAML."""
    return Taxonomy.from_dict(_read_yaml(path))


def load_label_map(path: Path) -> dict[str, str]:
    """Read a mapping of source labels to labels of a taxonomy from YAML; null leaves a label out ("")."""
    raw = _read_yaml(path)
    if not all(isinstance(key, str) and isinstance(value, str | None) for key, value in raw.items()):
        raise ConfigError(f"{path}: expected lines of the form 'OLD: NEW', both texts (quote numbers), or 'OLD:'")
    return {key: value or "" for key, value in raw.items()}


def load_policy(path: Path) -> Policy:
    """Read a policy from YAML."""
    return Policy.from_dict(_read_yaml(path))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, got {type(raw).__name__}")
    return raw


def _absolute_source(source: SourceConfig, base: Path) -> SourceConfig:
    candidate = base / source.path
    # What exists or is named like a file is local; anything else of the form "name" or "owner/name" is a hub id.
    if candidate.exists() or source.path.startswith((".", "/")) or source.path.lower().endswith(FORMATS):
        return source.model_copy(update={"path": str(candidate.resolve())})
    return source
