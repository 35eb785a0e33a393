"""One model from sources that each annotate a part of the labels, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from shudun import Scorer, cli
from shudun.bundle import read_bundle
from shudun_training.config import load_taxonomy
from shudun_training.sources import load_examples, repeated

ROOT = Path(__file__).parents[2]
TAXONOMY = ROOT / "configs" / "taxonomy" / "joined.yaml"
POLICY = ROOT / "configs" / "policy" / "default.yaml"

CUES = {"spam": "加扣扣看片", "offensive": "就是蠢"}


def write(path: Path, label: str, count: int, seed: int) -> Path:
    """Rows of one source: half of them hold the cue of its label; the other label is never judged there."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        text = "".join(map(chr, rng.integers(0x4E00, 0x4E40, 6))) + (CUES[label] if i % 2 else "")
        lines.append(json.dumps({"id": f"{label}-{seed}-{i}", "text": text, "labels": [label] if i % 2 else []}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shudun() -> Callable[..., int]:
    def run(*arguments: object) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["shudun", *map(str, arguments)])
            with pytest.raises(SystemExit) as end:
                cli.main()
        return int(end.value.code or 0)

    return run


@pytest.fixture(scope="module")
def run(shudun: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joined")
    sizes = {"train": (24, 120), "validation": (16, 30), "test": (16, 30)}
    data: dict[str, list[dict[str, Any]]] = {}
    for number, (split, counts) in enumerate(sizes.items()):
        data[split] = [
            {"path": str(write(folder / f"{label}-{split}.jsonl", label, count, number)), "annotated_labels": [label]}
            for label, count in zip(CUES, counts, strict=True)
        ]
    data["train"][0]["repeat"] = 4
    data["train"][1]["share"] = 0.8
    compact = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    values = {
        "name": "joined",
        "output_dir": "run",
        "taxonomy": str(TAXONOMY),
        "policy": str(POLICY),
        "data": data,
        "model": {"max_length": 24, "compact": compact | {"intermediate_size": 32}},
        "training": {
            "num_train_epochs": 12,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "report_to": "none",
        },
    }
    (folder / "joined.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert shudun("train", "--config", folder / "joined.yaml") == 0
    return folder / "run"


def report(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_both_labels_are_learned_though_no_row_knows_both(run: Path) -> None:
    found = report(run / "report")
    for label in CUES:
        assert found["model"]["per_label"][label]["ap"] > 0.95
        assert found["baseline"]["per_label"][label]["ap"] > 0.95
    never = [label for label in load_taxonomy(TAXONOMY).label_ids if label not in CUES]
    assert all(found["model"]["per_label"][label]["positives"] == 0 for label in never)
    assert found["counts"]["known_labels"] == 16 + 30


def test_each_label_is_measured_on_the_rows_of_the_sources_that_annotate_it(run: Path) -> None:
    sources = report(run / "report")["sources"]
    assert [(name, block["rows"]) for name, block in sources.items()] == [
        ("spam-test.jsonl", 16),
        ("offensive-test.jsonl", 30),
    ]
    for label, block in zip(CUES, sources.values(), strict=True):
        assert list(block["model"]) == list(block["baseline"]) == [label]
        assert block["model"][label]["positives"] == block["model"][label]["negatives"] == block["rows"] / 2
        assert set(block["flagged_where_not_annotated"]) == set(load_taxonomy(TAXONOMY).label_ids) - {label}
    text = (run / "report" / "report.md").read_text(encoding="utf-8")
    assert "| spam-test.jsonl | spam | 8 | 8 |" in text


def test_thresholds_are_fitted_on_rows_that_know_the_label(run: Path) -> None:
    bundle = read_bundle(run / "bundle")
    points = dict(zip(bundle.taxonomy.label_ids, bundle.points, strict=True))
    assert (points["spam"].positives, points["offensive"].positives) == (8, 15)
    assert points["clickbait"].method.startswith("default")


def test_an_epoch_repeats_the_small_source_and_the_baseline_does_not(run: Path) -> None:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    small, large = record["sources"]["train"]
    assert (small["used"], small["repeat"], large["good"], large["share"]) == (24, 4, 120, 0.8)
    assert 70 < large["used"] < 120
    found = report(run / "report")
    assert found["counts"]["train_rows"] == 24 + large["used"]
    per_epoch = -(-(24 * 4 + large["used"]) // 8)
    assert record["steps"] % per_epoch == 0


def test_rows_of_one_source_are_evaluated_by_the_labels_they_know(
    run: Path, shudun: Callable[..., int], tmp_path: Path
) -> None:
    data = run.parent / "spam-test.jsonl"
    arguments = ("evaluate", "--bundle", run / "bundle", "--data", data, "--report", tmp_path)
    assert shudun(*arguments, "--annotated-labels", "spam") == 0
    found = report(tmp_path)
    assert found["counts"]["known_labels"] == 16
    assert found["model"]["per_label"]["offensive"]["negatives"] == 0
    assert found["model"]["per_label"]["spam"] == report(run / "report")["model"]["per_label"]["spam"]
    assert found["sources"] == {}
    assert shudun(*arguments, "--annotated-labels", "spam,nothing") == 1


def test_a_repeated_source_is_the_same_rows_again(run: Path) -> None:
    from shudun_training.config import load_run_config

    config = load_run_config(run / "config.yaml")
    examples, records = load_examples(config.data.train, load_taxonomy(config.taxonomy))
    once, epoch = [x.id for x in examples], [x.id for x in repeated(examples, records)]
    assert epoch == once[:24] * 4 + once[24:]
    assert Scorer.from_bundle(run / "bundle").manifest.provenance["sources"]["train"][0]["repeat"] == 4
