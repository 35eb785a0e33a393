"""The whole path through the command line: rows, training, bundle, evaluation, scored rows."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from shudun import Comment, Note, Scorer, cli
from shudun.rows import RowReader, parse_item
from shudun_training import export_graph, finetune
from shudun_training.config import load_run_config
from shudun_training.examples import label_matrix
from shudun_training.sources import load_examples
from shudun_training.thresholds import fit_calibration, fit_operating_points

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "data_cards" / "shudun-xhs" / "train.jsonl"
SIZES = {"train": 32, "validation": 16, "test": 16}
MEASURED = ("off_platform_diversion", "hard_sell_template")
FIGURES = {"precision", "recall", "f1", "ap", "positives", "threshold"}


@dataclass(frozen=True)
class Result:
    """What a command printed and returned; `text` is both streams without line breaks."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return " ".join((self.out + self.err).split())


def shudun(*arguments: object) -> Result:
    """Run the command as its entry point does."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["shudun", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exit_:
            cli.main()
    finally:
        sys.argv = before
    return Result(exit_.value.code or 0, out.getvalue(), err.getvalue())  # type: ignore[arg-type]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run on shipped rows: in each split a quarter of each of two labels, the rest clean."""
    folder = tmp_path_factory.mktemp("e2e")
    shipped = read_jsonl(SHIPPED)
    total = sum(SIZES.values())
    clean = [row for row in shipped if not row["labels"]]
    first, second = ([row for row in shipped if row["labels"] == [label]] for label in MEASURED)
    rows = [row for four in zip(first, clean[::2], second, clean[1::2], strict=False) for row in four][:total]
    assert len(rows) == total
    start = 0
    for split, size in SIZES.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in rows[start : start + size]]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        start += size
    values = {
        "name": "small",
        "output_dir": "run",
        "taxonomy": str(ROOT / "configs" / "taxonomy" / "xhs.yaml"),
        "policy": str(ROOT / "configs" / "policy" / "default.yaml"),
        "data": {split: [f"{split}.jsonl"] for split in SIZES},
        "model": {
            "max_length": 48,
            "compact": {
                "vocab_size": 400,
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 32,
            },
        },
        "training": {
            "num_train_epochs": 2,
            "per_device_train_batch_size": 8,
            "learning_rate": 2e-2,
            "logging_steps": 1,
            "report_to": "none",
        },
        "thresholds": {"min_positives": 2},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(config: Path) -> tuple[Path, Result]:
    result = shudun("train", "--config", config)
    assert result.code == 0, result.text
    return config.parent / "run", result


@pytest.fixture(scope="module")
def run(trained: tuple[Path, Result]) -> Path:
    return trained[0]


@pytest.fixture
def altered(config: Path) -> Iterator[Callable[[str], Path]]:
    """Change one label in a split's file for the length of a test."""
    before: dict[Path, bytes] = {}

    def alter(split: str) -> Path:
        path = config.parent / f"{split}.jsonl"
        before[path] = path.read_bytes()
        rows = read_jsonl(path)
        rows[0] |= {"labels": [], "evidence": []}
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    yield alter
    for path, data in before.items():
        path.write_bytes(data)


def test_the_run_folder_is_complete_and_holds_nothing_pickled_to_share(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "inputs.json",
        "run.json",
        "starts.jsonl",
        ".lock",
        "curves.jsonl",
        "curves.svg",
        "trainer",
        "checkpoint",
        "bundle",
        "report",
    }
    for part in ("checkpoint", "bundle", "report"):
        endings = {path.suffix for path in (run / part).rglob("*")}
        assert endings <= {".json", ".safetensors", ".onnx", ".md", ".npz"}, part
    assert {path.name for path in (run / "bundle").iterdir()} == {
        "manifest.json",
        "model.onnx",
        "tokenizer.json",
        "taxonomy.json",
        "calibration.json",
        "policy.json",
        "metrics.json",
    }
    assert {path.name for path in (run / "report").iterdir()} == {"report.json", "report.md", "scores.npz"}


def test_the_run_records_what_it_was_made_of(run: Path, config: Path) -> None:
    assert load_run_config(run / "config.yaml") == load_run_config(config)
    record = read_json(run / "run.json")
    assert record["name"] == "small"
    assert record["steps"] == 8
    assert record["environment"]["packages"]["torch"]
    assert len([entry for entry in record["log"] if "eval_loss" in entry]) == 2
    curves = read_jsonl(run / "curves.jsonl")
    for name in ("loss", "eval_loss", "eval_macro_ap"):
        logged = [(entry["step"], entry[name]) for entry in record["log"] if name in entry]
        assert [(line["step"], line[name]) for line in curves if name in line] == logged
    assert "tokens/s" in (run / "curves.svg").read_text(encoding="utf-8")
    for split, size in SIZES.items():
        (source,) = record["sources"][split]
        assert source["path"] == str(config.parent / f"{split}.jsonl")
        assert source["sha256"] == sha256(config.parent / f"{split}.jsonl")
        assert (source["read"], source["good"], source["rejected"]) == (size, size, 0)
    provenance = read_json(run / "bundle" / "manifest.json")["provenance"]
    assert provenance["sources"] == record["sources"]
    assert provenance["gate"]["parity"]["texts"] == SIZES["validation"] + 5  # the gate's own
    assert provenance["gate"]["parity"]["max_abs_logit"] <= 1e-4


def test_the_run_is_listed_with_the_figures_of_its_report(run: Path) -> None:
    result = shudun("runs", run.parent, "--json", "-")
    assert result.code == 0, result.text
    (listed,) = json.loads(result.out)["runs"]
    report, record = read_json(run / "report" / "report.json"), read_json(run / "run.json")
    assert (listed["folder"], listed["state"], listed["name"]) == ("run", "finished", "small")
    assert listed["metrics"]["macro_f1"] == report["model"]["macro_f1"]
    assert listed["difference_to_baseline"] == report["difference"]
    assert listed["validation"]["macro_ap"] == read_json(run / "bundle" / "metrics.json")["validation"]["macro_ap"]
    assert listed["rows"] == SIZES
    assert listed["data"] == record["data"]
    assert (listed["epochs"], listed["steps"], listed["resumed"]) == (2, 8, 0)
    assert listed["started"] <= listed["finished"]
    assert f"{report['model']['macro_f1']:.3f}" in shudun("runs", run.parent).out


def test_a_run_compared_with_another_evaluation_of_itself_differs_by_nothing(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again, ignore=shutil.ignore_patterns("trainer", "checkpoint", "report"))
    data = run.parent / "test.jsonl"
    command = ("evaluate", "--bundle", run / "bundle", "--data", data, "--report", again / "report")
    assert shudun(*command).code == 0
    result = shudun("runs", "compare", run, again, "--json", tmp_path / "compared.json")
    assert result.code == 0, result.text
    assert "the same 16 rows with the same labels" in result.text
    compared = read_json(tmp_path / "compared.json")
    assert compared["config"] == compared["versions"] == {}
    (difference,) = compared["differences"]
    assert difference["comparable"]
    assert difference["intervals"]
    assert difference["overall"]["macro_ap"]["delta"] == 0.0


def test_a_person_sees_epochs_gate_and_report(trained: tuple[Path, Result]) -> None:
    _, result = trained
    assert "epoch 1/2 step 4 " in result.text
    assert "epoch 2/2 step 8 " in result.text
    assert "parity: texts 21 " in result.text
    assert "baseline: macro-F1" in result.text
    assert "report.json" in result.text
    assert "Warning" not in result.err


def test_the_report_has_the_documented_schema(run: Path) -> None:
    report = read_json(run / "report" / "report.json")
    labels = {label["id"] for label in read_json(run / "bundle" / "taxonomy.json")["labels"]}
    for system in ("model", "baseline"):
        block = report[system]
        assert {"macro_f1", "micro_f1", "macro_ap", "per_label"} <= set(block)
        assert all(0 <= block[key] <= 1 for key in ("macro_f1", "micro_f1", "macro_ap"))
        assert set(block["per_label"]) == labels
        for label, row in block["per_label"].items():
            assert set(row) >= FIGURES, label
            assert (row["positives"] > 0) == (label in MEASURED), label
            assert 0 < row["threshold"] <= 1
            assert (row["f1"] is None) == (row["positives"] == 0)
    for value in report["difference"].values():
        assert set(value) == {"delta", "low", "high", "resamples"}
        assert value["low"] <= value["high"]
    counts = report["counts"]
    assert counts["rows"] == counts["notes"] + counts["comments"] == SIZES["test"]
    assert (counts["train_rows"], counts["validation_rows"]) == (SIZES["train"], SIZES["validation"])
    assert counts["clean_rows"] == 8
    assert report["split"] == "test"
    assert "hard_sell_template" in (run / "report" / "report.md").read_text(encoding="utf-8")


def test_thresholds_come_from_validation_and_reach_the_report(run: Path) -> None:
    thresholds = read_json(run / "bundle" / "calibration.json")["labels"]
    report = read_json(run / "report" / "report.json")["model"]["per_label"]
    assert {label: row["threshold"] for label, row in thresholds.items()} == {
        label: row["threshold"] for label, row in report.items()
    }
    config, scorer = load_run_config(run / "config.yaml"), Scorer.from_bundle(run / "bundle", "cpu")
    examples, _ = load_examples(config.data.validation, scorer.taxonomy)
    logits, labels = scorer.run([example.item for example in examples]).logits, label_matrix(examples, scorer.taxonomy)
    calibration = fit_calibration(logits, labels)
    points = fit_operating_points(calibration.apply(logits), labels, config.thresholds)
    for i, point in enumerate(thresholds.values()):
        assert (point["slope"], point["intercept"]) == pytest.approx(
            (calibration.slope[i], calibration.intercept[i]), abs=1e-4
        )
        assert point["threshold"] == pytest.approx(points[i].threshold, abs=1e-4)
        assert (point["method"], point["positives"], point["recall"]) == (
            points[i].method,
            points[i].positives,
            points[i].recall,
        )
    assert {thresholds[label]["method"] for label in MEASURED} == {"best F1"}


def test_exporting_again_gives_the_same_bundle(run: Path, tmp_path: Path) -> None:
    result = shudun("export", "--run", run, "--output", tmp_path / "again")
    assert result.code == 0, result.text
    for path in (run / "bundle").iterdir():
        if path.name != "manifest.json":
            assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_an_int8_graph_that_loses_too_much_is_not_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_graph, "MAX_FLIP_RATE", -1.0)
    before = {path.name: sha256(path) for path in (run / "bundle").iterdir()}
    result = shudun("export", "--run", run, "--precision", "int8")
    assert result.code == 1
    assert "quantisation gate" in result.text
    assert not (run / "bundle-int8").exists()
    assert {path.name: sha256(path) for path in (run / "bundle").iterdir()} == before


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_precision_that_passes_is_written_beside_the_first_with_what_it_costs(
    precision: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_graph, "MAX_FLIP_RATE", 1.0)
    monkeypatch.setattr(export_graph, "MAX_AP_LOSS", 1.0)
    copy = shutil.copytree(run, tmp_path / "run")
    result = shudun("export", "--run", copy, "--precision", precision)
    assert result.code == 0, result.text
    bundles = [copy / "bundle", copy / f"bundle-{precision}"]
    manifest = read_json(bundles[1] / "manifest.json")
    assert manifest["precision"] == precision
    assert manifest["provenance"]["gate"]["quantisation"]["texts"] == SIZES["validation"]
    labels = [read_json(bundle / "calibration.json")["labels"] for bundle in bundles]
    assert labels[0] != labels[1]  # fitted again on this graph's own scores
    items = [Comment("加我微信 demo_0000"), Note("周末看银杏", "人不多，风很大")]
    scores = [Scorer.from_bundle(bundle, "cpu").predict_proba(items) for bundle in bundles]
    assert 0 < np.abs(scores[0] - scores[1]).max() < 0.2


