"""The distillation loss: what it equals at its ends, where its gradient vanishes, and what it divides by."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from shudun import ShudunError
from shudun_training.distillation.hidden_states import check_layers, row_hidden_loss, uniform_layers
from shudun_training.distillation.soft_targets import (
    HIDDEN_LOSS,
    TAUGHT,
    TEACHER_LOGITS,
    DistillationLoss,
    bernoulli_kl,
    taught_labels,
)
from shudun_training.examples import NEGATIVE, POSITIVE, UNKNOWN
from shudun_training.losses import MaskedBce, masked_bce

SHAPE = (5, 3)
logit_arrays = arrays(np.float64, SHAPE, elements=st.floats(-15, 15))
label_arrays = arrays(np.int64, SHAPE, elements=st.sampled_from([POSITIVE, NEGATIVE, UNKNOWN]))
silences = arrays(np.bool_, SHAPE)
temperatures = st.sampled_from([0.5, 1.0, 2.0, 5.0])


def loss(alpha: float = 0.5, temperature: float = 2.0, hidden: float = 0.0) -> DistillationLoss:
    return DistillationLoss(MaskedBce(), temperature=temperature, alpha=alpha, hidden_weight=hidden)


def gradient(function, logits):
    leaf = torch.tensor(logits, requires_grad=True)
    function(leaf).backward()
    return leaf.grad


@given(logits=logit_arrays, teacher=logit_arrays, temperature=temperatures)
def test_the_soft_loss_is_the_divergence_of_bernoulli_variables(logits, teacher, temperature) -> None:
    p, q = (np.exp(-np.logaddexp(0, -z / temperature)) for z in (teacher, logits))
    surprises = [
        chance * (np.logaddexp(0, -sign * logits / temperature) - np.logaddexp(0, -sign * teacher / temperature))
        for chance, sign in ((p, 1), (1 - p, -1))
    ]
    found = bernoulli_kl(torch.tensor(logits), torch.tensor(teacher), temperature).numpy()
    np.testing.assert_allclose(found, temperature**2 * sum(surprises), atol=1e-7, rtol=1e-5)
    assert (found >= -1e-9).all()
    # Hinton et al. 2015: the gradient is that of a cross-entropy, T times the difference of the softened chances.
    slope = gradient(lambda z: bernoulli_kl(z, torch.tensor(teacher), temperature).sum(), logits)
    np.testing.assert_allclose(slope, temperature * (q - p), atol=1e-9)


@given(logits=logit_arrays, temperature=temperatures)
def test_agreement_costs_nothing_and_moves_nothing(logits, temperature) -> None:
    teacher = torch.tensor(logits)
    assert bernoulli_kl(teacher, teacher, temperature).abs().max() < 1e-12
    assert gradient(lambda z: bernoulli_kl(z, teacher, temperature).sum(), logits).abs().max() < 1e-12


@given(logits=logit_arrays, truth=arrays(np.bool_, SHAPE))
def test_a_teacher_that_is_sure_of_the_labels_is_the_labels(logits, truth) -> None:
    labels = torch.tensor(truth.astype(np.int64))
    sure = torch.where(labels == POSITIVE, 60.0, -60.0).double()
    student = torch.tensor(logits)
    outputs = {"logits": student, TEACHER_LOGITS: sure}
    expected = masked_bce(student, labels)
    for alpha in (0.0, 0.3, 1.0):
        assert loss(alpha, temperature=1.0)(outputs, labels).item() == pytest.approx(expected.item(), abs=1e-5)


@given(logits=logit_arrays, teacher=logit_arrays, labels=label_arrays, silent=silences, temperature=temperatures)
def test_each_cell_counts_once(logits, teacher, labels, silent, temperature) -> None:
    """Cell by cell in numpy: label and teacher share a cell, either alone has it whole, neither leaves it out."""
    spoken = torch.tensor(np.where(silent, np.nan, teacher))
    given_ = taught_labels(torch.tensor(labels), spoken)
    known = labels != UNKNOWN
    hard = np.logaddexp(0, logits) - np.where(labels == POSITIVE, logits, 0)
    soft = bernoulli_kl(torch.tensor(logits), torch.tensor(teacher), temperature).numpy()
    alpha = 0.3
    cells = np.select(
        [known & ~silent, known, ~silent], [alpha * hard + (1 - alpha) * soft, hard, soft], default=0.0
    ).sum()
    count = (known | ~silent).sum()
    assert (given_ != UNKNOWN).sum() == count
    found = loss(alpha, temperature)({"logits": torch.tensor(logits), TEACHER_LOGITS: spoken}, given_)
    assert found.item() == pytest.approx(cells / max(count, 1), rel=1e-4, abs=1e-6)


@given(logits=logit_arrays, labels=label_arrays, silent=silences)
def test_cells_that_carry_nothing_have_no_gradient(logits, labels, silent) -> None:
    spoken = torch.tensor(np.where(silent, np.nan, 1.0))
    given_ = taught_labels(torch.tensor(labels), spoken)
    slope = gradient(lambda z: loss()({"logits": z, TEACHER_LOGITS: spoken}, given_), logits)
    assert torch.isfinite(slope).all()
    assert (slope[given_ == UNKNOWN] == 0).all()


@given(logits=logit_arrays, teacher=logit_arrays, labels=label_arrays, silent=silences, cut=st.integers(1, 4))
def test_parts_divided_by_the_count_of_the_whole_sum_to_the_whole(logits, teacher, labels, silent, cut) -> None:
    """What gradient accumulation and data-parallel processes do; the parts differ in cells, and hidden states count."""
    spoken = torch.tensor(np.where(silent, np.nan, teacher)).float()
    given_ = taught_labels(torch.tensor(labels), spoken)
    hidden = torch.arange(5.0)
    count = (given_ != UNKNOWN).sum()

    def of(rows: slice, divisor: torch.Tensor) -> float:
        outputs = {"logits": torch.tensor(logits[rows]), TEACHER_LOGITS: spoken[rows], HIDDEN_LOSS: hidden[rows]}
        return loss(hidden=0.7)(outputs, given_[rows], divisor).item()

    parts = of(slice(None, cut), count) + of(slice(cut, None), count)
    assert parts == pytest.approx(of(slice(None), count), rel=1e-5, abs=1e-6)


def test_hidden_states_of_a_row_weigh_as_much_as_its_cells() -> None:
    logits = torch.zeros(2, 3)
    spoken = torch.tensor([[0.0, 0.0, 0.0], [0.0, math.nan, math.nan]])
    given_ = taught_labels(torch.full((2, 3), UNKNOWN), spoken)
    outputs = {"logits": logits, TEACHER_LOGITS: spoken, HIDDEN_LOSS: torch.tensor([2.0, 10.0])}
    assert loss(hidden=0.5)(outputs, given_).item() == pytest.approx(0.5 * (3 * 2.0 + 1 * 10.0) / 4)


def test_without_teachers_logits_it_is_the_loss_of_the_labels() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([[1, 0, -100]] * 4)
    assert loss()({"logits": logits}, labels) == masked_bce(logits, labels)


def test_only_cells_without_a_label_become_the_teachers_alone() -> None:
    labels = torch.tensor([[1, 0, -100, -100]])
    spoken = torch.tensor([[0.1, math.nan, 0.1, math.nan]])
    assert taught_labels(labels, spoken).tolist() == [[1, 0, TAUGHT, UNKNOWN]]


def test_the_hidden_loss_is_over_real_tokens_only_and_zero_for_equal_states() -> None:
    torch.manual_seed(0)
    states = [torch.randn(2, 4, 8), torch.randn(2, 4, 8)]
    other = [torch.randn(2, 4, 8), torch.randn(2, 4, 8)]
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    changed = [state.clone() for state in states]
    for state in changed:
        state[0, 3] = 99.0
    for kind in ("mse", "cosine"):
        assert row_hidden_loss(states, states, mask, kind).abs().max() < 1e-6
        found = row_hidden_loss(states, other, mask, kind)
        torch.testing.assert_close(row_hidden_loss(changed, other, mask, kind), found)
        assert found.shape == (2,)
    expected = sum(((a[0, :3] - b[0, :3]) ** 2).mean() for a, b in zip(states, other, strict=True)) / 2
    torch.testing.assert_close(row_hidden_loss(states, other, mask, "mse")[0], expected)
    scaled = [3 * state for state in states]
    assert row_hidden_loss(scaled, states, mask, "cosine").abs().max() < 1e-6


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [(4, 12, {0: 0, 1: 3, 2: 6, 3: 9, 4: 12}), (6, 6, {i: i for i in range(7)}), (2, 5, {0: 0, 1: 2, 2: 5})],
)
def test_layers_are_mapped_evenly(student: int, teacher: int, expected: dict[int, int]) -> None:
    assert uniform_layers(student, teacher) == expected
    check_layers(expected, student, teacher)


@pytest.mark.parametrize(("layers", "which"), [({3: 1}, "student"), ({1: 13}, "teacher"), ({-1: 0}, "student")])
def test_a_map_to_layers_that_are_not_there_is_refused(layers: dict[int, int], which: str) -> None:
    with pytest.raises(ShudunError, match=f"layer_map: {which} layers are 0"):
        check_layers(layers, 2, 12)


def test_projections_learn_to_bridge_widths() -> None:
    """A linear map of the student's states is within reach of the loss; its gradient says so."""
    torch.manual_seed(0)
    ours, bridge = torch.randn(8, 5, 4), nn.Linear(4, 6, bias=False)
    theirs = torch.randn(6, 4) @ ours.transpose(1, 2)
    optimizer = torch.optim.Adam(bridge.parameters(), lr=0.05)
    first = None
    for _ in range(200):
        value = row_hidden_loss([bridge(ours)], [theirs.transpose(1, 2)], torch.ones(8, 5), "mse").mean()
        first = value.item() if first is None else first
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert value.item() < 0.01 * first
