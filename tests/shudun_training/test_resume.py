"""Runs that are cut off anywhere end with the bytes of an undisturbed one, or say what stands in the way."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_fit import fit_tiny, losses, make_rows, weights

from shudun import ShudunError, Taxonomy
from shudun_training import finetune, run_trainer
from shudun_training.config import AugmentationConfig
from shudun_training.examples import Example
from shudun_training.finetune import FitResult
from shudun_training.trainer_checkpoints import whole_checkpoints

Fit = Callable[..., FitResult]

EVERYTHING: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "save_steps": 3,
    "save_total_limit": 1,
    "early_stopping_patience": 2,
    "augmentation": AugmentationConfig(probability=0.8, seed=1),
}
"""4 steps an epoch, 12 in all; saves at 3, 6, 9 and 12: within epochs, across them and at their end."""


@pytest.fixture(scope="module")
def rows(texts: list[str]) -> list[Example]:
    return make_rows(texts)


@pytest.fixture(scope="module")
def run(rows: list[Example], taxonomy: Taxonomy) -> Fit:
    return lambda folder, **arguments: fit_tiny(folder, rows, taxonomy, **EVERYTHING | arguments)


@pytest.fixture(scope="module")
def undisturbed(run: Fit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FitResult]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, run(folder)


def at_step(patch: pytest.MonkeyPatch, step: int, act: Callable[..., None], event: str = "on_step_begin") -> None:
    """Do something when a run comes to a step."""

    def on_event(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            act(**kwargs)

    patch.setattr(finetune.EpochLines, event, on_event, raising=False)


def interrupt(**_: Any) -> None:
    raise KeyboardInterrupt


def cut_off(run: Fit, folder: Path, step: int, event: str = "on_step_begin", **arguments: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, step, interrupt, event)
        with pytest.raises(KeyboardInterrupt):
            run(folder, **arguments)


def assert_alike(resumed: FitResult, folder: Path, undisturbed: tuple[Path, FitResult]) -> None:
    assert weights(folder) == weights(undisturbed[0])
    assert losses(resumed) == losses(undisturbed[1])
    assert (resumed.steps, resumed.best_metric) == (undisturbed[1].steps, undisturbed[1].best_metric)


@pytest.mark.parametrize("step", [3, 5, 8])
def test_a_run_goes_on_at_any_step(step: int, run: Fit, undisturbed: tuple[Path, FitResult], tmp_path: Path) -> None:
    """With length groups, disguises, accumulated gradients, early stopping and a best model that may be older."""
    assert undisturbed[1].steps == 12
    cut_off(run, tmp_path, step)
    assert whole_checkpoints(tmp_path / "trainer")[-1].name == f"checkpoint-{step // 3 * 3}"
    assert_alike(run(tmp_path, resume=True), tmp_path, undisturbed)


MOMENTS = [
    *((event, step) for event in ("on_step_begin", "on_substep_end") for step in range(3, 12)),
    *(("on_step_end", step) for step in range(4, 13)),
    *((event, step) for event in ("on_evaluate", "on_save") for step in (6, 9, 12)),
]
"""Everything after the first save."""


@pytest.mark.slow
@pytest.mark.parametrize(("event", "step"), MOMENTS)
def test_a_run_goes_on_at_every_step_and_moment(
    event: str, step: int, run: Fit, undisturbed: tuple[Path, FitResult], tmp_path: Path
) -> None:
    cut_off(run, tmp_path, step, event)
    assert_alike(run(tmp_path, resume=True), tmp_path, undisturbed)


def test_a_run_goes_on_twice_and_after_its_folder_was_moved(
    run: Fit, undisturbed: tuple[Path, FitResult], tmp_path: Path
) -> None:
    cut_off(run, tmp_path / "a", 4)
    cut_off(run, tmp_path / "a", 10, resume=True)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert_alike(run(tmp_path / "b", resume=True), tmp_path / "b", undisturbed)
    assert not (tmp_path / "a").exists()


def test_a_best_model_is_found_after_its_folder_was_moved(run: Fit, turned: list[Example], tmp_path: Path) -> None:
    """Cut off after the last save: no further save would note where the best checkpoint stands now."""
    arguments = {"validation": turned, "learning_rate": 0.02, "early_stopping_patience": 9}
    expected = run(tmp_path / "undisturbed", **arguments)
    assert expected.best_metric == min(x["eval_loss"] for x in expected.log_history if "eval_loss" in x)
    cut_off(run, tmp_path / "a", 12, "on_train_end", **arguments)
    shutil.move(tmp_path / "a", tmp_path / "b")
    run(tmp_path / "b", resume=True, **arguments)
    assert weights(tmp_path / "b") == weights(tmp_path / "undisturbed")


@pytest.fixture(scope="module")
def turned(rows: list[Example], taxonomy: Taxonomy) -> list[Example]:
    """Validation rows with turned labels: the better the fit, the worse they come out."""
    applicable = taxonomy.applicable([row.item.kind for row in rows])
    return [
        Example(
            row.item,
            frozenset(label for label, applies in zip(taxonomy.label_ids, mask, strict=True) if applies)
            - row.labels
            - row.unknown_labels,
            row.unknown_labels,
        )
        for row, mask in zip(rows, applicable, strict=True)
    ]


@pytest.mark.parametrize("moment", ["counting", "stopped"])
def test_early_stopping_goes_on_counting(moment: str, run: Fit, turned: list[Example], tmp_path: Path) -> None:
    """Cut off after one evaluation that was no better, or after the last save of a run that had stopped."""
    arguments = {"validation": turned, "learning_rate": 0.02, "num_train_epochs": 9, "early_stopping_patience": 2}
    expected = run(tmp_path / "undisturbed", **arguments)
    stopped = expected.steps
    assert stopped < 36
    folder = tmp_path / "cut"
    if moment == "counting":
        cut_off(run, folder, stopped - 2, **arguments)
    else:
        cut_off(run, folder, stopped, "on_train_end", **arguments)
    resumed = run(folder, resume=True, **arguments)
    assert_alike(resumed, folder, (tmp_path / "undisturbed", expected))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("change", "name"), [(flip, "model.safetensors"), (flip, "optimizer.pt"), (cut, "trainer_state.json")]
)
def test_a_damaged_checkpoint_stops_and_the_last_good_one_serves(
    change: Callable[[Path], None], name: str, run: Fit, undisturbed: tuple[Path, FitResult], tmp_path: Path
) -> None:
    cut_off(run, tmp_path, 7, save_total_limit=3)
    before = sorted(tmp_path.rglob("*"))
    change(tmp_path / "trainer" / "checkpoint-6" / name)
    with pytest.raises(ShudunError, match=rf"checkpoint-6: {name}: .*--resume goes on from checkpoint-3"):
        run(tmp_path, save_total_limit=3, resume=True)
    assert sorted(tmp_path.rglob("*")) == before
    shutil.rmtree(tmp_path / "trainer" / "checkpoint-6")
    run(tmp_path, save_total_limit=3, resume=True)
    assert weights(tmp_path) == weights(undisturbed[0])


def test_a_best_checkpoint_that_is_damaged_while_training_is_not_shipped(run: Fit, tmp_path: Path) -> None:
    def damage(**_: Any) -> None:
        for path in (tmp_path / "trainer").glob("*/model.safetensors"):
            flip(path)

    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 12, damage, "on_epoch_end")
        with pytest.raises(ShudunError, match=r"damaged checkpoint \(checkpoint-.*model\.safetensors"):
            run(tmp_path)
    assert not (tmp_path / "checkpoint").exists()


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("size", [10_000, 30_000], ids=["weights", "optimiser"])
def test_a_full_disk_stops_the_run_and_keeps_the_last_good_checkpoint(
    size: int, run: Fit, undisturbed: tuple[Path, FitResult], tmp_path: Path
) -> None:
    """Files that may not grow stand in for a full disk: both fail in the middle of a write."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    try:
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, 5, lambda **_: limit_files(size))
            message = (
                r"checkpoint-6: cannot be written .*disk space.*--resume goes on from checkpoint-3, the last good one"
            )
            with pytest.raises(ShudunError, match=message):
                run(tmp_path)
    finally:
        limit_files(unlimited)
    assert [path.name for path in (tmp_path / "trainer").glob("checkpoint-*")] == ["checkpoint-3"]
    assert not (tmp_path / "checkpoint").exists()
    assert_alike(run(tmp_path, resume=True), tmp_path, undisturbed)


