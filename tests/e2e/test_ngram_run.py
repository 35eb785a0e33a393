"""A run with an n-gram branch: fitted with the encoder, kept in the checkpoint, shipped in every export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from transformers import AutoModelForSequenceClassification

from shudun import Scorer, ShudunError
from shudun_training import pipeline
from shudun_training.checkpoint import item_tokenizer, load_checkpoint
from shudun_training.config import ConfigError, load_run_config, load_taxonomy, save_run_config
from shudun_training.finetune import predict_logits
from shudun_training.ngram_branch.storage import BRANCH_FILE, load_branch

ROOT = Path(__file__).parents[2]
ROWS = {"train": 48, "validation": 24, "test": 24}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Shipped rows, half of them of two labels, and the smallest encoder."""
    folder = tmp_path_factory.mktemp("ngram-run")
    for split, count in ROWS.items():
        shipped = ROOT / "data_cards" / "shudun-xhs" / f"{split}.jsonl"
        rows = [json.loads(line) for line in shipped.read_text(encoding="utf-8").splitlines()]
        marked = [row for row in rows if row["labels"] in (["off_platform_diversion"], ["hard_sell_template"])]
        clean = [row for row in rows if not row["labels"]]
        chosen = marked[: count // 2] + clean[: count - len(marked[: count // 2])]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in chosen]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    compact = {"vocab_size": 400, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    values = {
        "name": "branched",
        "output_dir": "run",
        "taxonomy": str(ROOT / "configs" / "taxonomy" / "xhs.yaml"),
        "policy": str(ROOT / "configs" / "policy" / "default.yaml"),
        "data": {split: [f"{split}.jsonl"] for split in ROWS},
        "model": {"max_length": 48, "compact": compact | {"intermediate_size": 32}},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 16, "report_to": "none"},
        "ngram_branch": {"max_order": 2, "min_df": 2},
        "thresholds": {"min_positives": 2},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(config):
    pipeline.run(config)
    return config.parent / "run"


def test_checkpoint_record_bundle_and_report_hold_the_branch(run):
    assert (run / "checkpoint" / BRANCH_FILE).is_file()
    AutoModelForSequenceClassification.from_pretrained(run / "checkpoint")
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    manifest = json.loads((run / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    assert record["ngram_branch"] == manifest["provenance"]["ngram_branch"]
    assert record["ngram_branch"]["branch_weight"] > 0
    assert record["ngram_branch"]["ngrams"] == sum(record["ngram_branch"]["by_order"])
    assert load_run_config(run / "config.yaml").ngram_branch.max_order == 2
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["parts"].keys() == {"encoder", "ngram_branch"}
    assert "## Parts of the model" in (run / "report" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_bundle_scores_encoder_and_branch(precision, run, config, items, tmp_path):
    pipeline.export(run, output=tmp_path / "bundle", precision=precision)
    scorer = Scorer.from_bundle(tmp_path / "bundle", "cpu", 1)
    model, tokenizer = load_checkpoint(run / "checkpoint")
    encoder = item_tokenizer(tokenizer, max_length=48)
    branch = load_branch(run / "checkpoint", encoder, load_taxonomy(load_run_config(config).taxonomy))
    logits, _ = predict_logits(model, encoder, items)
    atol = 1e-5 if precision == "fp32" else 0.02
    np.testing.assert_allclose(scorer.run(items).logits, branch.blend(logits, items, encoder), atol=atol)


def test_a_branch_that_is_asked_for_and_missing_stops_the_export(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "checkpoint" / BRANCH_FILE).unlink()
    with pytest.raises(ShudunError, match=f"{BRANCH_FILE} is missing, which the configuration asks for"):
        pipeline.export(copy, output=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_run_without_one_leaves_none_of_an_earlier_run(run, config, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    plain = load_run_config(config, output_dir=copy).model_copy(update={"ngram_branch": None})
    save_run_config(plain, tmp_path / "plain.yaml")
    pipeline.run(tmp_path / "plain.yaml")
    assert not (copy / "checkpoint" / BRANCH_FILE).exists()
    manifest = json.loads((copy / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["provenance"]["ngram_branch"] is None
    assert "parts" not in json.loads((copy / "report" / "report.json").read_text(encoding="utf-8"))


def test_a_part_without_a_say_is_named(run, config, capsys, monkeypatch):
    from shudun_training.ngram_branch import run as branch_run
    from shudun_training.ngram_branch.branch import BlendWeights

    settings = load_run_config(config)
    taxonomy = load_taxonomy(settings.taxonomy)
    rows, _ = pipeline._load_splits(settings, run)
    copy = shutil.copytree(run / "checkpoint", run.parent / "copy")
    monkeypatch.setattr(branch_run, "fit_blend", lambda *_: BlendWeights(0.0, 1.0))
    branch_run.fit_run_branch(copy, settings, taxonomy, rows["train"], rows["validation"])
    assert "the encoder got weight 0" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"max_order": 5}, "ngram_branch.max_order"),
        ({"min_df": 0}, "ngram_branch.min_df"),
        ({"inverse_regularisation": 0}, "ngram_branch.inverse_regularisation"),
        ({"orders": [1, 2]}, "ngram_branch.orders: Extra inputs are not permitted"),
    ],
)
def test_settings_are_checked(section, problem, config, tmp_path):
    values = yaml.safe_load(config.read_text(encoding="utf-8")) | {"ngram_branch": section}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(ConfigError, match=problem):
        load_run_config(tmp_path / "wrong.yaml")


def test_it_is_off_by_default(config, tmp_path):
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    del values["ngram_branch"]
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert load_run_config(tmp_path / "plain.yaml").ngram_branch is None
