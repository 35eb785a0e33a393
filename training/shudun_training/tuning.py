"""Hyper-parameter search: each trial trains as `shudun train` would, and is measured on the validation split alone.

SEARCH/study.db       optuna's study, which a search goes on from
SEARCH/inputs.json    what a resumed search is held against: configuration and checksums of the rows
SEARCH/trials.jsonl   one line for each trial
SEARCH/best.yaml      the best configuration, for `shudun train`

The test split is never opened. `Trainer.hyperparameter_search` is not used: it varies `TrainingArguments` alone (no
loss, dropout or layer decay), reuses one Trainer, and takes the last epoch's value where training keeps the best one's.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils.memory import clear_device_cache
from pydantic import ValidationError
from tqdm.auto import tqdm
from transformers import TrainerCallback

from shudun.errors import MissingExtraError, ShudunError
from shudun_training.config import RunConfig, load_run_config, load_taxonomy, with_values
from shudun_training.examples import Example
from shudun_training.finetune import fit
from shudun_training.run_folder import resume_run, start_run
from shudun_training.search_config import SearchConfig
from shudun_training.search_results import (
    ERROR,
    PARTS_OF_EPOCH,
    STEPS,
    TRIALS,
    completed,
    finished,
    print_best,
    write_results,
)
from shudun_training.search_space import configured_values, draw, search_space
from shudun_training.sources import load_examples, repeated

if TYPE_CHECKING:
    from optuna import Study, Trial

STUDY = "study.db"


def tune(config_path: Path, *, trials: int, output_dir: Path | None = None, resume: bool = False) -> None:
    """Search until a study holds `trials` finished trials, and write the best configuration.

    Args:
        config_path: run configuration; its `search` section says what varies.
        trials: finished trials of the whole study, those before `resume` included.
        output_dir: folder of the search; the configured run folder with `-search` by default.
        resume: go on in a folder that holds a search.

    Raises:
        ShudunError: the folder is in use, cannot be resumed, or no trial was completed.
    """
    _require_optuna()
    _refuse_processes()
    config = load_run_config(config_path)
    folder = (output_dir or config.output_dir.with_name(f"{config.output_dir.name}-search")).resolve()
    _check_folder(folder, resume=resume)
    rows = _load_rows(config, folder, resume=resume)
    study = _open_study(folder, config)
    _settle_interrupted(study, folder)
    with tqdm(
        total=trials, initial=finished(study), desc="trials", unit="trial", disable=not sys.stderr.isatty()
    ) as bar:
        while finished(study) < trials:
            _run_trial(study, config, rows, folder)
            write_results(study, config, folder)
            bar.update()
    if not completed(study):
        raise ShudunError(f"{folder / TRIALS}: none of {finished(study)} trials was completed; see their errors there")
    write_results(study, config, folder)
    print_best(study, folder)


class TrialReports(TrainerCallback):
    """Reports each epoch's metric to a study, and ends a trial that its pruner gives up."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Report the epoch that was just measured."""
        from optuna import TrialPruned

        self._trial.set_user_attr(STEPS, state.global_step)
        # Parts of epochs, not steps: trials of different batch sizes must meet at the same points.
        point = round(state.epoch * PARTS_OF_EPOCH)
        self._trial.report(kwargs["metrics"][f"eval_{args.metric_for_best_model}"], point)
        if self._trial.should_prune():
            raise TrialPruned


def _run_trial(study: Study, config: RunConfig, rows: Mapping[str, list[Example]], folder: Path) -> None:
    from optuna import TrialPruned
    from optuna.trial import TrialState

    trial = _ask(study, config)
    try:
        value = _fit_trial(trial, config, rows, folder)
    except TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except (ShudunError, ValidationError, torch.OutOfMemoryError) as error:
        trial.set_user_attr(ERROR, str(error))
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, value)
    if torch.cuda.is_available():
        clear_device_cache(garbage_collection=True)  # the last trial's model, before the next one is built


def _ask(study: Study, config: RunConfig) -> Trial:
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    space, done = search_space(config), finished(study)
    if done == 0 and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial(configured_values(config, space))
    # One seed for each trial: a resumed search proposes what an undisturbed one does.
    study.sampler = TPESampler(seed=_search(config).seed + done)
    trial = study.ask()
    draw(trial, space)
    return trial


def _fit_trial(trial: Trial, config: RunConfig, rows: Mapping[str, list[Example]], folder: Path) -> float:
    trial_config = with_values(config, trial.params)
    with tempfile.TemporaryDirectory(prefix="trial-", dir=folder) as temporary:
        result = fit(
            rows["train"],
            rows["validation"],
            taxonomy=load_taxonomy(config.taxonomy),
            model_config=trial_config.model,
            training_config=trial_config.training.model_copy(update={"report_to": "none"}),
            loss_config=trial_config.loss,
            output_dir=Path(temporary),
            augmentation=trial_config.augmentation,
            regularisation=trial_config.regularisation,
            keep=False,
            callbacks=[TrialReports(trial)],
        )
    if result.best_metric is None or not math.isfinite(result.best_metric):
        raise ShudunError(f"no epoch with a finite measurement: {result.best_metric}")
    return result.best_metric


def _load_rows(config: RunConfig, folder: Path, *, resume: bool) -> dict[str, list[Example]]:
    taxonomy = load_taxonomy(config.taxonomy)
    rows, records = {}, {}
    for split in ("train", "validation"):
        rows[split], records[split] = load_examples(
            getattr(config.data, split),
            taxonomy,
            on_bad_row=config.data.on_bad_row,
            rejected_dir=folder / "rejected" / split,
        )
    (resume_run if resume else start_run)(folder, config, records)
    return rows | {"train": repeated(rows["train"], records["train"])}


def _open_study(folder: Path, config: RunConfig) -> Study:
    import optuna
    from sqlalchemy import URL

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruners = {"none": optuna.pruners.NopPruner, "median": optuna.pruners.MedianPruner}
    return optuna.create_study(
        study_name=config.name,
        storage=URL.create("sqlite", database=str(folder / STUDY)).render_as_string(),
        load_if_exists=True,
        direction="minimize" if config.training.metric_for_best_model == "loss" else "maximize",
        pruner=pruners[_search(config).pruner](),
    )


def _settle_interrupted(study: Study, folder: Path) -> None:
    from optuna.trial import TrialState

    for left in folder.glob("trial-*"):
        shutil.rmtree(left)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _search(config: RunConfig) -> SearchConfig:
    return config.search or SearchConfig()


def _check_folder(folder: Path, *, resume: bool) -> None:
    if resume and not (folder / STUDY).is_file():
        raise ShudunError(f"{folder}: no search to go on with; start without --resume")
    if not resume and folder.exists() and any(folder.iterdir()):
        raise ShudunError(f"{folder}: holds files already; go on with --resume, or give another --output-dir")


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("shudun tune", "tune", error) from error


def _refuse_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ShudunError("shudun tune runs in one process; start it without `accelerate launch`")
