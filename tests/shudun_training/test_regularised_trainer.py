"""Whole tiny runs: off is plain Trainer, resumed is undisturbed, accumulated is one big batch, averages are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from shudun import Comment, ShudunError, Taxonomy
from shudun_training import finetune
from shudun_training.checkpoint import item_tokenizer, load_checkpoint
from shudun_training.config import CompactConfig, ModelConfig, RegularisationConfig, TrainingConfig
from shudun_training.examples import Example, label_matrix
from shudun_training.finetune import FitResult, fit, predict_logits
from shudun_training.imbalance_losses import ZlprLoss
from shudun_training.loss_config import (
    AsymmetricConfig,
    BceConfig,
    DistributionBalancedConfig,
    LossConfig,
    ZlprConfig,
)
from shudun_training.losses import MultiLabelLoss, masked_bce
from shudun_training.run_trainer import RunTrainer
from shudun_training.weight_average import TRAINED_WEIGHTS

Fit = Callable[..., FitResult]
EVERYTHING = {"r_drop_alpha": 1.0, "fgm_epsilon": 0.5, "layer_decay": 0.5, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def rows(texts: list[str]) -> list[Example]:
    """Forty rows of different lengths with two to four known labels; row 8 has none, and `note_only` never."""
    rng = np.random.default_rng(0)
    examples = []
    for i in range(40):
        labels = frozenset(label for label in ("diversion", "shill") if rng.random() < 0.5)
        unknown = {label for label in ("diversion", "shill", "hard_sell") if rng.random() < 0.3} - labels
        if i == 8:
            labels, unknown = frozenset(), {"diversion", "shill", "hard_sell"}
        examples.append(Example(Comment(texts[i % 8][: 4 + i % 11], id=str(i)), labels, frozenset(unknown)))
    return examples


@pytest.fixture(scope="module")
def run(rows: list[Example], taxonomy: Taxonomy) -> Fit:
    """Fit a tiny model into a folder; `options` are those of the regularisation, others of the training."""

    def run(
        folder: Path,
        options: dict[str, float] | None = None,
        *,
        loss: LossConfig | None = None,
        dropout: float = 0.1,
        resume: bool = False,
        keep: bool = True,
        callbacks: tuple[TrainerCallback, ...] = (),
        **training: Any,
    ) -> FitResult:
        compact = CompactConfig(
            vocab_size=200,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            dropout=dropout,
        )
        values = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1}
        return fit(
            rows[:32],
            rows[32:],
            taxonomy=taxonomy,
            model_config=ModelConfig(max_length=24, compact=compact),
            training_config=TrainingConfig(
                **(values | {"report_to": "none", "metric_for_best_model": "loss"} | training)
            ),
            loss_config=loss or BceConfig(),
            output_dir=folder,
            regularisation=RegularisationConfig(**(options or {})),
            resume=resume,
            keep=keep,
            callbacks=callbacks,
        )

    return run


def weights(folder: Path) -> bytes:
    return (folder / "checkpoint" / "model.safetensors").read_bytes()


def logged(result: FitResult, name: str) -> list[float]:
    return [entry[name] for entry in result.log_history if name in entry]


class StopBefore(TrainerCallback):
    """Interrupts a run before a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def plain(run: Fit, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("plain")
    run(folder)
    return weights(folder)


def test_with_every_option_off_it_is_trainer_bit_for_bit(
    run: Fit, plain: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stock(*, loss: MultiLabelLoss, **kwargs: Any) -> RunTrainer:
        given = {name: value for name, value in kwargs.items() if name not in RegularisationConfig.model_fields}
        return RunTrainer(compute_loss_func=loss, **given)

    monkeypatch.setattr(finetune, "RegularisedTrainer", stock)
    run(tmp_path)
    assert weights(tmp_path) == plain


def test_each_option_changes_the_weights_in_its_own_way(run: Fit, plain: bytes, tmp_path: Path) -> None:
    for option, value in EVERYTHING.items():
        run(tmp_path / option, {option: value})
    assert len({plain, *(weights(tmp_path / option) for option in EVERYTHING)}) == 5


@pytest.mark.parametrize(
    ("options", "training", "step"),
    [
        ({"r_drop_alpha": 1.0}, {}, 6),
        ({"fgm_epsilon": 0.5}, {}, 6),
        (EVERYTHING, {}, 4),
        (EVERYTHING, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "bf16": True}, 6),
    ],
    ids=["r-drop", "fgm", "all-between-epochs", "all-accumulated-bf16"],
)
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(
    options: dict[str, float],
    training: dict[str, Any],
    step: int,
    run: Fit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = run(tmp_path / "whole", options, **training)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", options, callbacks=(StopBefore(step),), **training)
    resumed = run(tmp_path / "cut", options, resume=True, **training)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert logged(resumed, "loss") == logged(result, "loss")
    assert logged(resumed, "eval_loss") == logged(result, "eval_loss")


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (ZlprConfig(name="zlpr"), {}),
        (ZlprConfig(name="zlpr"), {"fgm_epsilon": 0.5}),
        (DistributionBalancedConfig(name="distribution_balanced"), {}),
        (AsymmetricConfig(name="asymmetric"), {"fgm_epsilon": 0.5}),
    ],
    ids=lambda value: getattr(value, "name", "fgm" if value else "plain"),
)
def test_accumulated_gradients_equal_those_of_one_big_batch(
    options: dict[str, float], loss: LossConfig, run: Fit, tmp_path: Path
) -> None:
    """Micro-batches differ in known labels, and one row has none: a mean of means would be another figure."""
    figures = []
    for size, steps in ((32, 1), (4, 8)):
        result = run(
            tmp_path / str(size),
            options,
            loss=loss,
            dropout=0.0,
            num_train_epochs=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        )
        assert result.steps == 1
        figures.append((result.log_history[0]["loss"], result.log_history[0]["grad_norm"]))
    assert figures[1] == pytest.approx(figures[0], rel=1e-4)


