"""The adversarial step: direction and length by hand, rows apart, nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from shudun import ShudunError
from shudun_training.fgm import EmbeddingShift, unit_rows

IDS = torch.tensor([[1, 2, 3], [4, 1, 0], [2, 2, 2]])


@pytest.fixture
def embeddings() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(5, 4)


def loss_of(embedded: Tensor, rows: list[float]) -> Tensor:
    """Each row times its factor; a factor of 0 is a row without a known label."""
    return (torch.tensor(rows)[:, None, None] * embedded.sin()).sum()


def test_the_step_follows_the_gradient_with_the_given_length(embeddings: nn.Embedding) -> None:
    shift = EmbeddingShift(embeddings, 0.7)
    plain = embeddings(IDS).detach()
    with shift.record():
        seen = embeddings(IDS)
        loss_of(seen, [1.0, -1e-6, 0.0]).backward()
    assert torch.equal(seen, plain)
    with shift.apply():
        moved = (embeddings(IDS) - plain).detach()
    direction = plain.cos()
    torch.testing.assert_close(moved[0], 0.7 * direction[0] / direction[0].norm(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(moved[1], -0.7 * direction[1] / direction[1].norm(), rtol=1e-4, atol=1e-6)
    assert (moved[2] == 0).all()
    assert torch.equal(embeddings(IDS), plain)


def test_gradients_of_both_passes_reach_the_weights(embeddings: nn.Embedding) -> None:
    shift = EmbeddingShift(embeddings, 0.5)
    with shift.record():
        loss_of(embeddings(IDS), [1.0] * 3).backward()
    assert embeddings.weight.grad is not None
    clean = embeddings.weight.grad.clone()
    with shift.apply():
        loss_of(embeddings(IDS), [1.0] * 3).backward()
    assert not torch.equal(embeddings.weight.grad, clean)
    assert not torch.equal(embeddings.weight.grad, 2 * clean)


def test_a_step_without_a_gradient_is_refused(embeddings: nn.Embedding) -> None:
    shift = EmbeddingShift(embeddings, 0.5)
    with pytest.raises(ShudunError, match="no gradient reached the word embeddings"), shift.apply():
        pass
    with shift.record():
        embeddings(IDS)
    with pytest.raises(ShudunError, match="no gradient reached the word embeddings"), shift.apply():
        pass


def test_no_hook_stays_after_an_error(embeddings: nn.Embedding) -> None:
    shift = EmbeddingShift(embeddings, 0.5)
    with pytest.raises(KeyError), shift.record():
        raise KeyError
    assert not embeddings._forward_hooks


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_rows_are_normed_whatever_the_scale_of_the_loss(scale: float) -> None:
    gradient = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(unit_rows(gradient * scale).flatten(1).norm(dim=1), torch.ones(3))
    half = unit_rows(gradient.bfloat16())
    assert half.dtype == torch.float32
