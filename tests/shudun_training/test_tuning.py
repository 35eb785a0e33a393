"""Searching: trials are training runs, the test split stays shut, an interrupted search ends as an undisturbed one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from shudun import ShudunError
from shudun.errors import MissingExtraError
from shudun_training import tuning
from shudun_training.config import load_run_config, load_taxonomy
from shudun_training.finetune import fit
from shudun_training.search_config import ChoicesConfig, RangeConfig
from shudun_training.search_results import BEST, TRIALS
from shudun_training.search_space import configured_values, search_space
from shudun_training.sources import load_examples
from shudun_training.tuning import TrialReports, tune

optuna = pytest.importorskip("optuna", reason="needs the 'tune' extra")

ROOT = Path(__file__).parents[2]
SPACE = {
    "training.learning_rate": {"low": 1.0e-4, "high": 1.0e-2, "log": True},
    "training.per_device_train_batch_size": {"low": 4, "high": 16},
    "loss.name": {"choices": ["bce", "focal", "asymmetric"]},
    "regularisation.ema_decay": {"choices": [0.0, 0.9]},
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A run configuration on 24 rows, whose test split does not exist; `search` and `training` are sections of it."""
    rows = (ROOT / "data_cards" / "shudun-xhs" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(rows[:16]), encoding="utf-8")
    (tmp_path / "validation.jsonl").write_text("\n".join(rows[16:24]), encoding="utf-8")
    compact = {"vocab_size": 200, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}

    def write(search: dict[str, Any] | None = None, **training: Any) -> Path:
        values = {
            "name": "tiny",
            "output_dir": "run",
            "taxonomy": str(ROOT / "configs" / "taxonomy" / "xhs.yaml"),
            "policy": str(ROOT / "configs" / "policy" / "default.yaml"),
            "data": {"train": ["train.jsonl"], "validation": ["validation.jsonl"], "test": ["never-opened.jsonl"]},
            "model": {"max_length": 16, "compact": compact | {"intermediate_size": 16}},
            "training": {"learning_rate": 1.0e-3, "num_train_epochs": 2, "per_device_train_batch_size": 8} | training,
            "search": search,
        }
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


def trials(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / TRIALS).read_text(encoding="utf-8").splitlines()]


def results(folder: Path) -> list[tuple[Any, ...]]:
    return [(x["state"], x["value"], x["params"], x["epochs"]) for x in trials(folder) if x["state"] != "interrupted"]