def test_changed_validation_rows_are_not_exported(run: Path, altered: Callable[[str], Path], tmp_path: Path) -> None:
    path = altered("validation")
    result = shudun("export", "--run", run, "--output", tmp_path / "bundle")
    assert result.code == 1
    assert f"{path}: the rows changed since the run" in result.text
    assert not (tmp_path / "bundle").exists()


def test_evaluating_the_test_rows_gives_the_figures_of_the_run(run: Path, tmp_path: Path) -> None:
    data = run.parent / "test.jsonl"
    result = shudun("evaluate", "--bundle", run / "bundle", "--data", data, "--report", tmp_path, "--device", "cpu")
    assert result.code == 0, result.text
    before, after = read_json(run / "report" / "report.json"), read_json(tmp_path / "report.json")
    for key in ("model", "baseline", "difference", "counts"):
        assert after[key] == before[key], key
    assert after["data"][0]["sha256"] == sha256(data)


def test_a_baseline_is_not_trained_on_changed_rows_unless_they_are_given(
    run: Path, altered: Callable[[str], Path], tmp_path: Path
) -> None:
    path = altered("train")
    command = ("evaluate", "--bundle", run / "bundle", "--data", run.parent / "test.jsonl", "--report", tmp_path)
    result = shudun(*command)
    assert result.code == 1
    assert f"train rows for the baseline: {path}: the rows changed since the run" in result.text
    assert "Give --train-data FILE" in result.text
    assert not (tmp_path / "report.json").exists()

    result = shudun(*command, "--train-data", path)
    assert result.code == 0, result.text
    before, after = read_json(run / "report" / "report.json"), read_json(tmp_path / "report.json")
    assert after["model"] == before["model"]
    assert after["counts"] == before["counts"]


