"""One validated YAML file = one reproducible pre-training run, in the manner of `shudun_training.config`.

Names under `training` are those of transformers' `TrainingArguments` where it has them. Relative paths are relative
to the file that holds them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import yaml
from pydantic import BeforeValidator, Field, model_validator

from shudun_training.config import CompactConfig, parse_config
from shudun_training.config_section import Section

Unit: TypeAlias = Literal["span", "token", "word"]


class TextSource(Section):
    """One file of texts."""

    path: Path
    """.txt (one text a line), .jsonl, .csv or .parquet; all but the last also .gz."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Field (text, title, kind, parent_text) → column, where the names differ."""

    repeat: int = Field(default=1, ge=1)
    """How often an epoch sees each text, so that a small source is not drowned by large ones. Held-out texts are
    measured once."""

    @model_validator(mode="after")
    def _lines_have_no_columns(self) -> TextSource:
        if self.columns and is_text_file(self.path):
            raise ValueError("'columns' is for .jsonl, .csv and .parquet; a .txt file has one text a line")
        return self


def is_text_file(path: Path) -> bool:
    """Whether a file holds one text a line."""
    return path.name.lower().endswith((".txt", ".txt.gz"))


def _as_source(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


class NewEncoderConfig(CompactConfig):
    """A BERT encoder from random weights with a vocabulary of its own."""

    max_position_embeddings: int = Field(default=512, ge=8)
    """Positions the encoder has: no fine-tuned model can take longer texts."""

    min_frequency: int = Field(default=8, ge=1)
    """Least count of a character or word to enter the vocabulary; emoji enter from the first one on."""

    tokenizer: Path | None = None
    """Folder with a `tokenizer.json` to use instead of a new vocabulary; `vocab_size` and `min_frequency` then have
    no effect."""

    seed: int = 0
    """Seed of the random weights alone."""


class MaskingConfig(Section):
    """What must be guessed."""

    unit: Unit = "span"
    """span: one to four neighbouring tokens; token: single ones; word: whole words (needs the 'words' extra)."""

    share: float = Field(default=0.2, gt=0, lt=0.9)
    """Share of the ordinary tokens that are chosen."""


class HeldOutConfig(Section):
    """Texts that are never trained on."""

    share: float = Field(default=0.005, ge=0, lt=0.5)
    """Share of the texts, drawn by their hashes: a text is held out in every run and wherever it stands. 0 is off."""

    every_steps: int | None = Field(default=None, ge=1)
    """Measure every so many steps as well, not only at the end."""


class OptimizationConfig(Section):
    """Rows, optimiser, schedule and arithmetic."""

    steps: int = Field(ge=1)
    """Optimiser steps in all. May be raised on --resume as long as the learning rate has not begun to fall."""

    warmup_steps: int = Field(default=100, ge=0)
    decay_steps: int = Field(default=1000, ge=0)
    """Last steps, over which the learning rate falls to zero."""

    row_tokens: int = Field(default=128, ge=8)
    """Tokens of a packed row. A longer text is cut into pieces that do not see each other."""

    rows_per_step: int = Field(default=32, ge=1)
    """Rows of one optimiser step, over all processes and accumulated parts."""

    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Parts that each process takes its rows in, for less memory; the result is the same but for rounding."""

    optimizer: Literal["muon", "adamw"] = "muon"
    """muon: Muon for the matrices of the layers, AdamW for all else; adamw: AdamW for all."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Of AdamW."""

    matrix_learning_rate: float = Field(default=3e-3, gt=0)
    """Of Muon, on the scale of AdamW's."""

    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the activations (autocast); weights and optimiser are fp32."""

    tf32: bool = True
    """On CUDA: fp32 products in TF32."""

    torch_compile: bool = False
    seed: int = 42
    save_steps: int = Field(default=500, ge=1)
    save_total_limit: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept, beside the one from before the learning rate falls."""

    logging_steps: int = Field(default=50, ge=1)

    @model_validator(mode="after")
    def _parts_fit(self) -> OptimizationConfig:
        if self.warmup_steps + self.decay_steps > self.steps:
            raise ValueError("warmup_steps and decay_steps together are more than steps")
        if self.gradient_accumulation_steps > self.rows_per_step:
            raise ValueError("gradient_accumulation_steps is more than rows_per_step: a part would have no row")
        return self


class PretrainConfig(Section):
    """A whole pre-training run: exactly one of `compact` and `encoder`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output_dir: Path
    texts: list[Annotated[TextSource, BeforeValidator(_as_source)]] = Field(min_length=1)
    on_bad_row: Literal["fail", "skip"] = "fail"
    compact: NewEncoderConfig | None = None
    encoder: str | None = None
    """What to go on from, with its own vocabulary: hub id or local folder of a BERT-family encoder (safetensors), or
    `builtin`."""

    revision: str | None = None
    """Hub revision (branch, tag or commit) of `encoder`."""

    max_length: int = Field(default=510, ge=8)
    """Tokens of a text, special tokens included; longer ones are cut, and counted."""

    masking: MaskingConfig = MaskingConfig()
    bag_weight: float = Field(default=0.2, ge=0)
    """Weight of the words of a text guessed from [CLS] alone, beside the masked tokens' 1; 0 is off."""

    held_out: HeldOutConfig = HeldOutConfig()
    training: OptimizationConfig
    weights: Literal["fp16", "fp32"] = "fp32"
    """Numbers in the finished encoder's file; it is loaded as fp32 in either case."""

    @model_validator(mode="after")
    def _one_encoder(self) -> PretrainConfig:
        if (self.encoder is None) == (self.compact is None):
            raise ValueError("give exactly one of 'encoder' (hub id or folder) and 'compact' (from random weights)")
        if self.compact is not None and self.revision is not None:
            raise ValueError("'revision' is for 'encoder'")
        return self


def load_pretrain_config(path: Path, *, output_dir: Path | None = None) -> PretrainConfig:
    """Read and check a pre-training configuration; paths in it become absolute.

    Raises:
        ConfigError: the file is missing, no YAML, or holds unknown keys or unusable values (all listed).
    """
    config = parse_config(path, PretrainConfig)
    base = path.resolve().parent
    folder = output_dir.resolve() if output_dir else (base / config.output_dir).resolve()
    return _absolute(config, base).model_copy(update={"output_dir": folder})


def save_pretrain_config(config: PretrainConfig, path: Path) -> None:
    """Write a configuration as YAML; `load_pretrain_config` reads it back unchanged."""
    path.write_text(
        yaml.safe_dump(config.model_dump(mode="json"), allow_unicode=True, sort_keys=False), encoding="utf-8"
    )


def _absolute(config: PretrainConfig, base: Path) -> PretrainConfig:
    changed: dict[str, object] = {
        "texts": [source.model_copy(update={"path": (base / source.path).resolve()}) for source in config.texts]
    }
    if config.encoder is not None and (base / config.encoder).is_dir():
        changed["encoder"] = str((base / config.encoder).resolve())
    if config.compact is not None and config.compact.tokenizer is not None:
        tokenizer = (base / config.compact.tokenizer).resolve()
        changed["compact"] = config.compact.model_copy(update={"tokenizer": tokenizer})
    return config.model_copy(update=changed)
