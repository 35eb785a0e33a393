"""The GPU benchmark on a CPU: every way runs and computes the same model, and what cannot run says why."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(ROOT / "scripts"))
    import bench_gpu
    import gpu_ways

    yield bench_gpu, gpu_ways
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def work(scripts):
    bench_gpu, _ = scripts
    bench_gpu.CHARACTERS, bench_gpu.VOCABULARY = bench_gpu.CHARACTERS[:500], 700
    model, tokenizer = bench_gpu.make_model(2, 64)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():  # fresh weights give nearly the same logits for every text
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=noise))
    return bench_gpu.make_workload(model, tokenizer, "mix", 24)


def test_every_way_computes_the_same_model(scripts, work):
    _, gpu_ways = scripts
    habits = list(gpu_ways.habit_ways(work, "cpu"))
    expected = next(way for way in habits if way.precision == "fp32").run(24)
    spread = expected.std(axis=0).mean()
    assert spread > 0.1
    ways = [*gpu_ways.onnx_ways(work, "cpu"), *gpu_ways.torch_ways(work, "cpu", compiled=False), *habits]
    assert len({(way.name, way.precision) for way in ways}) == len(ways)
    for way in ways:
        got = way.run(24)
        assert got.shape == expected.shape, way.name
        if "pipeline" not in way.name:  # that one sorts the labels of each text by score
            share = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.1}[way.precision]
            assert np.abs(got - expected).mean() < share * spread, (way.name, way.precision)


def test_packed_texts_need_no_padding(scripts, work):
    _, gpu_ways = scripts
    packed = gpu_ways.PackedBert(work.copy("cpu", torch.float32), gpu_ways.packed_attention("cpu"))
    np.testing.assert_allclose(
        gpu_ways._run_packed(work, packed, 24), gpu_ways._run_torch(work, packed.model, 24), atol=1e-4
    )


@pytest.mark.parametrize(("lengths", "expected"), [("24", [24] * 9), ("64", [64] * 9)])
def test_texts_of_a_fixed_length_have_it(scripts, work, lengths, expected):
    made = scripts[0].make_workload(work.model, work.tokenizer, lengths, 9)
    assert made.encoded.lengths.tolist() == expected
    assert made.head(4).lengths.tolist() == expected[:4]


def test_the_script_writes_a_row_for_every_way(scripts, tmp_path, capsys):
    target = tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--shape", "2x64", "--count", "12", "--lengths", "24", "--rounds", "1"]
    scripts[0].main([*arguments, "--json", str(target)])
    content = json.loads(target.read_text(encoding="utf-8"))
    assert {row["status"] for row in content["rows"]} == {"measured"}
    assert {(row["way"], row["precision"]) for row in content["rows"]} >= {
        ("shudun, 16384 tokens, threads 1", "fp16"),
        ("shudun, 16384 tokens, threads 1, from texts", "fp16"),
        ("torch SDPA, like lengths", "bf16"),
        ("torch packed", "bf16"),
    }
    for row in content["rows"]:
        operations = 2 * (24 * 64**2 * 24 + 4 * 24**2 * 64)
        assert row["tokens_per_s"] == pytest.approx(row["texts_per_s"] * 24)
        assert row["share_of_stated_peak"] == pytest.approx(row["texts_per_s"] * operations / 790e12)
    assert "torch packed" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_what_cannot_run_here_has_a_row_that_says_why(scripts, work):
    bench_gpu, gpu_ways = scripts
    ways = [*gpu_ways.onnx_ways(work, "cuda")]
    assert all(way.run is None for way in ways)
    assert "shudun[gpu]" in ways[0].status
    broken = gpu_ways.Way("broken", "fp16", tokenising=False, run=lambda n: np.full((n, 2), np.nan))
    options = bench_gpu._options(["--count", "24", "--rounds", "1"])
    results = list(bench_gpu.measure([*ways, broken], work, options, ends=float("inf")))
    assert "not finite" in results[-1][1]
    assert not any(speeds for _, _, speeds in results)
    late = gpu_ways.Way("late", "fp16", tokenising=False, run=lambda n: np.zeros((n, 2)))
    assert [status for _, status, _ in bench_gpu.measure([late], work, options, ends=0.0)] == ["out of time"]