def test_a_row_that_does_not_fit_the_taxonomy_stops_the_evaluation(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    good = (run.parent / "test.jsonl").read_text(encoding="utf-8")
    data.write_text(good + '{"id": "x", "text": "文", "labels": ["ad"]}\n', encoding="utf-8")
    command = ("evaluate", "--bundle", run / "bundle", "--data", data, "--report", tmp_path / "report")
    result = shudun(*command)
    assert result.code == 1
    assert f"{data}:{SIZES['test'] + 1}: field 'labels'" in result.text
    result = shudun(*command, "--on-bad-row", "skip")
    assert result.code == 0, result.text
    report = read_json(tmp_path / "report" / "report.json")
    assert (report["data"][0]["good"], report["data"][0]["rejected"]) == (SIZES["test"], 1)


def test_scored_rows_are_those_of_the_scorer_in_order(run: Path, tmp_path: Path) -> None:
    source, target = run.parent / "test.jsonl", tmp_path / "scored.jsonl"
    result = shudun("score", source, target, "--bundle", run / "bundle", "--device", "cpu")
    assert result.code == 0, result.text
    items = list(RowReader(source, parse_item))
    expected = Scorer.from_bundle(run / "bundle", "cpu").score(items)
    rows = read_jsonl(target)
    assert [row["id"] for row in rows] == [item.id for item in items]
    for row, scored in zip(rows, expected, strict=True):
        assert row["scores"] == pytest.approx(scored.scores, abs=1e-6)
        assert row["labels"] == list(scored.labels)
        assert row["suggestion"] == scored.suggestion
    # Thresholds of the shipped calibration decide, and not a fixed one half.
    assert any(row["labels"] for row in rows)


def test_an_interrupted_run_is_resumed_to_the_same_bundle(
    run: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same seed, another folder, a full disk in the second epoch: every shipped byte is the same in the end."""
    folder = tmp_path / "resumed"

    class Interrupted(finetune.EpochLines):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:
                raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "EpochLines", Interrupted)
        interrupted = shudun("train", "--config", config, "--output-dir", folder)
    assert interrupted.code == 1
    assert "No space left on device" in interrupted.err
    assert not (folder / "bundle").exists()
    unfinished = shudun("export", "--run", folder)
    assert unfinished.code == 1
    assert "no finished run of `shudun train`" in unfinished.text

    result = shudun("train", "--config", config, "--output-dir", folder, "--resume")
    assert result.code == 0, result.text
    for part in ("checkpoint/model.safetensors", "checkpoint/tokenizer.json", "bundle/model.onnx"):
        assert sha256(folder / part) == sha256(run / part), part
    for part in ("bundle/calibration.json", "bundle/metrics.json"):
        assert read_json(folder / part) == read_json(run / part), part
    first, second = (read_json(x / "report" / "report.json") for x in (run, folder))
    assert {key: first[key] for key in ("model", "baseline", "difference")} == {
        key: second[key] for key in ("model", "baseline", "difference")
    }


def test_resuming_needs_an_unfinished_run(config: Path, tmp_path: Path) -> None:
    result = shudun("train", "--config", config, "--output-dir", tmp_path / "none", "--resume")
    assert result.code == 1
    assert "no run to resume" in result.text


def test_a_damaged_checkpoint_is_not_exported_and_the_bundle_stays(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / "checkpoint" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    before = {file.name: sha256(file) for file in (copy / "bundle").iterdir()}
    result = shudun("export", "--run", copy)
    assert result.code == 1
    assert str(copy / "checkpoint") in result.text
    assert {file.name: sha256(file) for file in (copy / "bundle").iterdir()} == before


def test_mistakes_in_a_configuration_end_with_one_message(config: Path, tmp_path: Path) -> None:
    text = config.read_text(encoding="utf-8").replace("learning_rate", "lerning_rate")
    (tmp_path / "wrong.yaml").write_text(text, encoding="utf-8")
    result = shudun("train", "--config", tmp_path / "wrong.yaml")
    assert result.code == 1
    assert "training.lerning_rate: Extra inputs are not permitted" in result.err
    assert "Traceback" not in result.err
