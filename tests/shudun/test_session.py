"""Sessions: run where they were asked to, refuse foreign graphs, survive pickling and forking."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from shudun import BundleError, DeviceError, Scorer
from shudun.batching import Batching
from shudun.session import INPUTS, OUTPUTS, GraphSession
from shudun.threads import ENVIRONMENT_VARIABLE

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def small_graph(*, inputs=INPUTS, outputs=OUTPUTS, width=3):
    """A graph that casts its first input to float and gives that for every output."""
    graph = helper.make_graph(
        [helper.make_node("Cast", [inputs[0]], [name], to=TensorProto.FLOAT) for name in outputs],
        "small",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", width]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")
def test_cuda_that_is_not_there_is_refused_with_the_install_line(trained):
    with pytest.raises(DeviceError, match=r"no CUDAExecutionProvider.*pip install 'shudun\[gpu\]'"):
        GraphSession(trained.graph, device="cuda")


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")
def test_auto_takes_what_is_there_and_says_so(trained):
    assert GraphSession(trained.graph, device="auto").device == "cpu"


@pytest.mark.parametrize("device", ["gpu", "CPU", "cuda:0", "", None])
def test_an_unknown_device_is_refused(trained, device):
    with pytest.raises(DeviceError, match="device: expected auto, cpu, cuda or tensorrt, got"):
        GraphSession(trained.graph, device=device)


@pytest.mark.parametrize("threads", [0, -1, "many"])
def test_an_unusable_thread_count_is_refused(trained, threads):
    with pytest.raises(DeviceError, match="threads: expected a positive whole number"):
        GraphSession(trained.graph, device="cpu", threads=threads)


def test_an_unusable_thread_count_in_the_environment_is_refused(trained, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "many")
    with pytest.raises(DeviceError, match=ENVIRONMENT_VARIABLE):
        GraphSession(trained.graph, device="cpu")


@pytest.mark.parametrize("graph", [b"", b"\x00", b"PK\x03\x04", b"\x80\x04K\x01.", b"\xff" * 1000])
def test_bytes_that_are_no_graph_are_refused(graph):
    with pytest.raises(BundleError, match=r"model\.onnx: "):
        GraphSession(graph, device="cpu", threads=1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_cut_graph_is_refused(trained, share):
    with pytest.raises(BundleError, match=r"model\.onnx: "):
        GraphSession(trained.graph[: int(share * len(trained.graph))], device="cpu", threads=1)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"inputs": INPUTS[:2]}, "expected inputs .*'token_type_ids'"),
        ({"inputs": (*INPUTS, "position_ids")}, "expected inputs .* got .*'position_ids'"),
        ({"inputs": ("ids", "mask", "types")}, "expected inputs"),
        ({"outputs": ("logits",)}, "expected outputs .* got"),
        ({"outputs": ("logits", "pooled")}, "expected outputs .* got .*'pooled'"),
    ],
)
def test_a_graph_with_other_inputs_or_outputs_is_refused(parts, message):
    GraphSession(small_graph(), device="cpu", threads=1)
    with pytest.raises(BundleError, match=message):
        GraphSession(small_graph(**parts), device="cpu", threads=1)


def test_a_graph_without_a_fixed_number_of_labels_is_refused(make_bundle, tmp_path):
    graph = small_graph(width="seq_len")
    with pytest.raises(BundleError, match="fixed last axis"):
        _ = GraphSession(graph, device="cpu", threads=1).widths
    with pytest.raises(BundleError, match="fixed last axis"):
        Scorer.from_bundle(make_bundle(tmp_path / "bundle", graph=graph), "cpu", 1)


@pytest.mark.parametrize("location", ["weights.bin", "./weights.bin", "{here}/weights.bin", "../{name}/weights.bin"])
def test_weights_outside_the_verified_bytes_are_refused(trained, tmp_path, monkeypatch, location):
    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(trained.graph)
    tensor = next(x for x in model.graph.initializer if x.name.endswith("classifier.weight"))
    (tmp_path / "weights.bin").write_bytes(tensor.raw_data)
    fields = {"location": location.format(here=tmp_path, name=tmp_path.name), "offset": "0"}
    fields["length"] = str(len(tensor.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in fields.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    with pytest.raises(BundleError, match=r"model\.onnx: "):
        GraphSession(model.SerializeToString(), device="cpu", threads=1)


def test_widths_are_those_of_the_model(trained, taxonomy):
    session = GraphSession(trained.graph, device="cpu", threads=1)
    assert session.widths == (len(taxonomy.labels), trained.model.config.hidden_size)
    logits, embeddings = session.start(trained.encoder.encode([]), Batching(512))()
    assert (logits.shape, embeddings.shape) == ((0, len(taxonomy.labels)), (0, trained.model.config.hidden_size))


@pytest.mark.parametrize("batch_tokens", [1, 64, 512, 100_000])
@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_do_not_depend_on_batches_or_threads(vivid_graph, trained, items, batch_tokens, threads):
    encoded = trained.encoder.encode(items)
    expected = GraphSession(vivid_graph, device="cpu", threads=1).start(encoded, Batching(512))()
    got = GraphSession(vivid_graph, device="cpu", threads=threads).start(encoded, Batching(batch_tokens))()
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_pickled_session_gives_the_same_outputs(vivid_graph, trained, items):
    session = GraphSession(vivid_graph, device="cpu", threads=1)
    again = pickle.loads(pickle.dumps(session))  # noqa: S301
    encoded = trained.encoder.encode(items)
    for a, b in zip(*(x.start(encoded, Batching(512))() for x in (session, again)), strict=True):
        assert (a == b).all()


FORK = """
import os, pickle, sys
from shudun import Comment, Note, Scorer

items = [Comment("加我微信"), Note("晚霞", "好温柔"), Comment("求链接" * 30, parent_text="怎么买"), Comment("")] * 20
scorer = Scorer.from_bundle(sys.argv[1], "cpu", 2)
inherited = scorer._session._own()
expected = scorer.score(items)  # threads of the session and of the tokenizer are running when the fork comes

def in_child(work):
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit(7)  # an ordinary end, with all of Python's and onnxruntime's cleaning up
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7

def same(own):
    assert own.score(items) == expected

def makes_its_own():
    same(scorer)
    assert scorer._session._own() is not inherited

def grandchild():
    same(scorer)
    in_child(lambda: same(scorer))

for work in (makes_its_own, lambda: same(pickle.loads(pickle.dumps(scorer))), grandchild, lambda: None):
    in_child(work)
    same(scorer)
print("same scores")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_gives_the_same_scores_and_ends(bundle):
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(bundle)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert done.stdout.strip() == "same scores", done.stderr
