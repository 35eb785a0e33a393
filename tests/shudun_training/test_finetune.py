"""Fine-tuning: same seed same weights, resumed runs end alike, and the loss is what the configuration says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_fit import fit_tiny, losses, make_rows, model_config, weights
from torch._dynamo.utils import counters
from transformers import Trainer, set_seed
from transformers.models.bert.modeling_bert import BertIntermediate

from shudun import Comment, ShudunError, Taxonomy
from shudun.rendering import plain_text
from shudun_training import finetune
from shudun_training.checkpoint import build_model, build_tokenizer, item_tokenizer
from shudun_training.collation import Collator
from shudun_training.config import AugmentationConfig, BceConfig
from shudun_training.examples import Example, label_matrix
from shudun_training.finetune import FitResult, predict_logits
from shudun_training.losses import masked_bce
from shudun_training.training_rows import AugmentedRows, build_augmenter, to_dataset, training_dataset

Fit = Callable[..., FitResult]


@pytest.fixture(scope="module")
def rows(texts: list[str]) -> list[Example]:
    return make_rows(texts)


@pytest.fixture(scope="module")
def run(rows: list[Example], taxonomy: Taxonomy) -> Fit:
    return lambda folder, **arguments: fit_tiny(folder, rows, taxonomy, **arguments)


@pytest.fixture(scope="module")
def undisturbed(run: Fit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FitResult]:
    folder = tmp_path_factory.mktemp("fit")
    return folder, run(folder)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    run: Fit, undisturbed: tuple[Path, FitResult], tmp_path: Path
) -> None:
    folder, result = undisturbed
    again = run(tmp_path / "again")
    assert weights(tmp_path / "again") == weights(folder)
    assert losses(again) == losses(result)
    run(tmp_path / "other", seed=43)
    assert weights(tmp_path / "other") != weights(folder)


def _stop_before_step(patch: pytest.MonkeyPatch, step: int) -> None:
    class Interrupted(finetune.EpochLines):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                raise KeyboardInterrupt

    patch.setattr(finetune, "EpochLines", Interrupted)


def _stop_inside_save(patch: pytest.MonkeyPatch, step: int) -> None:
    """After weights and optimiser are written, before random states and the state of the trainer are."""
    save = Trainer._save_rng_state

    def interrupted(self: Trainer, output_dir: str) -> None:
        if self.state.global_step == step:
            raise KeyboardInterrupt
        save(self, output_dir)

    patch.setattr(Trainer, "_save_rng_state", interrupted)


@pytest.mark.parametrize(
    ("stop", "step", "last"),
    [(_stop_before_step, 8, 8), (_stop_before_step, 10, 8), (_stop_inside_save, 8, 8)],
    ids=["between-epochs", "within-an-epoch", "inside-a-save"],
)
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(
    stop: Callable[[pytest.MonkeyPatch, int], None],
    step: int,
    last: int,
    run: Fit,
    undisturbed: tuple[Path, FitResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, result = undisturbed
    with monkeypatch.context() as patch:
        stop(patch, step)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert not (tmp_path / "checkpoint").exists()
    assert (tmp_path / "trainer" / f"checkpoint-{last}" / "model.safetensors").is_file()
    resumed = run(tmp_path, resume=True)
    assert weights(tmp_path) == weights(folder)
    assert losses(resumed) == losses(result)
    assert (resumed.steps, resumed.best_metric) == (12, result.best_metric)


@pytest.fixture(scope="module")
def disguised(run: Fit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FitResult]:
    folder = tmp_path_factory.mktemp("disguised")
    return folder, run(folder, augmentation=AugmentationConfig(probability=0.8, seed=1))


@pytest.mark.parametrize("step", [8, 10], ids=["between-epochs", "within-an-epoch"])
def test_a_resumed_run_sees_the_same_disguised_texts(
    step: int,
    run: Fit,
    disguised: tuple[Path, FitResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, result = disguised
    augmentation = AugmentationConfig(probability=0.8, seed=1)
    with monkeypatch.context() as patch:
        _stop_before_step(patch, step)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, augmentation=augmentation)
    resumed = run(tmp_path, augmentation=augmentation, resume=True)
    assert weights(tmp_path) == weights(folder)
    assert losses(resumed) == losses(result)


def test_disguised_texts_do_not_depend_on_workers_but_on_the_seed(
    run: Fit, disguised: tuple[Path, FitResult], undisturbed: tuple[Path, FitResult], tmp_path: Path
) -> None:
    same = run(tmp_path / "workers", augmentation=AugmentationConfig(probability=0.8, seed=1), dataloader_num_workers=2)
    other = run(tmp_path / "seed", augmentation=AugmentationConfig(probability=0.8, seed=2))
    assert losses(same) == losses(disguised[1]) != losses(other)
    assert weights(tmp_path / "workers") == weights(disguised[0])
    assert losses(undisturbed[1]) not in (losses(same), losses(other))


def test_no_augmentation_is_the_same_as_none(run: Fit, undisturbed: tuple[Path, FitResult], tmp_path: Path) -> None:
    run(tmp_path, augmentation=AugmentationConfig())
    assert weights(tmp_path) == weights(undisturbed[0])


def test_each_epoch_has_texts_of_its_own_and_labels_stay(rows: list[Example], taxonomy: Taxonomy) -> None:
    tokenizer = build_tokenizer(model_config(), (plain_text(row.item) for row in rows))
    encoder = item_tokenizer(tokenizer, max_length=24)
    augmenter = build_augmenter(AugmentationConfig(probability=1.0), rows)
    assert augmenter is not None
    dataset = training_dataset(rows, encoder, taxonomy, augmenter)
    assert isinstance(dataset, AugmentedRows)
    seen = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        whole = dataset.__getitems__(list(range(len(rows))))
        single = [dataset[i] for i in range(len(dataset))]
        assert [list(row["input_ids"]) for row in whole] == [list(row["input_ids"]) for row in single]
        np.testing.assert_array_equal([row["labels"] for row in whole], label_matrix(rows, taxonomy))
        expected = [replace(row, item=augmenter(row, epoch).item) for row in rows]
        fixed = list(to_dataset(expected, encoder, taxonomy))
        assert [list(row["input_ids"]) for row in whole] == [row["input_ids"] for row in fixed]
        seen.append([list(row["input_ids"]) for row in whole])
    assert seen[0] == seen[2] != seen[1]


def test_there_must_be_something_to_resume(run: Fit, tmp_path: Path) -> None:
    with pytest.raises(ShudunError, match="no checkpoint to resume from; start without --resume"):
        run(tmp_path, resume=True)


def test_training_stops_early_and_keeps_the_best_epoch(
    run: Fit, rows: list[Example], taxonomy: Taxonomy, tmp_path: Path
) -> None:
    """Validation rows with turned labels: the better the fit, the worse they come out."""
    applicable = taxonomy.applicable([row.item.kind for row in rows])
    turned = [
        Example(
            row.item,
            frozenset(np.array(taxonomy.label_ids)[mask]) - row.labels - row.unknown_labels,
            row.unknown_labels,
        )
        for row, mask in zip(rows, applicable, strict=True)
    ]
    result = run(tmp_path, validation=turned, learning_rate=0.02, num_train_epochs=9, early_stopping_patience=2)
    measured = [entry["eval_loss"] for entry in result.log_history if "eval_loss" in entry]
    assert result.best_metric == min(measured) < measured[-1]
    best = 1 + int(np.argmin(measured))
    assert result.steps == 4 * (best + 2) < 4 * 9
    trainer = tmp_path / "trainer" / f"checkpoint-{4 * best}"
    assert (trainer / "model.safetensors").read_bytes() == weights(tmp_path)


def _expected_first_loss(rows: list[Example], taxonomy: Taxonomy, weight: torch.Tensor | None) -> float:
    """The masked loss of all rows under the weights that training starts from, without dropout."""
    set_seed(42)
    tokenizer = build_tokenizer(model_config(), (plain_text(row.item) for row in rows))
    model = build_model(model_config(), taxonomy, tokenizer)
    encoder = item_tokenizer(tokenizer, max_length=24)
    logits, _ = predict_logits(model, encoder, [row.item for row in rows])
    loss = masked_bce(torch.from_numpy(logits), torch.from_numpy(label_matrix(rows, taxonomy)), pos_weight=weight)
    return loss.item()


@pytest.mark.parametrize(
    ("loss", "weight"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"pos_weight": {"shill": 3.0, "diversion": 2.0}}, [2.0, 1.0, 3.0, 1.0], id="by-name"),
        pytest.param({"pos_weight": "balanced", "max_pos_weight": 1.0}, [1.0] * 4, id="balanced-and-capped"),
    ],
)
def test_weights_of_positives_go_by_label_name(
    loss: dict[str, Any],
    weight: list[float] | None,
    run: Fit,
    rows: list[Example],
    taxonomy: Taxonomy,
    tmp_path: Path,
) -> None:
    result = run(tmp_path, loss=BceConfig(**loss), num_train_epochs=1, per_device_train_batch_size=32, dropout=0.0)
    expected = _expected_first_loss(rows[:32], taxonomy, None if weight is None else torch.tensor(weight))
    assert losses(result) == [pytest.approx(expected, rel=1e-5)]


def test_a_weight_for_a_label_outside_the_taxonomy_is_refused(run: Fit, tmp_path: Path) -> None:
    with pytest.raises(ShudunError, match=r"loss\.pos_weight: not in taxonomy test: ad"):
        run(tmp_path, loss=BceConfig(pos_weight={"ad": 2.0, "shill": 1.0}))


def test_accumulated_gradients_equal_those_of_one_big_batch(run: Fit, tmp_path: Path) -> None:
    """The known labels of the micro-batches differ in number: a mean of means would be another figure."""
    figures = []
    for size, steps in ((32, 1), (4, 8)):
        result = run(
            tmp_path / str(size),
            num_train_epochs=1,
            dropout=0.0,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        )
        assert result.steps == 1
        figures.append((result.log_history[0]["loss"], result.log_history[0]["grad_norm"]))
    assert figures[1] == pytest.approx(figures[0], rel=1e-4)


def test_activation_checkpointing_computes_the_same_in_two_passes(
    run: Fit, undisturbed: tuple[Path, FitResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, forward = [], BertIntermediate.forward
    monkeypatch.setattr(BertIntermediate, "forward", lambda *a, **k: passes.append(a[0].training) or forward(*a, **k))
    result = run(tmp_path, activation_checkpointing=True)
    assert sum(passes) == 2 * result.steps
    assert losses(result) == pytest.approx(losses(undisturbed[1]), rel=1e-5)


@pytest.mark.parametrize("optimiser", ["adamw_torch", "adamw_torch_fused"])
def test_the_optimiser_is_the_one_asked_for(
    optimiser: str, run: Fit, undisturbed: tuple[Path, FitResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a: fused.append(self.defaults["fused"]) or step(self, *a)
    )
    result = run(tmp_path, optim=optimiser)
    assert {bool(value) for value in fused} == {optimiser == "adamw_torch_fused"}
    assert losses(result) == pytest.approx(losses(undisturbed[1]), rel=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about autocast on CPUs")
def test_bf16_trains_on_a_cpu_where_it_is_asked_for(
    run: Fit, undisturbed: tuple[Path, FitResult], tmp_path: Path
) -> None:
    result = run(tmp_path, bf16=True)
    assert losses(result) != losses(undisturbed[1])
    assert losses(result) == pytest.approx(losses(undisturbed[1]), rel=0.02)


@pytest.mark.slow
def test_a_compiled_model_is_compiled_a_few_times_whatever_the_lengths(
    run: Fit, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced but not translated to machine code, so that it takes seconds; the shapes that call for it are the same."""
    arguments, shapes = finetune.training_arguments, set()

    def traced(*values: Any) -> Any:
        made = arguments(*values)
        made.torch_compile_backend = "eager"
        return made

    def collate(self: Collator, rows: Any) -> Any:
        batch = padded(self, rows)
        shapes.add(tuple(batch["input_ids"].shape))
        return batch

    rows, padded = make_rows(texts, 150), Collator.__call__
    parts = {"train": rows[:133], "validation": rows[133:], "per_device_train_batch_size": 4, "dropout": 0.0}
    expected = run(tmp_path / "plain", **parts)
    monkeypatch.setattr(finetune, "training_arguments", traced)
    monkeypatch.setattr(Collator, "__call__", collate)
    counters.clear()
    result = run(tmp_path / "compiled", **parts, torch_compile=True)
    assert len(shapes) > 10
    assert 2 <= counters["stats"]["unique_graphs"] <= 4
    assert losses(result) == pytest.approx(losses(expected), rel=1e-4)
    assert load_file(tmp_path / "compiled" / "checkpoint" / "model.safetensors").keys() == (
        load_file(tmp_path / "plain" / "checkpoint" / "model.safetensors").keys()
    )


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("known", [False, None], ids=["unlabelled", "empty"])
def test_a_split_without_known_labels_is_refused(
    split: str, known: bool | None, run: Fit, taxonomy: Taxonomy, tmp_path: Path
) -> None:
    unlabelled = [Example(Comment("文"), frozenset(), frozenset(taxonomy.label_ids))] * 3
    with pytest.raises(ShudunError, match=f"{split}: . rows without a known label"):
        run(tmp_path, **{split: [] if known is None else unlabelled})


