"""The `search` section of `shudun tune`: which keys of the configuration vary, within which limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator

from shudun_training.config_section import Section, form, form_by

Value = bool | int | float | str | None


class RangeConfig(Section):
    """Numbers between two limits, both included; whole numbers where both limits are."""

    low: int | float
    high: int | float
    log: bool = False
    """Draw evenly by order of magnitude, e.g. for learning rates."""

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> RangeConfig:
        if not self.low < self.high:
            raise ValueError(f"low must be less than high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, got {self.low}")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def extremes(self) -> list[Value]:
        """The values that a configuration must accept for all between them to make sense."""
        return [self.low, self.high]

    def holds(self, value: object) -> bool:
        """Whether a value could be drawn."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return bool(self.low <= value <= self.high)


class ChoicesConfig(Section):
    """Some values, in no order."""

    choices: list[Value] = Field(min_length=2)

    @model_validator(mode="after")
    def _each_once(self) -> ChoicesConfig:
        if any(value in self.choices[:i] for i, value in enumerate(self.choices)):
            raise ValueError("each choice must stand once")
        return self

    @property
    def extremes(self) -> list[Value]:
        """Every choice."""
        return list(self.choices)

    def holds(self, value: object) -> bool:
        """Whether a value could be drawn."""
        return value in self.choices


Dimension = Annotated[
    Annotated[RangeConfig, Tag(form("range"))] | Annotated[ChoicesConfig, Tag(form("choices"))],
    form_by(
        lambda given: "choices" if "choices" in given else "range",
        "a mapping of 'low' and 'high', or of 'choices'",
    ),
]


class SearchConfig(Section):
    """How `shudun tune` searches; `shudun train` refuses no configuration that has it, and ignores it."""

    space: dict[str, Dimension] = Field(default_factory=dict)
    """Dotted key of this file → its values; empty: learning rate around the configured one, weight decay, warm-up."""

    pruner: Literal["none", "median"] = "none"
    """median: stop a trial that stays below the median of earlier ones at the same epoch."""

    seed: int = 42
    """Seed of the proposals; every trial trains with `training.seed`."""
