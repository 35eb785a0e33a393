"""One validated YAML file = one reproducible run.

Unknown keys are refused and all errors are reported together. Names under `training` are those of
transformers' `TrainingArguments`. Relative paths are relative to the file that holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from shudun.errors import ShudunError
from shudun.policy import Policy
from shudun.records import FORMATS
from shudun.taxonomy import Taxonomy
from shudun_training.config_section import Section, key_path
from shudun_training.loss_config import BceConfig, LossConfig
from shudun_training.search_config import SearchConfig, Value


class ConfigError(ShudunError):
    """A configuration file is not usable; the message lists every problem in it."""


class SourceConfig(Section):
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


class DataConfig(Section):
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


class CompactConfig(Section):
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


class ModelConfig(Section):
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


class TrainingConfig(Section):
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
    bf16: bool | Literal["auto", "native"] = "auto"
    """Mixed precision. auto: on a CUDA device that supports it, and nowhere else. native: on a CPU too, if it has
    bfloat16 instructions (then about 1.7 times as fast); a run then depends on the CPU it is on. On a CPU without them
    true is slower than false."""

    tf32: bool | Literal["auto"] = "auto"
    """float32 matrix products in TensorFloat-32. auto: on an NVIDIA GPU of Ampere or newer."""

    optim: Literal["adamw_torch_fused", "adamw_torch"] = "adamw_torch_fused"
    torch_compile: bool = False
    """Compile the model: minutes at the start for faster steps on a GPU. It is compiled three or four times (the first
    shape, any length, a smaller last batch), however many lengths the batches have."""

    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: a third more time, far less memory."""

    save_steps: int | None = Field(default=None, ge=1)
    """Evaluate and save after every so many optimiser steps; null: after every epoch."""

    early_stopping_patience: int = Field(default=3, ge=1)
    """Evaluations without a better `metric_for_best_model` after which training stops."""

    metric_for_best_model: Literal["macro_ap", "macro_f1_at_half", "loss"] = "macro_ap"
    save_total_limit: int = Field(default=2, ge=1)
    """Checkpoints that are kept; the newest and the best one always are."""

    logging_steps: int = Field(default=10, ge=1)
    dataloader_num_workers: int = Field(default=0, ge=0)
    report_to: Literal["tensorboard", "none"] = "tensorboard"


class RegularisationConfig(Section):
    """What keeps fine-tuning from fitting the training rows too closely; all off by default."""

    r_drop_alpha: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the divergence of two passes with different dropout (R-Drop); 0 is off, 1 to 5 are usual."""

    fgm_epsilon: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Length of the adversarial step on a row's word embeddings (FGM), with a second pass of each batch; 0 is off, 1
    is usual."""

    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Learning rate of a layer over that of the layer above it, `training.learning_rate` above the top one; 1 is off,
    0.8 to 0.95 are usual."""

    head_lr_factor: float = Field(default=1.0, ge=1, allow_inf_nan=False)
    """Learning rate of the head and the pooler over `training.learning_rate`: they start from random weights, the
    encoder does not. 1 is off, 10 is usual for small encoders."""

    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay of an average of the weights over the steps, which is evaluated and saved; 0 is off, 0.99 is usual."""


class AugmentationConfig(Section):
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


class NgramBranchConfig(Section):
    """A linear model over token n-grams beside the encoder, in the same graph; see `ngram_branch`."""

    max_order: int = Field(default=2, ge=1, le=4)
    """Tokens of the longest n-grams; all shorter ones are features too."""

    min_df: int = Field(default=2, ge=1)
    """Least number of training rows that an n-gram must stand in. A larger one makes smaller bundles."""

    inverse_regularisation: float = Field(default=16.0, gt=0)
    """`C` of the logistic regressions; chosen on the validation splits of shudun-xhs, ToxiCN and COLD."""


