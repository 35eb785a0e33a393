"""Values for a trial: drawn from the configured space, or from a default one around the configured values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shudun_training.config import RunConfig
from shudun_training.search_config import ChoicesConfig, RangeConfig, Value

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Space = Mapping[str, RangeConfig | ChoicesConfig]


def search_space(config: RunConfig) -> Space:
    """The configured space; by default learning rate (a third to three times), weight decay and warm-up."""
    if config.search and config.search.space:
        return config.search.space
    rate = config.training.learning_rate
    return {
        "training.learning_rate": RangeConfig(low=rate / 3, high=rate * 3, log=True),
        "training.weight_decay": ChoicesConfig(choices=[0.0, 0.01, 0.1]),
        "training.warmup_ratio": RangeConfig(low=0.0, high=0.2),
    }


def configured_values(config: RunConfig, space: Space) -> dict[str, Value]:
    """What the configuration itself says for the keys of a space, as far as the space holds it."""
    found: dict[str, Any] = {key: _value(config.model_dump(), key) for key in space}
    return {key: value for key, value in found.items() if space[key].holds(value)}


def draw(trial: BaseTrial, space: Space) -> dict[str, Value]:
    """One value for each key, as the study proposes."""
    return {key: _draw_one(trial, key, dimension) for key, dimension in space.items()}


def _draw_one(trial: BaseTrial, key: str, dimension: RangeConfig | ChoicesConfig) -> Value:
    if isinstance(dimension, ChoicesConfig):
        value: Value = trial.suggest_categorical(key, dimension.choices)
        return value
    if dimension.whole:
        return trial.suggest_int(key, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)


def _value(section: object, key: str) -> object:
    for part in key.split("."):
        section = section.get(part) if isinstance(section, dict) else None
    return section