def test_the_best_trial_is_what_training_with_its_configuration_gives(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(write({"space": SPACE}), trials=3)
    folder = tmp_path / "run-search"
    found = trials(folder)
    assert [trial["number"] for trial in found] == [0, 1, 2]
    assert found[0]["params"] == {
        "training.learning_rate": 1.0e-3,
        "training.per_device_train_batch_size": 8,
        "loss.name": "bce",
        "regularisation.ema_decay": 0.0,
    }
    assert len({trial["params"]["training.learning_rate"] for trial in found}) == 3
    for trial in found:
        assert trial["value"] == max(trial["epochs"].values())
        assert list(trial["epochs"]) == ["1.0", "2.0"]
        assert 1.0e-4 <= trial["params"]["training.learning_rate"] <= 1.0e-2
        assert isinstance(trial["params"]["training.per_device_train_batch_size"], int)
    best = max(found, key=lambda trial: trial["value"])
    config = load_run_config(folder / BEST)
    assert (config.search, config.output_dir, config.name) == (None, tmp_path / "run", "tiny")
    assert config.training.learning_rate == best["params"]["training.learning_rate"]
    assert config.loss.name == best["params"]["loss.name"]
    assert f"shudun train --config {folder / BEST}" in capsys.readouterr().out
    assert not list(folder.glob("trial-*"))

    taxonomy = load_taxonomy(config.taxonomy)
    rows = {split: load_examples(getattr(config.data, split), taxonomy)[0] for split in ("train", "validation")}
    result = fit(
        rows["train"],
        rows["validation"],
        taxonomy=taxonomy,
        model_config=config.model,
        training_config=config.training.model_copy(update={"report_to": "none"}),
        loss_config=config.loss,
        output_dir=tmp_path / "again",
        regularisation=config.regularisation,
    )
    assert result.best_metric == best["value"]


@pytest.mark.parametrize("at", [pytest.param(0, marks=pytest.mark.slow), 1], ids=["in-the-first", "in-the-second"])
def test_an_interrupted_search_ends_as_an_undisturbed_one(
    at: int, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(TrialReports):
        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self._trial.number == at:
                raise KeyboardInterrupt
            super().on_evaluate(args, state, control, **kwargs)

    config = write({"space": SPACE}, num_train_epochs=1)
    tune(config, trials=3, output_dir=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "TrialReports", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(config, trials=3, output_dir=tmp_path / "cut")
    tune(config, trials=2, output_dir=tmp_path / "cut", resume=True)
    tune(config, trials=3, output_dir=tmp_path / "cut", resume=True)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")
    assert len(trials(tmp_path / "cut")) == 4
    assert (tmp_path / "cut" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()


def test_a_trial_that_diverges_fails_and_the_search_goes_on(write: Callable[..., Path], tmp_path: Path) -> None:
    space = {"training.learning_rate": {"choices": [1.0e30, 1.0e-3]}}
    config = write({"space": space, "seed": 1}, num_train_epochs=1, learning_rate=1.0e30)
    with pytest.raises(ShudunError, match="none of 1 trials was completed"):
        tune(config, trials=1)
    assert not (tmp_path / "run-search" / BEST).exists()
    tune(config, trials=3, resume=True)
    found = trials(tmp_path / "run-search")
    assert len(found) == 3
    assert {trial["state"] for trial in found} == {"complete", "fail"}
    for trial in found:
        failed = trial["params"]["training.learning_rate"] == 1.0e30
        assert trial["state"] == ("fail" if failed else "complete")
        assert ("training diverged" in (trial["error"] or "")) == failed
    assert load_run_config(tmp_path / "run-search" / BEST).training.learning_rate == 1.0e-3


def test_a_pruned_trial_ends_early_and_counts(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AllButTheFirst(optuna.pruners.BasePruner):
        def prune(self, study: Any, trial: Any) -> bool:
            return trial.number > 0

    monkeypatch.setattr(optuna.pruners, "MedianPruner", AllButTheFirst)
    tune(write({"space": SPACE, "pruner": "median"}), trials=2)
    found = trials(tmp_path / "run-search")
    assert [(trial["state"], list(trial["epochs"])) for trial in found] == [
        ("complete", ["1.0", "2.0"]),
        ("pruned", ["1.0"]),
    ]


def test_a_smaller_loss_is_better(write: Callable[..., Path], tmp_path: Path) -> None:
    space = {"training.learning_rate": {"low": 1.0e-5, "high": 1.0e-2, "log": True}}
    tune(write({"space": space}, metric_for_best_model="loss"), trials=2)
    found = trials(tmp_path / "run-search")
    best = min(found, key=lambda trial: trial["value"])
    assert best["value"] < max(trial["value"] for trial in found)
    rate = load_run_config(tmp_path / "run-search" / BEST).training.learning_rate
    assert rate == best["params"]["training.learning_rate"]


def test_folders_are_not_mixed_up(write: Callable[..., Path], tmp_path: Path) -> None:
    config = write({"space": SPACE}, num_train_epochs=1)
    with pytest.raises(ShudunError, match="no search to go on with; start without --resume"):
        tune(config, trials=1, resume=True)
    tune(config, trials=1)
    with pytest.raises(ShudunError, match="holds files already; go on with --resume"):
        tune(config, trials=2)
    changed = write({"space": SPACE}, num_train_epochs=2)
    with pytest.raises(ShudunError, match=r"cannot resume, changed since the run started: config.training.num_train"):
        tune(changed, trials=2, resume=True)


def test_several_processes_are_refused(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ShudunError, match="runs in one process"):
        tune(write(), trials=1)


def test_a_missing_optuna_names_its_extra(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"shudun tune needs the 'tune' extra.*pip install 'shudun\[tune\]'"):
        tune(write(), trials=1)


def test_without_a_space_the_configured_values_are_searched_around(write: Callable[..., Path]) -> None:
    config = load_run_config(write(weight_decay=0.01))
    space = search_space(config)
    rate = space["training.learning_rate"]
    assert isinstance(rate, RangeConfig)
    assert rate.low < config.training.learning_rate < rate.high
    assert configured_values(config, space) == {
        "training.learning_rate": 1.0e-3,
        "training.weight_decay": 0.01,
        "training.warmup_ratio": 0.1,
    }


@pytest.mark.parametrize(
    ("dimension", "held", "not_held"),
    [
        (RangeConfig(low=1, high=4), [1, 2, 4], [0, 5, 2.5, True, None, "2"]),
        (RangeConfig(low=0.5, high=4), [0.5, 2, 4.0], [0.4, False, None]),
        (ChoicesConfig(choices=[None, "a", 1.5]), [None, "a", 1.5], ["b", 1, 0]),
    ],
)
def test_a_dimension_knows_what_it_holds(
    dimension: RangeConfig | ChoicesConfig, held: list[object], not_held: list[object]
) -> None:
    assert all(dimension.holds(value) for value in held)
    assert not any(dimension.holds(value) for value in not_held)
