"""What a run folder says about its run, read from its files alone; old folders lack fields, damaged ones say why.

A run is `running` while a process holds it, `stopped` when none does and training has not ended, `trained` when the
weights are there but no report, `finished` with a report, and `damaged` when a file of its record cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from shudun.errors import ShudunError
from shudun_training.curve_lines import read_curves
from shudun_training.data_checksums import data_checksums
from shudun_training.run_files import BUNDLE, CONFIG, CURVES, INPUTS, METRICS, RECORD, REPORT, REPORT_JSON
from shudun_training.run_state import is_held, read_starts

State = Literal["running", "stopped", "trained", "finished", "damaged"]
OVERALL = ("macro_f1", "micro_f1", "macro_ap")


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Source(_Part):
    """One recorded source of rows."""

    sha256: str
    good: int
    columns: dict[str, str] = {}
    annotated_labels: list[str] | None = None
    share: float = 1.0
    repeat: int = 1
    used: int | None = None


class Record(_Part):
    """run.json."""

    name: str
    finished: str
    environment: dict[str, Any]
    sources: dict[str, list[Source]]
    steps: int
    log: list[dict[str, Any]]


class Inputs(_Part):
    """inputs.json."""

    config: dict[str, Any]
    sources: dict[str, list[Source]]


class Metrics(_Part):
    """Figures of one system on one split."""

    macro_f1: float | None
    micro_f1: float | None
    macro_ap: float | None
    per_label: dict[str, dict[str, Any]]

    def overall(self) -> dict[str, float | None]:
        """The figures over all labels."""
        return {name: getattr(self, name) for name in OVERALL}


class Report(_Part):
    """report.json."""

    model: Metrics
    baseline: Metrics
    difference: dict[str, dict[str, float] | None]
    counts: dict[str, int]
    split: str
    data: list[Source] | None = None
    """The measured rows, where they are not those of a split of the run."""


class Validation(_Part):
    """metrics.json of the bundle."""

    validation: Metrics


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of one run's record, as far as they are there."""

    config: dict[str, Any]
    sources: dict[str, list[Source]]
    record: Record | None
    report: Report | None
    validation: Metrics | None
    curves: list[dict[str, Any]]
    starts: list[dict[str, Any]]

    @property
    def environment(self) -> dict[str, Any]:
        """Versions at the end of the training, or at its last start."""
        if self.record is not None:
            return self.record.environment
        last = self.starts[-1].get("environment") if self.starts else None
        return last if isinstance(last, dict) else {}


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line of `shudun runs`; what a run does not record is `None` or empty."""

    folder: str
    state: State
    problem: str | None = None
    name: str | None = None
    started: str | None = None
    finished: str | None = None
    resumed: int = 0
    encoder: str | None = None
    data: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    epochs: float | None = None
    planned_epochs: float | None = None
    steps: int | None = None
    seconds: float | None = None
    git_revision: str | None = None
    normalizer: str | None = None
    validation: dict[str, float | None] = field(default_factory=dict)
    measured_on: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    difference_to_baseline: dict[str, dict[str, float] | None] = field(default_factory=dict)

    @property
    def when(self) -> str:
        """When the training ended, or began where it has not; empty where neither is known."""
        return self.finished or self.started or ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def summarise(folder: Path, *, name: str | None = None) -> RunSummary:
    """Summarise one run folder, under a name to show; never raises for what the folder holds."""
    shown = name or str(folder)
    try:
        return _summary(folder, shown, read_run_files(folder))
    except (ShudunError, OSError, RecursionError) as error:
        return RunSummary(shown, "damaged", problem=" ".join(str(error).split()))


def read_run_files(folder: Path) -> RunFiles:
    """Read the record of a run.

    Raises:
        ShudunError: the folder holds no run, or a file of it is damaged; the message names the file.
    """
    inputs, record = _parsed(folder / INPUTS, Inputs), _parsed(folder / RECORD, Record)
    if inputs is None and record is None:
        raise ShudunError(f"{folder}: no run folder: neither {INPUTS} nor {RECORD}")
    config = _config(folder / CONFIG)
    if config is None:
        if inputs is None:
            raise ShudunError(f"{folder / CONFIG}: missing")
        config = inputs.config
    # What a run measured counts only when its training ended; a report beside an unfinished one is of another.
    report = None if record is None else _parsed(folder / REPORT / REPORT_JSON, Report)
    validation = None if record is None else _parsed(folder / BUNDLE / METRICS, Validation)
    return RunFiles(
        config=config,
        sources=(record or inputs).sources,  # type: ignore[union-attr]  # one of them is there
        record=record,
        report=report,
        validation=None if validation is None else validation.validation,
        curves=read_curves(folder / CURVES) if (folder / CURVES).exists() else [],
        starts=read_starts(folder),
    )


def checksums(sources: Mapping[str, list[Source]]) -> dict[str, str]:
    """Data checksums of recorded sources."""
    return data_checksums({split: [source.model_dump() for source in found] for split, found in sources.items()})


def encoder_name(config: Mapping[str, Any]) -> str | None:
    """What was fine-tuned: the name of the encoder, or the shape of one from random weights."""
    model = config.get("model")
    if not isinstance(model, dict):
        return None
    compact = model.get("compact")
    if isinstance(compact, dict):
        return f"random {compact.get('num_hidden_layers', '?')}x{compact.get('hidden_size', '?')}"
    return Path(str(model["encoder"])).name if model.get("encoder") else None


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested mappings and lists, as `("training.seed", 42)` and `("data.train[0].path", ...)`."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from flattened(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for number, part in enumerate(value):
            yield from flattened(part, f"{path}[{number}]")
    else:
        yield path, value


def _summary(folder: Path, shown: str, files: RunFiles) -> RunSummary:
    record, report = files.record, files.report
    last = files.curves[-1] if files.curves else {}
    training = files.config.get("training")
    environment = files.environment
    return RunSummary(
        shown,
        _state(folder, files),
        name=record.name if record is not None else _text(files.config.get("name")),
        started=files.starts[0]["time"] if files.starts else None,
        finished=None if record is None else record.finished,
        resumed=sum(bool(start.get("resume")) for start in files.starts),
        encoder=encoder_name(files.config),
        data=checksums(files.sources),
        rows={
            split: sum(source.good if source.used is None else source.used for source in found)
            for split, found in files.sources.items()
        },
        epochs=_number(last.get("epoch") if record is None else _last(record, "epoch")),
        planned_epochs=_number(training.get("num_train_epochs")) if isinstance(training, dict) else None,
        steps=last.get("step") if record is None else record.steps,
        seconds=_number(last.get("seconds") if last else record and _last(record, "train_runtime")),
        git_revision=_text(environment.get("git_revision")),
        normalizer=_text(environment.get("normalizer")),
        validation={} if files.validation is None else files.validation.overall(),
        measured_on=None if report is None else report.split,
        metrics={} if report is None else report.model.overall(),
        difference_to_baseline={} if report is None else report.difference,
    )


def _state(folder: Path, files: RunFiles) -> State:
    if is_held(folder):
        return "running"
    if files.record is None:
        return "stopped"
    return "trained" if files.report is None else "finished"


def _last(record: Record, name: str) -> Any:
    return next((entry[name] for entry in reversed(record.log) if name in entry), None)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


_Model = TypeVar("_Model", bound=BaseModel)


def _parsed(path: Path, kind: type[_Model]) -> _Model | None:
    if not path.exists():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ShudunError(f"{path}: {_first_line(error)}") from error


def _config(path: Path) -> dict[str, Any] | None:
    """The configuration as it stands there: it may be of another version of shudun."""
    if not path.exists():
        return None
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ShudunError(f"{path}: cannot be read as YAML: {_first_line(error)}") from error
    if not isinstance(raw, dict):
        raise ShudunError(f"{path}: expected a mapping of keys, got {type(raw).__name__}")
    return raw


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
    return str(error).splitlines()[0]