def test_a_disk_that_is_full_at_the_very_end_is_named_too(
    run: Fit, undisturbed: tuple[Path, FitResult], tmp_path: Path
) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    try:
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, 12, lambda **_: limit_files(10_000), "on_train_end")
            with pytest.raises(ShudunError, match=r"File too large.*--resume goes on from checkpoint-12"):
                run(tmp_path)
    finally:
        limit_files(unlimited)
    assert_alike(run(tmp_path, resume=True), tmp_path, undisturbed)


def poison(parameter: torch.Tensor) -> None:
    with torch.no_grad():
        parameter.view(-1)[0] = float("nan")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint(run: Fit, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 4, lambda model, **_: poison(model.classifier.bias))
        message = r"the loss is NaN or Inf at step 5; lower .*learning_rate, and start again.*checkpoint-3 is the last"
        with pytest.raises(ShudunError, match=message):
            run(tmp_path)
    assert not (tmp_path / "checkpoint").exists()


def test_weights_that_are_not_finite_are_never_a_good_checkpoint(run: Fit, tmp_path: Path) -> None:
    """A poisoned embedding that no text of the batch uses: losses and validation look healthy."""
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 5, lambda model, **_: poison(model.bert.embeddings.position_embeddings.weight[-1]))
        with pytest.raises(ShudunError, match=r"a weight is NaN or Inf at step 6.*checkpoint-3 is the last good"):
            run(tmp_path)
    assert [path.name for path in whole_checkpoints(tmp_path / "trainer")] == ["checkpoint-3"]


def test_a_checkpoint_is_loaded_without_running_code(run: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every torch.load of a resumed run reads tensors and plain values alone."""
    cut_off(run, tmp_path, 4)
    loaded, load = [], torch.load

    def spy(file: Any, *args: Any, **kwargs: Any) -> Any:
        loaded.append((Path(file).name, kwargs.get("weights_only")))
        return load(file, *args, **kwargs)

    monkeypatch.setattr(torch, "load", spy)
    run(tmp_path, resume=True)
    assert set(loaded) == {("optimizer.pt", True), ("scheduler.pt", True), ("rng_state.pth", True)}


def test_stock_batches_would_not_do(run: Fit, tmp_path: Path) -> None:
    """Why there are batches of our own: stock ones come from the random state, which a resume restores later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(run_trainer.RunTrainer, "get_train_dataloader")
        run(tmp_path / "whole")
        cut_off(run, tmp_path / "cut", 8)
        run(tmp_path / "cut", resume=True)
    assert weights(tmp_path / "whole") != weights(tmp_path / "cut")
