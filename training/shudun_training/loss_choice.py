"""From the `loss` section to the loss that is trained with; counts come from the training rows alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shudun.errors import ShudunError
from shudun.taxonomy import Taxonomy
from shudun_training.examples import Example, label_matrix
from shudun_training.imbalance_losses import AsymmetricLoss, DistributionBalancedLoss, FocalLoss, ZlprLoss
from shudun_training.loss_config import (
    AsymmetricConfig,
    BceConfig,
    DistributionBalancedConfig,
    FocalConfig,
    LossConfig,
)
from shudun_training.losses import MaskedBce, MultiLabelLoss, balanced_pos_weight


def build_loss(config: LossConfig, train: Sequence[Example], taxonomy: Taxonomy) -> MultiLabelLoss:
    """The loss that a configuration names.

    Raises:
        ShudunError: a weight for a label outside the taxonomy.
    """
    parameters = config.model_dump(exclude={"name"})
    match config:
        case BceConfig():
            return MaskedBce(_pos_weight(config, train, taxonomy))
        case FocalConfig():
            return FocalLoss(**parameters)
        case AsymmetricConfig():
            return AsymmetricLoss(**parameters)
        case DistributionBalancedConfig():
            return DistributionBalancedLoss(label_matrix(train, taxonomy), **parameters)
        case _:
            return ZlprLoss()


def _pos_weight(config: BceConfig, train: Sequence[Example], taxonomy: Taxonomy) -> torch.Tensor | None:
    if config.pos_weight == "none":
        return None
    if config.pos_weight == "balanced":
        return balanced_pos_weight(label_matrix(train, taxonomy), cap=config.max_pos_weight)
    if unknown := sorted(set(config.pos_weight) - set(taxonomy.label_ids)):
        raise ShudunError(f"loss.pos_weight: not in taxonomy {taxonomy.id}: {', '.join(unknown)}")
    return torch.tensor([config.pos_weight.get(label, 1.0) for label in taxonomy.label_ids])
