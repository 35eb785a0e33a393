"""BERT models whose weights are far enough from zero that a fault in a graph shows."""

from __future__ import annotations

import torch


def lively(model):
    """Weights far enough from zero that a wrong bias, norm or mask shows."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()
