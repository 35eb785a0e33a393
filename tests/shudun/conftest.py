"""Fixtures for the scoring package: a model whose scores differ visibly from text to text, and ways to damage it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

# These tests import onnxruntime themselves, and so before shudun can tell it not to report its use.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from shudun import Scorer
from shudun.batching import Batching
from shudun.calibration import Calibration
from shudun.cli import main
from shudun.session import GraphSession

EditArray = Callable[[str, np.ndarray], np.ndarray]


@pytest.fixture
def shudun(monkeypatch, capsys):
    """Run the command in this process; returns exit code, stdout and stderr, wrapping and frames removed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["shudun", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code or 0, tidy(out), tidy(err)

    return run


def tidy(text):
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    return " ".join(re.sub(r"[─-╿]+", " ", text).split())


@pytest.fixture(scope="session")
def edit_weights() -> Callable[[bytes, EditArray], bytes]:
    """Replace every float weight of a graph by `edit(name, array)`."""

    def edited(graph: bytes, edit: EditArray) -> bytes:
        model = onnx.load_from_string(graph)
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.dtype == np.float32:
                tensor.CopyFrom(numpy_helper.from_array(edit(tensor.name, array.copy()), tensor.name))
        return model.SerializeToString()

    return edited


@pytest.fixture(scope="session")
def vivid_graph(trained, edit_weights) -> bytes:
    """The tiny graph with larger inner weights: random ones of the usual size hardly tell texts apart."""
    return edit_weights(trained.graph, lambda name, w: w * 8 if w.ndim == 2 and "embeddings" not in name else w)


@pytest.fixture(scope="session")
def calibration(vivid_graph, trained, items) -> Calibration:
    """Puts the scores of each label to both sides of 0.5, where a difference shows."""
    logits, _ = GraphSession(vivid_graph, device="cpu", threads=1).start(trained.encoder.encode(items), Batching(512))()
    slope = 2.0 / logits.std(axis=0).astype(np.float64)
    return Calibration(slope, -slope * logits.mean(axis=0))


@pytest.fixture(scope="session")
def make_vivid(make_bundle, vivid_graph, calibration, tmp_path_factory) -> Callable[..., Path]:
    """A new bundle folder of the vivid model; keyword arguments replace its parts."""

    def make(**parts: object) -> Path:
        vivid = {"graph": vivid_graph, "calibration": calibration}
        return make_bundle(tmp_path_factory.mktemp("bundles") / "vivid", **(vivid | parts))

    return make


@pytest.fixture(scope="session")
def bundle(make_vivid) -> Path:
    return make_vivid()


@pytest.fixture(scope="session")
def scorer(bundle) -> Scorer:
    return Scorer.from_bundle(bundle, "cpu", 1)


@pytest.fixture
def copied(bundle, tmp_path) -> Path:
    """A bundle folder of the test's own, to damage."""
    return Path(shutil.copytree(bundle, tmp_path / "copied"))


@pytest.fixture
def reseal() -> Callable[[Path], None]:
    """Make the manifest of a changed bundle agree with its files again, as somebody who tampers would."""

    def seal(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for name in manifest["files"]:
            data = (folder / name).read_bytes()
            manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    return seal
