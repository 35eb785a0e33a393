"""Curves of a run: every step once, speed of the training work alone, readable whatever happened to the process."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from shudun import Comment, Taxonomy
from shudun.errors import ShudunError
from shudun_training import curves, finetune
from shudun_training.config import BceConfig, CompactConfig, ModelConfig, TrainingConfig
from shudun_training.curve_lines import draw_curves, read_curves
from shudun_training.curves import CurveWriter
from shudun_training.examples import Example
from shudun_training.finetune import fit
from shudun_training.run_files import CURVES

GO_ON = SimpleNamespace(should_evaluate=False, should_save=False)
PAUSE = SimpleNamespace(should_evaluate=True, should_save=True)


class Clock:
    """Seconds that pass only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(curves.time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def state(step: int, *, main: bool = True) -> SimpleNamespace:
    """Ten steps are an epoch."""
    return SimpleNamespace(global_step=step, epoch=step / 10, is_world_process_zero=main)


def train(writer: CurveWriter, clock: Clock, steps: range, *, step_seconds: float, main: bool = True) -> None:
    """Steps of equal length, logged every fifth; each epoch ends with 7 s of evaluation and 2 s of saving."""
    writer.on_train_begin(None, state(steps.start, main=main), None)
    for step in range(steps.start + 1, steps.stop + 1):
        clock.now += step_seconds
        now, last = state(step, main=main), step % 10 == 0
        writer.on_step_end(None, now, GO_ON)
        if step % 5 == 0:
            writer.on_log(None, now, None, {"loss": 1 / step, "grad_norm": 2.0, "learning_rate": 1e-4, "epoch": 0})
        if last:
            writer.on_epoch_end(None, now, PAUSE)
            clock.now += 7
            writer.on_log(None, now, None, {"eval_loss": 0.5})
            writer.on_evaluate(
                None, now, None, metrics={"eval_loss": 0.5, "eval_macro_ap": 0.7, "eval_runtime": 7, "epoch": 1}
            )
            clock.now += 2
            writer.on_save(None, now, None)


def test_speed_counts_neither_evaluation_nor_saving(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "new" / "curves.jsonl"
    train(CurveWriter(path, rows=320, tokens=8000), clock, range(20), step_seconds=0.5)
    lines = read_curves(path)
    assert [(line["step"], "loss" in line) for line in lines] == [
        (5, True),
        (10, True),
        (10, False),
        (15, True),
        (20, True),
        (20, False),
    ]
    for line in lines:
        assert line["train_seconds"] == pytest.approx(0.5 * line["step"])
        if "loss" in line:
            assert (line["rows_per_s"], line["tokens_per_s"]) == pytest.approx((64, 1600))
    assert [line["seconds"] for line in lines] == pytest.approx([2.5, 5, 12, 16.5, 19, 26])
    assert {name: value for name, value in lines[2].items() if "eval" in name} == {
        "eval_loss": 0.5,
        "eval_macro_ap": 0.7,
    }


def test_a_resumed_run_goes_on_behind_its_checkpoint(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    train(CurveWriter(path, rows=320, tokens=8000), clock, range(18), step_seconds=0.5)
    assert read_curves(path)[-1]["step"] == 15
    clock.now += 10_000
    train(CurveWriter(path, rows=320, tokens=8000), clock, range(10, 20), step_seconds=0.5)
    lines = read_curves(path)
    assert [line["step"] for line in lines] == [5, 10, 10, 15, 20, 20]
    assert [line["train_seconds"] for line in lines] == pytest.approx([2.5, 5, 5, 7.5, 10, 10])
    assert all(line["rows_per_s"] == pytest.approx(64) for line in lines if "loss" in line)
    assert lines[-1]["seconds"] < 30


def test_a_real_run_that_was_killed_has_every_step_once(
    taxonomy: Taxonomy, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = frozenset({"diversion"})
    rows = [
        Example(Comment(text * (1 + i % 2), id=str(i)), labels if i % 3 else frozenset(), frozenset())
        for i, text in enumerate(texts * 2)
    ]
    compact = CompactConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )

    def run(folder: Path, *, resume: bool = False) -> None:
        fit(
            rows,
            rows,
            taxonomy=taxonomy,
            model_config=ModelConfig(max_length=24, compact=compact),
            training_config=TrainingConfig(
                num_train_epochs=3, per_device_train_batch_size=4, logging_steps=1, report_to="none"
            ),
            loss_config=BceConfig(),
            output_dir=folder,
            resume=resume,
        )

    class Killed(finetune.EpochLines):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 6:
                raise KeyboardInterrupt

    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "EpochLines", Killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed")
    assert read_curves(tmp_path / "killed" / CURVES)[-1]["step"] == 6
    run(tmp_path / "killed", resume=True)
    whole, killed = (read_curves(tmp_path / name / CURVES) for name in ("whole", "killed"))
    assert [line["step"] for line in whole if "loss" in line] == list(range(1, 13))
    times = {"time", "seconds", "train_seconds", "rows_per_s", "tokens_per_s"}
    kept = [[{k: v for k, v in line.items() if k not in times} for line in run] for run in (whole, killed)]
    assert kept[0] == kept[1]
    for lines in (whole, killed):
        for name in ("seconds", "train_seconds"):
            assert [line[name] for line in lines] == sorted(line[name] for line in lines)
        assert all(line["train_seconds"] <= line["seconds"] for line in lines)


def test_a_fresh_start_drops_what_was_there(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    path.write_text('{"step": 5}\nno JSON\n', encoding="utf-8")
    train(CurveWriter(path, rows=1, tokens=1), clock, range(5), step_seconds=1)
    assert [line["step"] for line in read_curves(path)] == [5]


def test_only_the_main_process_writes(clock: Clock, tmp_path: Path) -> None:
    train(CurveWriter(tmp_path / "curves.jsonl", rows=1, tokens=1), clock, range(20), step_seconds=1, main=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_no_number_is_null(value: float, clock: Clock, tmp_path: Path) -> None:
    writer = CurveWriter(tmp_path / "curves.jsonl", rows=1, tokens=1)
    writer.on_train_begin(None, state(0), None)
    writer.on_log(None, state(1), None, {"loss": value, "grad_norm": 1.0})
    text = (tmp_path / "curves.jsonl").read_text(encoding="utf-8")
    line = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (line["loss"], line["grad_norm"]) == (None, 1.0)


def test_a_line_cut_off_at_the_end_is_left_out_and_another_is_named(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste', encoding="utf-8")
    assert [line["step"] for line in read_curves(path)] == [1, 2]
    for bad in ("{", "[]", '{"step": "1"}'):
        path.write_text(f'{{"step": 1}}\n{bad}\n{{"step": 3}}\n', encoding="utf-8")
        with pytest.raises(ShudunError, match=r"curves\.jsonl:2: expected"):
            read_curves(path)


def test_the_picture_shows_what_there_is_and_is_the_same_for_the_same_lines(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "loss": 0.7, "grad_norm": 1.0, "learning_rate": 1e-4},
        {"step": 2, "loss": None, "grad_norm": 0.5, "learning_rate": 2e-4},
        {"step": 2, "eval_loss": 0.6, "eval_macro_ap": 0.4},
    ]
    pictures = [tmp_path / name for name in ("a.svg", "b.svg", "none.svg")]
    for path, drawn in zip(pictures, (lines, lines, []), strict=True):
        draw_curves(drawn, path, title="a & b")
    texts = [path.read_text(encoding="utf-8") for path in pictures]
    assert texts[0] == texts[1]
    for word in ("loss", "eval_macro_ap", "learning rate", "a &amp; b"):
        assert word in texts[0]
    assert "tokens/s" not in texts[0]
    assert "<svg" in texts[2]
