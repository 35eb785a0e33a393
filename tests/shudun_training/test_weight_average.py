"""Averaged weights: the formula, an exchange that loses no bit, and a file to go on from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from shudun import ShudunError
from shudun_training.weight_average import TRAINED_WEIGHTS, WeightAverage


def move(model: nn.Linear, step: int) -> None:
    with torch.no_grad():
        model.weight.copy_(torch.sin(step + torch.arange(6.0)).view(2, 3))
        model.bias.fill_(step)


def test_the_decay_rises_to_the_configured_one() -> None:
    model = nn.Linear(3, 2)
    move(model, 0)
    average = WeightAverage(model, decay=0.3)
    expected = model.weight.detach().double()
    for step in range(1, 6):
        move(model, step)
        average.update(step)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    trained = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight.detach().double(), expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(model.weight, trained)


def test_the_weights_come_back_bit_for_bit_after_an_error_too() -> None:
    model = nn.Linear(3, 2)
    average = WeightAverage(model, decay=0.9)
    move(model, 1)
    before = model.weight.detach().clone()
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert torch.equal(model.weight, before)
    average.keep()
    assert not torch.equal(model.weight, before)


def test_a_saved_average_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    average = WeightAverage(first, decay=0.9)
    move(first, 1)
    average.update(1)
    average.save_trained(tmp_path)
    with average.applied():
        second.load_state_dict(first.state_dict())
    other = WeightAverage(second, decay=0.9)
    other.load_trained(tmp_path)
    assert torch.equal(first.weight, second.weight)
    for model, each in ((first, average), (second, other)):
        move(model, 2)
        each.update(2)
        each.keep()
    assert torch.equal(first.weight, second.weight)


def test_a_checkpoint_without_the_trained_weights_is_refused(tmp_path: Path) -> None:
    average = WeightAverage(nn.Linear(3, 2), decay=0.9)
    with pytest.raises(ShudunError, match="cannot go on without it"):
        average.load_trained(tmp_path)
    (tmp_path / TRAINED_WEIGHTS).write_bytes(b"cut off")
    with pytest.raises(ShudunError, match="cannot go on without it"):
        average.load_trained(tmp_path)
    WeightAverage(nn.Linear(3, 2, bias=False), decay=0.9).save_trained(tmp_path)
    with pytest.raises(ShudunError, match="weights of another model"):
        average.load_trained(tmp_path)