def test_trainer_divides_by_the_items_of_the_loss(
    run: Fit, rows: list[Example], taxonomy: Taxonomy, tmp_path: Path
) -> None:
    """Rows, for ZLPR: by known labels, which Trainer counts by itself, the figure would be smaller."""
    result = run(tmp_path, loss=ZlprConfig(name="zlpr"), num_train_epochs=1)
    model, tokenizer = load_checkpoint(tmp_path / "checkpoint")
    logits, _ = predict_logits(model, item_tokenizer(tokenizer, max_length=24), [row.item for row in rows[32:]])
    labels = torch.from_numpy(label_matrix(rows[32:], taxonomy))
    assert result.best_metric == pytest.approx(ZlprLoss().total(torch.from_numpy(logits), labels).item() / 8, rel=1e-5)


def test_the_average_is_measured_and_kept_and_the_trained_weights_stand_beside_it(
    run: Fit, rows: list[Example], taxonomy: Taxonomy, tmp_path: Path
) -> None:
    class Steps(TrainerCallback):
        seen: list[dict[str, torch.Tensor]] = []  # noqa: RUF012

        def keep(self, model: torch.nn.Module) -> None:
            self.seen.append({name: p.detach().clone() for name, p in model.named_parameters()})

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.keep(kwargs["model"])

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.keep(kwargs["model"])

    steps = Steps()
    result = run(tmp_path, {"ema_decay": 0.5}, callbacks=(steps,), num_train_epochs=1)
    average = dict(steps.seen[0])
    for step, trained in enumerate(steps.seen[1:], start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * trained[name] for name in average}
    saved = load_file(tmp_path / "checkpoint" / "model.safetensors")
    beside = load_file(tmp_path / "trainer" / "checkpoint-4" / TRAINED_WEIGHTS)
    for name, expected in average.items():
        torch.testing.assert_close(saved[name], expected, rtol=1e-5, atol=1e-7)
        assert torch.equal(beside[name], steps.seen[-1][name])
    assert not torch.equal(saved["classifier.weight"], steps.seen[-1]["classifier.weight"])

    model, tokenizer = load_checkpoint(tmp_path / "checkpoint")
    logits, _ = predict_logits(model, item_tokenizer(tokenizer, max_length=24), [row.item for row in rows[32:]])
    measured = masked_bce(torch.from_numpy(logits), torch.from_numpy(label_matrix(rows[32:], taxonomy)))
    assert result.best_metric == pytest.approx(measured.item(), rel=1e-5)


def test_a_run_that_keeps_nothing_measures_the_same(run: Fit, tmp_path: Path) -> None:
    kept = run(tmp_path / "kept", EVERYTHING)
    measured = run(tmp_path / "measured", EVERYTHING, keep=False)
    assert measured.best_metric == kept.best_metric
    assert logged(measured, "eval_loss") == logged(kept, "eval_loss")
    assert not list((tmp_path / "measured").rglob("*.safetensors"))


def test_r_drop_without_dropout_is_refused(run: Fit, tmp_path: Path) -> None:
    with pytest.raises(ShudunError, match="r_drop_alpha: the model has no dropout"):
        run(tmp_path, {"r_drop_alpha": 1.0}, dropout=0.0)


def test_a_checkpoint_without_the_trained_weights_is_not_resumed(run: Fit, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, {"ema_decay": 0.9}, callbacks=(StopBefore(4),))
    (tmp_path / "trainer" / "checkpoint-4" / TRAINED_WEIGHTS).unlink()
    with pytest.raises(ShudunError, match=f"{TRAINED_WEIGHTS}: (cannot go on without it|missing)"):
        run(tmp_path, {"ema_decay": 0.9}, resume=True)