def test_a_diverged_run_stops_without_a_checkpoint_to_export(run: Fit, tmp_path: Path) -> None:
    with pytest.raises(ShudunError, match=r"training diverged.*lower training\.learning_rate"):
        run(tmp_path, learning_rate=1e30)
    assert not (tmp_path / "checkpoint").exists()


def test_training_rows_are_tokenised_as_in_scoring(rows: list[Example], taxonomy: Taxonomy) -> None:
    examples = [*rows, Example(Comment("长" * 100, parent_text="问" * 100), frozenset(), frozenset())]
    tokenizer = build_tokenizer(model_config(), (plain_text(row.item) for row in rows))
    encoder = item_tokenizer(tokenizer, max_length=24)
    dataset = to_dataset(examples, encoder, taxonomy)
    expected = encoder.encode([example.item for example in examples]).batch(np.arange(len(examples)))
    batch = Collator(encoder.pad_id)(list(dataset))
    for name, array in expected.feeds().items():
        np.testing.assert_array_equal(batch[name].numpy(), array, err_msg=name)
    np.testing.assert_array_equal(batch["labels"].numpy(), label_matrix(examples, taxonomy))
    assert dataset["length"] == expected.attention_mask.sum(axis=1).tolist()
    assert max(dataset["length"]) == 24


