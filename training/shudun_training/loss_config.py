"""The `loss` section: one name, and the parameters that this loss has.

The formulas stand in `losses` and `imbalance_losses`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from shudun_training.config_section import Section, form, form_by

LOSS_NAMES = ("bce", "focal", "asymmetric", "zlpr", "distribution_balanced")


class BceConfig(Section):
    """Masked binary cross-entropy; the default."""

    name: Literal["bce"] = "bce"
    pos_weight: Literal["none", "balanced"] | dict[str, float] = "none"
    """Weight of positives per label: none (1), balanced (negatives / positives, capped), or by label id."""

    max_pos_weight: float = Field(default=10.0, ge=1)
    """Cap of "balanced"."""


class FocalConfig(Section):
    """Cells that are already right count less."""

    name: Literal["focal"]
    gamma: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """Focusing exponent; 0 is plain binary cross-entropy."""

    alpha: float | None = Field(default=None, gt=0, lt=1)
    """Weight of positives, 1 - alpha of negatives; null weighs both alike."""


class AsymmetricConfig(Section):
    """Easy negatives count less than easy positives, and very easy ones not at all."""

    name: Literal["asymmetric"]
    gamma_positive: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    gamma_negative: float = Field(default=4.0, ge=0, allow_inf_nan=False)
    shift: float = Field(default=0.05, ge=0, lt=1)
    """Negatives scored below this probability have neither loss nor gradient."""


class ZlprConfig(Section):
    """Ranks the positives of a row above 0 and its negatives below."""

    name: Literal["zlpr"]


class DistributionBalancedConfig(Section):
    """Weights that take co-occurring labels into account, and negatives that are not pushed down for ever."""

    name: Literal["distribution_balanced"]
    map_alpha: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """Least weight of a cell."""

    map_beta: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Steepness of the weight in the rebalancing ratio."""

    map_mu: float = Field(default=0.9, ge=0, allow_inf_nan=False)
    """Rebalancing ratio whose weight lies in the middle."""

    bias_scale: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    """Share of the label's prior log-odds that its logit must overcome (kappa)."""

    negative_scale: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """How much sooner the loss of a negative flattens (lambda)."""

    gamma: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """Focusing exponent on top; 0 leaves it out."""


LossConfig = Annotated[
    Annotated[BceConfig, Tag(form("bce"))]
    | Annotated[FocalConfig, Tag(form("focal"))]
    | Annotated[AsymmetricConfig, Tag(form("asymmetric"))]
    | Annotated[ZlprConfig, Tag(form("zlpr"))]
    | Annotated[DistributionBalancedConfig, Tag(form("distribution_balanced"))],
    form_by(lambda given: given.get("name", "bce"), f"a mapping with a 'name' of {', '.join(LOSS_NAMES)}"),
]
