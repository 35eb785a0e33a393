"""The masked loss: unknown labels have no part in it, and accumulated batches equal one big batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from shudun_training.examples import NEGATIVE, POSITIVE, UNKNOWN
from shudun_training.losses import MaskedBce, balanced_pos_weight, masked_bce

WEIGHTS = [None, torch.tensor([1.0, 2.5, 4.0])]


def batch(rows: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random logits and labels; about a third of the labels is unknown."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([NEGATIVE, POSITIVE, UNKNOWN])[torch.randint(3, (rows, 3), generator=generator)]
    return logits, labels


def loss_and_gradient(logits: Tensor, labels: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    loss = masked_bce(leaf, labels, **options)  # type: ignore[arg-type]
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


@pytest.mark.parametrize("pos_weight", WEIGHTS, ids=["plain", "weighted"])
def test_it_is_the_mean_binary_cross_entropy_of_known_cells(pos_weight: Tensor | None) -> None:
    logits, labels = batch()
    weight = np.ones(3) if pos_weight is None else pos_weight.numpy()
    score = 1 / (1 + np.exp(-logits.numpy()))
    terms = np.where(labels == POSITIVE, -weight * np.log(score), -np.log(1 - score))
    known = (labels != UNKNOWN).numpy()
    assert masked_bce(logits, labels, pos_weight=pos_weight).item() == pytest.approx(terms[known].mean(), rel=1e-12)


@pytest.mark.parametrize("pos_weight", WEIGHTS, ids=["plain", "weighted"])
@pytest.mark.parametrize("value", [0.0, -1e4, float("inf"), float("-inf"), float("nan")])
def test_the_logit_of_an_unknown_label_changes_neither_loss_nor_gradient(
    value: float, pos_weight: Tensor | None
) -> None:
    logits, labels = batch()
    unknown = labels == UNKNOWN
    assert unknown.any()
    loss, gradient = loss_and_gradient(logits, labels, pos_weight=pos_weight)
    other_loss, other_gradient = loss_and_gradient(torch.where(unknown, value, logits), labels, pos_weight=pos_weight)
    assert torch.equal(other_loss, loss)
    assert torch.equal(other_gradient, gradient)
    assert (gradient[unknown] == 0).all()
    assert (gradient[~unknown] != 0).all()


def test_rows_without_any_known_label_can_be_left_out() -> None:
    logits, labels = batch()
    more_logits = torch.cat([logits, torch.full((5, 3), 7.0, dtype=logits.dtype)])
    more_labels = torch.cat([labels, torch.full((5, 3), UNKNOWN)])
    assert torch.equal(masked_bce(more_logits, more_labels), masked_bce(logits, labels))


def test_a_batch_without_any_known_label_has_loss_and_gradient_zero() -> None:
    logits, _ = batch()
    loss, gradient = loss_and_gradient(logits, torch.full((12, 3), UNKNOWN))
    assert loss == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("sizes", [[6, 6], [1, 4, 7], [1] * 12])
def test_accumulated_batches_give_the_loss_and_gradient_of_one_big_batch(sizes: list[int]) -> None:
    logits, labels = batch()
    known = (labels != UNKNOWN).sum()
    loss, gradient = loss_and_gradient(logits, labels, pos_weight=WEIGHTS[1])
    parts = [
        loss_and_gradient(x, y, pos_weight=WEIGHTS[1], num_items_in_batch=known)
        for x, y in zip(logits.split(sizes), labels.split(sizes), strict=True)
    ]
    torch.testing.assert_close(sum(part for part, _ in parts), loss)
    torch.testing.assert_close(torch.cat([part for _, part in parts]), gradient)


def test_half_precision_outputs_are_summed_in_single_precision() -> None:
    logits, labels = batch(rows=4000)
    outputs = {"logits": logits.to(torch.bfloat16)}
    expected = masked_bce(outputs["logits"].double(), labels, pos_weight=WEIGHTS[1])
    got = MaskedBce(WEIGHTS[1])(outputs, labels)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)


def test_balanced_weights_are_negatives_per_positive_of_known_cells_within_the_cap() -> None:
    columns = [
        [1, 0, 0, 0, 0, -100],  # four negatives, one positive
        [1, 0, 0, 0, 0, 0],  # five to one: capped
        [1, 1, 1, 0, -100, -100],  # never below one
        [0] * 6,
        [-100] * 6,
    ]
    assert balanced_pos_weight(np.array(columns).T, cap=4.5).tolist() == [4.0, 4.5, 1.0, 1.0, 1.0]
