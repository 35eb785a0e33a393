"""Losses made for few positives among many negatives: focal, asymmetric, distribution-balanced, ZLPR.

As published, and masked: unknown labels are left out of every sum. Powers of probabilities are computed as exponentials
of log-probabilities, whose gradients stay finite where a probability rounds to 0 or 1.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from shudun_training.examples import NEGATIVE, POSITIVE, UNKNOWN
from shudun_training.losses import CellLoss, MultiLabelLoss


class FocalLoss(CellLoss):
    """Lin et al. 2017, "Focal Loss for Dense Object Detection" (arXiv:1708.02002), eq. 4 and 5.

    FL = -alpha_t (1 - p_t)^gamma log p_t, with p_t = p of a positive and 1 - p of a negative. `alpha` weighs positives,
    1 - alpha negatives; `None` weighs both with 1 (eq. 4), and gamma = 0 is then binary cross-entropy. Mean over known
    labels.
    """

    def __init__(self, *, gamma: float, alpha: float | None = None) -> None:
        self.gamma = gamma
        self.alpha = alpha

    def cells(self, logits: Tensor, positive: Tensor) -> Tensor:
        """The loss of each cell."""
        losses = _focal(torch.where(positive, logits, -logits), self.gamma)
        return losses if self.alpha is None else torch.where(positive, self.alpha, 1 - self.alpha) * losses


class AsymmetricLoss(CellLoss):
    """Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification" (arXiv:2009.14119), ASL.

    A positive has -(1 - p)^g+ log p, a negative -p_m^g- log(1 - p_m), with p_m = max(p - m, 0) and m = `shift`. The
    gradient goes through the shift and through the focusing weight: it is 0 below p = m. Mean over known labels.
    """

    def __init__(self, *, gamma_positive: float, gamma_negative: float, shift: float) -> None:
        self.gamma_positive = gamma_positive
        self.gamma_negative = gamma_negative
        self.shift = shift

    def cells(self, logits: Tensor, positive: Tensor) -> Tensor:
        """The loss of each cell."""
        return torch.where(positive, _focal(logits, self.gamma_positive), self._negative(logits))

    def _negative(self, logits: Tensor) -> Tensor:
        if self.shift == 0:
            return _focal(-logits, self.gamma_negative)
        shifted = torch.sigmoid(logits) - self.shift
        # A stand-in where nothing is left: the power of 0 has no finite gradient for an exponent below 1.
        left = torch.where(shifted > 0, shifted, 0.5)
        return torch.where(shifted > 0, -(left**self.gamma_negative) * torch.log1p(-left), 0.0)


class DistributionBalancedLoss(CellLoss):
    """Wu et al. 2020, "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets" (ECCV).

    With n_k positives of label k in the training rows and p_k = n_k / (known rows of k):
    - rebalanced weighting: r_k = (1/n_k) / sum over the row's positives i of (1/n_i), and the weight of a cell is
      map_alpha + sigmoid(map_beta (r_k - map_mu));
    - negative-tolerant regularisation: v_k = bias_scale log(1/p_k - 1), a positive has -log s(z - v_k), a negative
      -(1/L) log s(-L (z - v_k)), with L = `negative_scale` and s the sigmoid;
    - focusing, as Huang et al. 2021 use it for text (arXiv:2109.04712): each term times (1 - s(.))^gamma.
    A row without a known positive has r_k = infinity, the limit of rare positives, hence the weight map_alpha + 1. A
    label of which every known row is negative, or positive, counts half a row of the other kind. Mean over known
    labels; the constant factors of the published codes (2, or 1/2) are left out.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        *,
        map_alpha: float,
        map_beta: float,
        map_mu: float,
        bias_scale: float,
        negative_scale: float,
        gamma: float,
    ) -> None:
        positives = (labels == POSITIVE).sum(axis=0)
        known = np.maximum(positives + (labels == NEGATIVE).sum(axis=0), 1)
        counts = np.clip(positives, 0.5, known - 0.5)
        self.inverse_counts = torch.tensor(1 / counts)
        self.bias = torch.tensor(bias_scale * np.log(known / counts - 1))
        self.map = (map_alpha, map_beta, map_mu)
        self.negative_scale = negative_scale
        self.gamma = gamma

    def weights(self, positive: Tensor, dtype: torch.dtype) -> Tensor:
        """The rebalanced weight of each cell `(batch, num_labels)`."""
        alpha, beta, mu = self.map
        inverse = self.inverse_counts.to(positive.device, dtype)
        ratio = inverse / torch.where(positive, inverse, 0.0).sum(dim=1, keepdim=True)
        return alpha + torch.sigmoid(beta * (ratio - mu))

    def cells(self, logits: Tensor, positive: Tensor) -> Tensor:
        """The loss of each cell."""
        tolerant = logits - self.bias.to(logits.device, logits.dtype)
        scale = self.negative_scale
        losses = torch.where(positive, _focal(tolerant, self.gamma), _focal(-scale * tolerant, self.gamma) / scale)
        return self.weights(positive, logits.dtype) * losses


class ZlprLoss(MultiLabelLoss):
    """Su et al. 2022, "ZLPR: A Novel Loss for Multi-label Classification" (arXiv:2208.02955).

    A row has log(1 + sum over positives of e^-z) + log(1 + sum over negatives of e^z): positives rank above 0, the
    logit of a probability of 0.5, and negatives below. The loss of a row does not come apart into labels, so the items
    are rows: the mean is over rows with a known label, and a row counts alike however many of its labels are known.
    """

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum over rows."""
        return (_log1p_sum_exp(-logits, labels == POSITIVE) + _log1p_sum_exp(logits, labels == NEGATIVE)).sum()

    def items(self, labels: Tensor) -> Tensor:
        """One entry for each row."""
        return torch.where((labels != UNKNOWN).any(dim=1), NEGATIVE, UNKNOWN)


def _focal(margin: Tensor, gamma: float) -> Tensor:
    """-(1 - q)^gamma log q for q = sigmoid(margin)."""
    losses = -functional.logsigmoid(margin)
    return losses if gamma == 0 else torch.exp(gamma * functional.logsigmoid(-margin)) * losses


def _log1p_sum_exp(values: Tensor, chosen: Tensor) -> Tensor:
    kept = torch.where(chosen, values, -torch.inf)
    return torch.logsumexp(functional.pad(kept, (1, 0)), dim=1)
