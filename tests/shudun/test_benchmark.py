"""`shudun bench`: figures that hang together, a limit only where the shape is known, clear errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from shudun import Comment, Scorer
from shudun.benchmark import benchmark, generated_items, model_operations
from shudun.cli import app
from shudun.errors import BundleError

SHAPE = {"layers": 2, "hidden": 32, "intermediate": 64}


@pytest.fixture(scope="module")
def shaped(make_bundle, tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bench") / "bundle", provenance={"shape": SHAPE})


def test_figures_hang_together(shaped):
    scorer = Scorer.from_bundle(shaped, "cpu", 1)
    items = generated_items(50)
    done = []
    result = benchmark(scorer, items, rounds=2, peak_gops=100.0, progress=done.append)
    assert done == [1, 2]
    assert result.mean_tokens == pytest.approx(scorer.count_tokens(items).mean())
    assert result.tokens_per_second == pytest.approx(result.texts_per_second * result.mean_tokens)
    assert 0 < result.latency_ms["p50"] <= result.latency_ms["p95"] <= result.latency_ms["p99"]
    assert 0 < result.tokenising_us < 1e4
    operations = model_operations(scorer, scorer.count_tokens(items)) / len(items)
    assert result.share_of_limit == pytest.approx(result.texts_per_second * operations / 100e9)
    assert json.loads(json.dumps(result.to_dict()))["texts"] == 50


def test_the_operations_of_a_model_are_those_of_its_products(shaped):
    scorer = Scorer.from_bundle(shaped, "cpu", 1)
    tokens, hidden, inner = 10, SHAPE["hidden"], SHAPE["intermediate"]
    products = 4 * 2 * tokens * hidden * hidden + 2 * 2 * tokens * hidden * inner
    attention = 2 * 2 * tokens * tokens * hidden
    assert model_operations(scorer, np.array([tokens])) == SHAPE["layers"] * (products + attention)


def test_generated_items_are_reproducible_and_of_comment_length():
    items = generated_items(2000)
    assert items == generated_items(2000)
    assert 20 < np.mean([len(item.text) for item in items]) < 32
    assert all(isinstance(item, Comment) for item in items)


def test_no_share_without_a_recorded_shape(tiny_bundle):
    scorer = Scorer.from_bundle(tiny_bundle, "cpu", 1)
    assert benchmark(scorer, generated_items(3), rounds=1).share_of_limit is None
    with pytest.raises(BundleError, match="does not record its shape"):
        benchmark(scorer, generated_items(3), rounds=1, peak_gops=1.0)


def test_the_command_prints_a_table_and_writes_json(shaped, write_jsonl, tmp_path):
    texts = write_jsonl([{"text": "加我微信"}, {"text": "晚霞好温柔"}])
    target = tmp_path / "bench.json"
    arguments = ["bench", "--bundle", shaped, "--texts", texts, "--rounds", 1, "--threads", 1, "--json", target]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert "texts/s" in result.output
    assert json.loads(target.read_text(encoding="utf-8"))["texts"] == 2


def test_an_empty_file_is_an_error(shaped, write_jsonl):
    result = CliRunner().invoke(app, ["bench", "--bundle", str(shaped), "--texts", str(write_jsonl([]))])
    assert "no rows to measure with" in str(result.exception)