class ThresholdConfig(Section):
    """How thresholds are chosen on the validation split."""

    precision: float | None = Field(default=None, gt=0, le=1)
    """Reach at least this precision with the largest recall; where it cannot be reached, or when null, best F1."""

    automatic_precision: float = Field(default=0.95, gt=0, le=1)
    """Precision from which an action needs no human."""

    min_positives: int = Field(default=5, ge=1)
    """Labels with fewer validation positives keep 0.5 and are never automatic."""

    min_automatic: int = Field(default=10, ge=1)
    """Least number of validation rows above an automatic threshold: one lucky row proves no precision."""


class RunConfig(Section):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output_dir: Path
    taxonomy: Path
    policy: Path
    data: DataConfig
    model: ModelConfig
    training: TrainingConfig = TrainingConfig()
    loss: LossConfig = BceConfig()
    regularisation: RegularisationConfig = RegularisationConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    ngram_branch: NgramBranchConfig | None = None
    """Null leaves it out."""

    thresholds: ThresholdConfig = ThresholdConfig()
    search: SearchConfig | None = None
    """Read by `shudun tune` alone."""

    @model_validator(mode="after")
    def _searched_values_are_usable(self) -> RunConfig:
        for key, dimension in (self.search.space if self.search else {}).items():
            for value in dimension.extremes:
                try:
                    with_values(self, {key: value})
                except ValidationError as error:
                    reasons = "; ".join(f"{key_path(e['loc'])}: {e['msg']}" for e in error.errors())
                    raise ValueError(f"search.space: {key} = {value}: {reasons}") from error
        return self


_SEARCHABLE = ("model.", "training.", "loss.", "regularisation.", "augmentation.")


def with_values(config: RunConfig, values: Mapping[str, Value]) -> RunConfig:
    """The configuration with some values, by dotted key, in place of its own, and without its search.

    Another `loss.name` starts from the defaults of that loss.

    Raises:
        ValueError: a key that must not vary, or values that the configuration refuses (a `ValidationError`).
    """
    raw = config.model_dump(exclude={"search"})
    for key in sorted(values, key=lambda key: key != "loss.name"):
        _refuse_fixed(config, key)
        if key == "loss.name" and values[key] != config.loss.name:
            raw["loss"] = {}
        *sections, last = key.split(".")
        place = raw
        for section in sections:
            if not isinstance(place.get(section), dict):
                place[section] = {}
            place = place[section]
        place[last] = values[key]
    return RunConfig.model_validate(raw)


def _refuse_fixed(config: RunConfig, key: str) -> None:
    # What trials are compared by must be the same in all of them.
    if key in {"training.seed", "training.metric_for_best_model"} or not key.startswith(_SEARCHABLE):
        raise ValueError(
            f"search.space: {key} cannot be searched; give keys of {', '.join(_SEARCHABLE)}but no seed or metric"
        )
    if key.startswith("loss.") and config.training.metric_for_best_model == "loss":
        raise ValueError(
            f"search.space: {key} changes the loss by which trials are compared; choose another metric_for_best_model"
        )


RunLike = TypeVar("RunLike", bound=RunConfig)
SectionLike = TypeVar("SectionLike", bound=Section)


def load_run_config(path: Path, *, output_dir: Path | None = None) -> RunConfig:
    """Read and check a run configuration; paths in it become absolute.

    Raises:
        ConfigError: the file is missing, no YAML, or holds unknown keys or unusable values (all listed).
    """
    return read_config(path, RunConfig, output_dir=output_dir)


def read_config(path: Path, kind: type[RunLike], *, output_dir: Path | None = None) -> RunLike:
    """Read and check a configuration of a run or of a kind of run, as `load_run_config` does."""
    config = parse_config(path, kind)
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


def parse_config(path: Path, kind: type[SectionLike]) -> SectionLike:
    """Read a configuration of any kind; paths in it stay as they are written.

    Raises:
        ConfigError: the file is missing, no YAML, or holds unknown keys or unusable values (all listed).
    """
    raw = _read_yaml(path)
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        problems = [f"  {key_path(e['loc']) or '(file)'}: {e['msg']}" for e in error.errors()]
        raise ConfigError("\n".join([f"{path}: {len(problems)} problem(s):", *problems])) from error


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