def test_predictions_do_not_depend_on_batches_and_neighbours(rows: list[Example], taxonomy: Taxonomy) -> None:
    set_seed(0)
    items = [row.item for row in rows]
    tokenizer = build_tokenizer(model_config(), map(plain_text, items))
    model = build_model(model_config(), taxonomy, tokenizer)
    encoder = item_tokenizer(tokenizer, max_length=24)
    expected = predict_logits(model, encoder, items)
    single = [predict_logits(model, encoder, [item], batch_tokens=1) for item in items]
    for i, array in enumerate(expected):
        assert array.dtype == np.float32
        np.testing.assert_allclose(np.concatenate([row[i] for row in single]), array, atol=1e-5)
    assert [array.shape for array in predict_logits(model, encoder, [])] == [(0, 4), (0, 16)]


def test_each_epoch_has_batches_and_disguises_of_its_own(
    run: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run really collates, epoch by epoch."""
    batches: list[list[tuple[int, ...]]] = []
    collate = Collator.__call__

    def noting(self: Collator, rows: Any) -> Any:
        batches.append([tuple(row["input_ids"]) for row in rows])
        return collate(self, rows)

    monkeypatch.setattr(Collator, "__call__", noting)
    for name, augmentation in (("plain", None), ("disguised", AugmentationConfig(probability=0.8, seed=1))):
        batches.clear()
        run(tmp_path / name, augmentation=augmentation)
        # Each epoch: four batches of 8 rows, then one with the 8 validation rows.
        epochs = [batches[first : first + 4] for first in (0, 5, 10)]
        assert len(batches) == 15
        assert len({tuple(map(tuple, epoch)) for epoch in epochs}) == 3
        texts = {tuple(sorted(text for batch in epoch for text in batch)) for epoch in epochs}
        assert len(texts) == (1 if augmentation is None else 3)
