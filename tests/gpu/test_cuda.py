"""On a machine with a CUDA device: it is what runs, its scores are those of the CPU, and full memory is survived.

Run with `pytest -m gpu tests/gpu`. Needs onnxruntime-gpu in place of onnxruntime; torch stays on the CPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from shudun import DeviceError, Scorer
from shudun.batching import Batching
from shudun.devices import GpuSettings
from shudun.rows import RowReader, parse_item
from shudun.scorer import BATCHING
from shudun.session import GraphSession
from shudun_training.export_graph import export_graph
from shudun_training.finetune import predict_logits
from shudun_training.fused_graph_cuda import build_cuda_graph

CUDA = "CUDAExecutionProvider"
VALIDATION = Path(__file__).parents[2] / "data_cards" / "shudun-xhs" / "validation.jsonl"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="this onnxruntime has no CUDA"),
]


@pytest.fixture(scope="module")
def rows():
    return list(RowReader(VALIDATION, parse_item))


@pytest.fixture(scope="module", params=[(128, 2), (104, 4)], ids=["head-64", "head-26"])
def model(request, trained):
    """Heads of 64 take the memory-efficient attention kernel, heads of 26 the plain one."""
    hidden, heads = request.param
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=trained.encoder.vocab_size, hidden_size=hidden, num_hidden_layers=4, num_attention_heads=heads,
        intermediate_size=4 * hidden, max_position_embeddings=64, num_labels=4,
    )  # fmt: skip
    made = BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made.eval()


@pytest.fixture(scope="module")
def expected(model, trained, rows):
    return predict_logits(model, trained.encoder, rows)


def outputs(session, trained, rows, batching=BATCHING["cuda"]):
    return session.start(trained.encoder.encode(rows), batching)()


def test_every_node_of_the_fp16_graph_runs_on_cuda(model):
    session = GraphSession(build_cuda_graph(model), device="cuda", precision="fp16")
    own = session._own().session
    assert (session.device, own.get_providers()[0]) == ("cuda", CUDA)
    assert {part.ep_name for part in own.get_provider_graph_assignment_info()} == {CUDA}
    assert GraphSession(build_cuda_graph(model), precision="fp16").device == "cuda"


@pytest.mark.parametrize(("half", "worst", "mean"), [(False, 2e-4, 2e-5), (True, 0.02, 0.003)])
def test_cuda_equals_torch_on_real_rows(half, worst, mean, model, trained, rows, expected):
    got = outputs(GraphSession(build_cuda_graph(model, half=half), device="cuda"), trained, rows)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == np.float32
        assert np.abs(a - b).max() < worst * max(1, b.std())
        assert np.abs(a - b).mean() < mean * max(1, b.std())


def test_the_cpu_form_of_the_graph_runs_on_cuda_too(model, trained, rows, expected):
    got = outputs(GraphSession(export_graph(model).graph, device="cuda"), trained, rows)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_neighbours_and_padding_move_no_score_beyond_rounding(model, trained, rows):
    session = GraphSession(build_cuda_graph(model), device="cuda")
    some = rows[:200]
    alone = outputs(session, trained, some, Batching(1))
    for batching in (Batching(1000, 16), Batching(16384, 32), Batching(300, 1)):
        for a, b in zip(outputs(session, trained, some, batching), alone, strict=True):
            np.testing.assert_allclose(a, b, atol=0.02 * max(1, b.std()))


def test_the_same_batch_gives_the_same_bits(model, trained, rows):
    session = GraphSession(build_cuda_graph(model), device="cuda")
    first, second = (outputs(session, trained, rows) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_full_memory_halves_the_batches_and_every_row_comes_back(model, trained, rows, caplog):
    graph, many = build_cuda_graph(model), (rows * 20)[:8000]
    free = GraphSession(graph, device="cuda")
    tight = GraphSession(graph, device="cuda", gpu=GpuSettings(memory=len(graph) + 12_000_000))
    wide = Batching(65536, 16)
    for a, b in zip(outputs(tight, trained, many, wide), outputs(free, trained, many, wide), strict=True):
        np.testing.assert_allclose(a, b, atol=0.02 * max(1, b.std()))
    assert "exhausted memory" in caplog.text
    said = len(caplog.records)
    outputs(tight, trained, many, wide)
    assert len(caplog.records) == said


def test_a_limit_below_the_weights_is_refused(model):
    with pytest.raises(DeviceError, match=r"does not fit in memory|does not run here"):
        GraphSession(build_cuda_graph(model), device="cuda", gpu=GpuSettings(memory=300_000))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_bundle_scores_the_same_rows_on_the_cpu_and_on_cuda(precision, make_bundle, trained, rows, tmp_path):
    graph = export_graph(trained.model, precision=precision).graph
    folder = make_bundle(tmp_path / precision, precision=precision, graph=graph)
    tolerance = 1e-4 if precision == "fp32" else 0.01
    cpu, cuda = (Scorer.from_bundle(folder, device) for device in ("cpu", "cuda"))
    before, after = cpu.score(rows), cuda.score(rows)
    assert [row.id for row in before] == [row.id for row in after]
    for a, b in zip(before, after, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=tolerance)
        if min(abs(score - 0.5) for score in a.scores.values()) > tolerance:
            assert (a.labels, a.primary_label, a.truncated) == (b.labels, b.primary_label, b.truncated)
    assert [row.to_dict() for row in cuda.score_iter(rows)] == [row.to_dict() for row in after]


def test_int8_has_no_place_on_cuda(model, trained, rows):
    graph = export_graph(model, precision="int8", encoder=trained.encoder, calibration_items=rows[:64]).graph
    with pytest.raises(DeviceError, match=r"MatMulIntegerToFloat.* would not run on CUDA"):
        GraphSession(graph, device="cuda")
    with pytest.raises(DeviceError, match="no GPU kernels"):
        GraphSession(graph, device="cuda", precision="int8")
