"""Every loss against its formula in plain floats, its limits, its gradient, and the masking of unknown labels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from shudun_training.examples import NEGATIVE, POSITIVE, UNKNOWN
from shudun_training.imbalance_losses import AsymmetricLoss, DistributionBalancedLoss, FocalLoss, ZlprLoss
from shudun_training.losses import MaskedBce, MultiLabelLoss, masked_bce
from shudun_training.r_drop import RDropLoss, symmetric_divergence

TRAIN = np.array(
    [
        [1, 0, -100],
        [1, 1, 0],
        [0, 0, 0],
        [1, 0, 1],
        [0, 0, -100],
        [0, 0, 0],
    ]
)
"""Positives 3, 1, 1 of 6, 6, 4 known rows."""

BALANCE = {"map_alpha": 0.1, "map_beta": 10.0, "map_mu": 0.9, "bias_scale": 0.05, "negative_scale": 2.0}


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def plain_focal(z: float, y: int, gamma: float, alpha: float) -> float:
    p_t = sigmoid(z) if y else 1 - sigmoid(z)
    return -(alpha if y else 1 - alpha) * (1 - p_t) ** gamma * math.log(p_t)


def plain_asymmetric(z: float, y: int, positive: float, negative: float, shift: float) -> float:
    p = sigmoid(z)
    if y:
        return -((1 - p) ** positive) * math.log(p)
    p_m = max(p - shift, 0)
    return -(p_m**negative) * math.log(1 - p_m)


def plain_balanced(z: float, k: int, row: list[int], gamma: float) -> float:
    counts, known = [3, 1, 1], [6, 6, 4]
    at_label, at_row = 1 / counts[k], sum(1 / n for n, y in zip(counts, row, strict=True) if y == 1)
    ratio = at_label / at_row if at_row else math.inf
    weight = 0.1 + 1 / (1 + math.exp(-10.0 * (ratio - 0.9)))
    margin = z - 0.05 * math.log(known[k] / counts[k] - 1)
    if row[k] == 1:
        q = sigmoid(margin)
        return -weight * (1 - q) ** gamma * math.log(q)
    q = 1 - sigmoid(2.0 * margin)
    return -weight / 2.0 * (1 - q) ** gamma * math.log(q)


def sum_of_cells(cell: Callable[[float, int, list[int]], float]) -> Callable[[list[float], list[int]], float]:
    return lambda logits, row: sum(cell(z, k, row) for k, z in enumerate(logits) if row[k] != -100)


def plain_zlpr(logits: list[float], row: list[int]) -> float:
    positives = sum(math.exp(-z) for z, y in zip(logits, row, strict=True) if y == 1)
    negatives = sum(math.exp(z) for z, y in zip(logits, row, strict=True) if y == 0)
    return math.log(1 + positives) + math.log(1 + negatives)


CASES: dict[str, tuple[MultiLabelLoss, Callable[[list[float], list[int]], float]]] = {
    "bce": (MaskedBce(), sum_of_cells(lambda z, k, row: plain_focal(z, row[k], 0, 0.5) * 2)),
    "focal": (FocalLoss(gamma=2.0, alpha=0.25), sum_of_cells(lambda z, k, row: plain_focal(z, row[k], 2, 0.25))),
    "focal-root": (FocalLoss(gamma=0.5), sum_of_cells(lambda z, k, row: plain_focal(z, row[k], 0.5, 0.5) * 2)),
    "asymmetric": (
        AsymmetricLoss(gamma_positive=1.0, gamma_negative=4.0, shift=0.05),
        sum_of_cells(lambda z, k, row: plain_asymmetric(z, row[k], 1, 4, 0.05)),
    ),
    "asymmetric-root": (
        AsymmetricLoss(gamma_positive=0.0, gamma_negative=0.5, shift=0.3),
        sum_of_cells(lambda z, k, row: plain_asymmetric(z, row[k], 0, 0.5, 0.3)),
    ),
    "balanced": (
        DistributionBalancedLoss(TRAIN, **BALANCE, gamma=2.0),
        sum_of_cells(lambda z, k, row: plain_balanced(z, k, row, 2)),
    ),
    "balanced-unfocused": (
        DistributionBalancedLoss(TRAIN, **BALANCE, gamma=0.0),
        sum_of_cells(lambda z, k, row: plain_balanced(z, k, row, 0)),
    ),
    "zlpr": (ZlprLoss(), plain_zlpr),
}
LOSSES = pytest.mark.parametrize("loss", [loss for loss, _ in CASES.values()], ids=list(CASES))


def batch(rows: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and labels; about a third of the labels is unknown, the last two rows have none known."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([NEGATIVE, POSITIVE, UNKNOWN])[torch.randint(3, (rows, 3), generator=generator)]
    labels[-2:] = UNKNOWN
    return logits, labels


def with_gradient(
    loss: MultiLabelLoss, logits: Tensor, labels: Tensor, items: int | None = None
) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss.mean(loss.total(leaf, labels), labels, items)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@pytest.mark.parametrize(("loss", "plain"), list(CASES.values()), ids=list(CASES))
def test_it_is_the_published_formula(loss: MultiLabelLoss, plain: Callable[[list[float], list[int]], float]) -> None:
    logits, labels = batch(60)
    expected = sum(map(plain, logits.tolist(), labels.tolist()))
    assert loss.total(logits, labels).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "logits", "row", "expected"),
    [
        (FocalLoss(gamma=2.0), [0.0], [1], 0.25 * math.log(2)),
        (FocalLoss(gamma=1.0, alpha=0.25), [math.log(3)], [0], 0.75 * 0.75 * math.log(4)),
        (AsymmetricLoss(gamma_positive=0, gamma_negative=4, shift=0.05), [0.0], [0], -(0.45**4) * math.log(0.55)),
        (AsymmetricLoss(gamma_positive=1, gamma_negative=4, shift=0.05), [0.0], [1], 0.5 * math.log(2)),
        (ZlprLoss(), [0.0, 0.0, 0.0], [1, 0, 0], math.log(2) + math.log(3)),
        (ZlprLoss(), [math.log(4), -math.log(4), 9.0], [1, 0, -100], 2 * math.log(1.25)),
    ],
)
def test_values_by_hand(loss: MultiLabelLoss, logits: list[float], row: list[int], expected: float) -> None:
    got = loss.total(torch.tensor([logits], dtype=torch.float64), torch.tensor([row]))
    assert got.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        FocalLoss(gamma=0.0),
        AsymmetricLoss(gamma_positive=0.0, gamma_negative=0.0, shift=0.0),
        AsymmetricLoss(gamma_positive=0.0, gamma_negative=0.0, shift=1e-14),
        DistributionBalancedLoss(
            TRAIN, map_alpha=0.5, map_beta=1e-15, map_mu=0.0, bias_scale=0.0, negative_scale=1.0, gamma=0.0
        ),
    ],
    ids=["focal", "asymmetric", "asymmetric-shifted", "balanced"],
)
def test_without_its_additions_it_is_binary_cross_entropy(loss: MultiLabelLoss) -> None:
    logits, labels = batch()
    labels[:, 0] = torch.where(labels[:, 0] == UNKNOWN, UNKNOWN, POSITIVE)  # a finite ratio in every known row
    labels[labels[:, 0] == UNKNOWN] = UNKNOWN
    value, gradient = with_gradient(loss, logits, labels)
    leaf = logits.clone().requires_grad_()
    expected = masked_bce(leaf, labels)
    expected.backward()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-10, atol=1e-12)


def test_zlpr_of_one_label_is_binary_cross_entropy() -> None:
    logits, labels = batch()
    logits, labels = logits[:, :1], labels[:, :1]
    value, _ = with_gradient(ZlprLoss(), logits, labels)
    torch.testing.assert_close(value, masked_bce(logits, labels))


@LOSSES
def test_its_gradient_is_that_of_its_values(loss: MultiLabelLoss) -> None:
    logits, labels = batch()
    assert torch.autograd.gradcheck(lambda x: loss.total(x, labels), logits.requires_grad_())


@LOSSES
@pytest.mark.parametrize("value", [0.0, 50.0, float("inf"), float("-inf"), float("nan")])
def test_the_logit_of_an_unknown_label_changes_neither_loss_nor_gradient(loss: MultiLabelLoss, value: float) -> None:
    logits, labels = batch()
    unknown = labels == UNKNOWN
    expected, gradient = with_gradient(loss, logits, labels)
    got, other = with_gradient(loss, torch.where(unknown, value, logits), labels)
    assert torch.equal(got, expected)
    assert torch.equal(other, gradient)
    assert (gradient[unknown] == 0).all()
    assert gradient[~unknown].count_nonzero() > 10


@LOSSES
@pytest.mark.parametrize("sizes", [[8, 8], [1, 4, 11], [1] * 16])
def test_accumulated_batches_give_the_loss_and_gradient_of_one_big_batch(
    loss: MultiLabelLoss, sizes: list[int]
) -> None:
    logits, labels = batch()
    items = int((loss.items(labels) != UNKNOWN).sum())
    value, gradient = with_gradient(loss, logits, labels)
    parts = [with_gradient(loss, x, y, items) for x, y in zip(logits.split(sizes), labels.split(sizes), strict=True)]
    torch.testing.assert_close(sum(part for part, _ in parts), value)
    torch.testing.assert_close(torch.cat([part for _, part in parts]), gradient)


@LOSSES
def test_rows_without_a_known_label_can_be_left_out(loss: MultiLabelLoss) -> None:
    logits, labels = batch()
    value, gradient = with_gradient(loss, logits, labels)
    torch.testing.assert_close(with_gradient(loss, logits[:-2], labels[:-2])[0], value, rtol=0, atol=0)
    nothing, zero = with_gradient(loss, logits[-2:], labels[-2:])
    assert nothing == 0
    assert (zero == 0).all()
    assert (gradient[-2:] == 0).all()


@LOSSES
@pytest.mark.parametrize("size", [30.0, 200.0, 1e4])
def test_single_precision_stays_finite_at_any_logit(loss: MultiLabelLoss, size: float) -> None:
    logits = torch.tensor([[size, -size, size], [-size, size, -size]])
    labels = torch.tensor([[POSITIVE, NEGATIVE, NEGATIVE], [POSITIVE, NEGATIVE, NEGATIVE]])
    value, gradient = with_gradient(loss, logits, labels)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_the_gradient_of_asl_goes_through_shift_and_focus() -> None:
    """The derivative as the paper gives it: p_m^g (1 / (1 - p_m) - g log(1 - p_m) / p_m) p (1 - p), and 0 below m."""
    loss = AsymmetricLoss(gamma_positive=0.0, gamma_negative=3.0, shift=0.2)
    probabilities = torch.tensor([0.01, 0.1, 0.19, 0.21, 0.3, 0.6, 0.9, 0.99], dtype=torch.float64)
    logits = torch.logit(probabilities)[:, None]
    _, gradient = with_gradient(loss, logits, torch.full((8, 1), NEGATIVE), items=1)
    for p, got in zip(probabilities.tolist(), gradient.flatten().tolist(), strict=True):
        p_m = max(p - 0.2, 0)
        inner = 1 / (1 - p_m) - 3 * math.log(1 - p_m) / p_m if p_m else 0.0
        assert got == pytest.approx(p_m**3 * inner * p * (1 - p), rel=1e-9, abs=0 if p_m else 1e-300)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 4.0])
def test_a_negative_exactly_at_the_shift_has_no_gradient(gamma: float) -> None:
    """Where a power of 0 would have an infinite one for an exponent below 1."""
    loss = AsymmetricLoss(gamma_positive=0.0, gamma_negative=gamma, shift=0.5)
    value, gradient = with_gradient(loss, torch.zeros(1, 1), torch.tensor([[NEGATIVE]]))
    assert (value.item(), gradient.item()) == (0.0, 0.0)


def test_zlpr_divides_by_rows_and_weighs_a_row_alike_however_much_of_it_is_known() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [2.0, -1.0, 0.5]], dtype=torch.float64)
    whole, part = torch.tensor([[1, 0, 0]]), torch.tensor([[1, -100, -100]])
    value = with_gradient(ZlprLoss(), logits, torch.cat([whole, part]))[0]
    single = [with_gradient(ZlprLoss(), logits[:1], labels)[0] for labels in (whole, part)]
    torch.testing.assert_close(value, sum(single) / 2)


def test_rebalanced_weights_by_hand() -> None:
    loss = DistributionBalancedLoss(TRAIN, **BALANCE, gamma=0.0)
    positive = torch.tensor([[True, True, False], [False, False, False]])
    # 1/n: 1/3, 1, 1; the first row has 4/3 in all, so ratios 1/4, 3/4, 3/4.
    weights = loss.weights(positive, torch.float64)
    expected = [0.1 + sigmoid(10 * (ratio - 0.9)) for ratio in (0.25, 0.75, 0.75)]
    assert weights[0].tolist() == pytest.approx(expected, rel=1e-12)
    assert weights[1].tolist() == [1.1] * 3
    np.testing.assert_allclose(loss.bias, 0.05 * np.log([1, 5, 3]))


def test_labels_without_positives_negatives_or_rows_keep_the_balanced_loss_finite() -> None:
    train = np.array([[0, 1, -100, 1], [0, 1, -100, 0]])
    loss = DistributionBalancedLoss(train, **BALANCE, gamma=2.0)
    np.testing.assert_allclose(loss.bias, 0.05 * np.log([3, 1 / 3, 1, 1]))
    logits = torch.zeros(2, 4, dtype=torch.float64)
    value, gradient = with_gradient(loss, logits, torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]))
    assert value > 0
    assert gradient.isfinite().all()


def test_r_drop_adds_the_symmetric_divergence_of_known_labels() -> None:
    first, labels = batch()
    second, _ = batch(seed=1)
    expected = 0.0
    for a, b, y in zip(first.flatten().tolist(), second.flatten().tolist(), labels.flatten().tolist(), strict=True):
        p, q = sigmoid(a), sigmoid(b)
        forth = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        back = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
        expected += (forth + back) / 2 if y != UNKNOWN else 0.0
    assert symmetric_divergence(first, second, labels).item() == pytest.approx(expected, rel=1e-10)
    task = MaskedBce()
    got = RDropLoss(task, alpha=1.5).total(torch.cat([first, second]), labels)
    mean = (task.total(first, labels) + task.total(second, labels)) / 2
    assert got.item() == pytest.approx(mean.item() + 1.5 * expected, rel=1e-10)
    assert (symmetric_divergence(first, first, labels) == 0).all()


@pytest.mark.parametrize("task", [MaskedBce(), ZlprLoss()], ids=["bce", "zlpr"])
def test_r_drop_is_masked_differentiable_and_accumulates(task: MultiLabelLoss) -> None:
    loss = RDropLoss(task, alpha=2.0)
    (first, labels), (second, _) = batch(), batch(seed=1)
    both = torch.cat([first, second])
    assert torch.autograd.gradcheck(lambda x: loss.total(x, labels), both.clone().requires_grad_())
    unknown = torch.cat([labels, labels]) == UNKNOWN
    value, gradient = with_gradient(loss, both, labels)
    other, other_gradient = with_gradient(loss, torch.where(unknown, float("nan"), both), labels)
    assert torch.equal(value, other)
    assert torch.equal(gradient, other_gradient)
    items = int((task.items(labels) != UNKNOWN).sum())
    parts = [
        with_gradient(loss, torch.cat([first[i], second[i]]), labels[i], items) for i in (slice(0, 5), slice(5, 16))
    ]
    torch.testing.assert_close(parts[0][0] + parts[1][0], value)
    torch.testing.assert_close(with_gradient(loss, first, labels), with_gradient(task, first, labels), rtol=0, atol=0)
