"""The training benchmark on a CPU: every recipe runs, sees the same rows, and is counted in the same way."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["--shape", "1x16", "--texts", "short", "--rows", "40", "--max-length", "48", "--rounds", "1"]


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(ROOT / "scripts"))
    import bench_training
    import training_jobs
    import training_recipes

    training_jobs.VOCABULARY = 800
    yield bench_training, training_jobs, training_recipes
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def job(scripts, tmp_path_factory):
    bench, jobs, _ = scripts
    return next(jobs.make_jobs(bench._options(SMALL), tmp_path_factory.mktemp("job")))


def test_the_script_measures_every_recipe_on_the_same_rows(scripts, tmp_path, capsys):
    bench, _, _ = scripts
    target = tmp_path / "training.json"
    bench.main(
        [*SMALL, "--batch-size", "8", "--threads", "1", "--ours", "other:weight_decay=0.0", "--json", str(target)]
    )
    content = json.loads(target.read_text(encoding="utf-8"))
    rows = {row["recipe"]: row for row in content["rows"]}
    assert set(rows) >= {"shudun", "shudun, fp32", "shudun, other", "stock Trainer", "example"}
    assert rows["stock Trainer"]["times_stock"] == 1.0
    for name, row in rows.items():
        assert row["status"] == "1 rounds", name
        assert (row["updates"], row["train_rows"]) == (10, 40), name
        assert row["tokens_per_s"] == pytest.approx(row["rows_per_s"] * row["mean_tokens"])
        assert 0 < row["share_of_measured_peak"] < 1
        assert 0 <= row["quality"]["macro_ap"] <= 1
        assert len(row["epoch_seconds_by_round"][0]) == 2
        whole = sum(row["epoch_seconds_by_round"][0])
        assert row["rows_per_s"] == pytest.approx(80 / whole)
        assert row["whole_fit_seconds"] > whole
    assert "stock Trainer" in capsys.readouterr().out


def test_operations_are_those_of_the_formula(scripts):
    shape = {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072}
    lengths = np.array([24, 64])
    expected = sum(3 * s * (24 * 12 * 768**2 + 4 * 12 * s * 768) for s in (24, 64))
    assert scripts[0].training_operations(shape, lengths) == expected


def test_recipes_differ_in_padding_alone_and_peers_see_the_real_tokens(scripts, job):
    _, _, recipes = scripts
    padded, ragged = (recipes._columns(job.train, job, padded=choice) for choice in (True, False))
    assert {len(row) for row in padded["input_ids"]} == {48}
    for row, short, length in zip(padded, ragged, job.lengths(), strict=True):
        assert row["input_ids"][:length] == short["input_ids"]
        assert set(row["input_ids"][length:]) <= {job.encoder.pad_id}
        assert row["attention_mask"] == [1] * length + [0] * (48 - length)
        assert row["labels"] == short["labels"]


@pytest.mark.parametrize(("texts", "low", "high"), [("short", 20, 32), ("long", 200, 400)])
def test_generated_texts_have_the_lengths_that_they_say(scripts, texts, low, high, tmp_path):
    bench, jobs, _ = scripts
    made = next(jobs.make_jobs(bench._options([*SMALL[:2], "--texts", texts, "--rows", "200"]), tmp_path))
    assert low < made.lengths().mean() < high
    assert len(made.train) == 200
    assert not {row.item.text for row in made.train} & {row.item.text for row in made.validation}
    assert any(row.labels for row in made.validation)


def test_what_breaks_or_comes_too_late_says_so_and_ends_nothing_else(scripts, job, tmp_path):
    bench, _, recipes = scripts

    def broken(job, seed, folder):
        raise RuntimeError("out of memory")

    def fine(job, seed, folder):
        return recipes.Outcome([2.0, 1.0], 4.0, 3, {"macro_ap": 0.5, "macro_f1_at_half": 0.5})

    def slow(job, seed, folder):
        return recipes.Outcome([4.0, 4.0], 9.0, 3, {"macro_ap": 0.5, "macro_f1_at_half": 0.5})

    chosen = [recipes.Recipe(name, "fp32", run) for name, run in (("a", broken), ("b", fine), (recipes.STOCK, slow))]
    found = bench.measure(job, chosen, 2, float("inf"), tmp_path)
    a, b, stock = bench.measured_rows(job, found, {"fp32": 1e9})
    assert a["status"] == "failed: RuntimeError: out of memory"
    assert (b["status"], b["times_stock"], stock["times_stock"]) == ("2 rounds", pytest.approx(8 / 3), 1.0)
    assert b["rows_per_s"] == pytest.approx(40 / 1.5)
    assert b["tokens_per_s_after_first_epoch"] == pytest.approx(job.lengths().sum())
    late = bench.measure(job, chosen[1:], 2, 0.0, tmp_path)
    assert set(late.values()) == {"out of time"}


def test_options_of_ours_are_read_and_unknown_ones_refused(scripts, job, tmp_path):
    bench, _, recipes = scripts
    options = bench._options(["--ours", "big:per_device_train_batch_size=64,bf16=false"])
    assert options.ours == [("shudun, big", {"per_device_train_batch_size": 64, "bf16": False})]
    with pytest.raises(SystemExit):
        bench._options(["--ours", "big"])
    chosen = recipes.recipes("cpu", bf16=False, extra={"shudun, odd": {"no_such": 1}})
    odd = [recipe for recipe in chosen if recipe.name == "shudun, odd"]
    found = bench.measure(job, odd, 1, float("inf"), tmp_path)
    assert "no_such" in found[odd[0]]
