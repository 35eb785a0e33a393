"""Bundles: written whole or not at all, read back as written, and refused as soon as anything was touched."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import pytest

from shudun import BundleError, ShudunError, Taxonomy, read_bundle
from shudun.bundle import FILES, MANIFEST
from shudun.calibration import Calibration
from shudun.normalization import NORMALIZER_VERSION

ALL_FILES = [*FILES, MANIFEST]
JSON_FILES = [name for name in ALL_FILES if name.endswith(".json")]


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def store(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


def open_descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112, PTH208


# --- what was written is what is read -------------------------------------------------------------------------


def test_a_bundle_is_read_back_as_it_was_written(make_bundle, trained, taxonomy, policy, points, tmp_path):
    calibration = Calibration.identity(len(taxonomy.labels))
    parts = {"metrics": {"f1": 0.5, "note": "微"}, "provenance": {"encoder": "tiny"}, "calibration": calibration}
    bundle = read_bundle(make_bundle(tmp_path / "deep" / "bundle", **parts))
    assert bundle.graph == trained.graph
    assert bundle.tokenizer.to_json() == trained.encoder.to_json()
    assert bundle.tokenizer.max_length == bundle.manifest.max_length == trained.encoder.max_length
    assert (bundle.taxonomy, bundle.policy, bundle.points) == (taxonomy, policy, points)
    assert bundle.calibration.slope.tolist() == calibration.slope.tolist()
    assert bundle.metrics == parts["metrics"]
    assert (bundle.manifest.name, bundle.manifest.precision) == ("tiny", "fp32")
    assert bundle.manifest.provenance == parts["provenance"]


def test_the_same_parts_give_the_same_bytes(make_bundle, tmp_path):
    one, two = make_bundle(tmp_path / "one"), make_bundle(tmp_path / "two")
    assert sorted(path.name for path in one.iterdir()) == sorted(ALL_FILES)
    for name in ALL_FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_a_moved_bundle_is_still_the_same(bundle, copied):
    assert read_bundle(str(copied)).manifest == read_bundle(bundle).manifest


# --- damage and tampering -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_noticed(copied, name, place):
    path = copied / name
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}: contents do not match the manifest"):
        read_bundle(copied)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_noticed(copied, name):
    path = copied / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=f"{name}: contents do not match the manifest"):
        read_bundle(copied)


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_missing_file_is_refused(copied, name):
    (copied / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: cannot be read: No such file"):
        read_bundle(copied)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(BundleError, match="is this a complete bundle folder"):
        read_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_symbolic_link_is_refused_even_to_the_right_contents(copied, tmp_path, name):
    (copied / name).rename(tmp_path / "elsewhere")
    (copied / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=f"{name}: cannot be read"):
        read_bundle(copied)


@pytest.mark.parametrize("name", ALL_FILES)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "folder"])
def test_a_pipe_or_a_folder_is_refused_without_waiting_or_leaking(copied, name, make):
    (copied / name).unlink()
    make(copied / name)
    before = open_descriptors()
    with pytest.raises(BundleError, match=f"{name}: expected a regular file"):
        read_bundle(copied)
    assert open_descriptors() == before


@pytest.mark.parametrize("name", FILES)
def test_a_file_larger_than_the_manifest_says_is_refused_unread(copied, name):
    os.truncate(copied / name, 1 << 40)
    with pytest.raises(BundleError, match=f"{name}: {1 << 40} bytes, more than the"):
        read_bundle(copied)


def test_a_file_beyond_any_graph_is_refused_unread_even_when_the_manifest_allows_it(copied):
    manifest = load(copied / MANIFEST)
    manifest["files"]["model.onnx"]["bytes"] = 1 << 40
    store(copied / MANIFEST, manifest)
    os.truncate(copied / "model.onnx", 1 << 40)
    with pytest.raises(BundleError, match=r"model\.onnx: .* bytes, more than the"):
        read_bundle(copied)


def test_an_oversized_manifest_is_refused_unread(copied):
    os.truncate(copied / MANIFEST, 1 << 40)
    with pytest.raises(BundleError, match=r"manifest\.json: .* bytes, more than the"):
        read_bundle(copied)


@pytest.mark.parametrize("version", [0, 1, 3, -1, "2", None, [2]])
def test_another_format_version_is_refused(copied, version):
    store(copied / MANIFEST, load(copied / MANIFEST) | {"format_version": version})
    with pytest.raises(BundleError, match="this shudun reads 2; export the bundle again"):
        read_bundle(copied)


@pytest.mark.parametrize("version", ["0", NORMALIZER_VERSION + "x", None, 1])
def test_a_bundle_of_another_normaliser_is_refused(copied, version):
    assert load(copied / MANIFEST)["normalizer"] == NORMALIZER_VERSION
    store(copied / MANIFEST, load(copied / MANIFEST) | {"normalizer": version})
    with pytest.raises(BundleError, match=f"normaliser {version!r}, this shudun has '{NORMALIZER_VERSION}'; train"):
        read_bundle(copied)


def test_a_manifest_without_a_normaliser_is_refused(copied):
    manifest = load(copied / MANIFEST)
    del manifest["normalizer"]
    store(copied / MANIFEST, manifest)
    with pytest.raises(BundleError, match="incomplete or mistyped"):
        read_bundle(copied)


@pytest.mark.parametrize("name", ["../outside.json", "/etc/hostname", "extra.json", "sub/model.onnx", "", "\x00"])
@pytest.mark.parametrize("instead", [None, "metrics.json"], ids=["added", "instead"])
def test_a_manifest_that_names_other_files_is_refused(copied, name, instead):
    (copied.parent / "outside.json").write_bytes((copied / "metrics.json").read_bytes())
    manifest = load(copied / MANIFEST)
    manifest["files"][name] = manifest["files"]["metrics.json"]
    manifest["files"].pop(instead, None)
    store(copied / MANIFEST, manifest)
    with pytest.raises(BundleError, match="expected exactly the files"):
        read_bundle(copied)


@pytest.mark.parametrize("value", [7, 0, -1, 65537, 32.0, "32", None, True])
def test_an_impossible_max_length_is_refused(copied, value):
    store(copied / MANIFEST, load(copied / MANIFEST) | {"max_length": value})
    with pytest.raises(BundleError, match="max_length must be 8 to 65536"):
        read_bundle(copied)


# --- parts that are sound alone but do not belong together ----------------------------------------------------


@pytest.mark.parametrize("file", ["calibration.json", "taxonomy.json"])
def test_permuted_labels_are_refused(copied, reseal, file):
    content = load(copied / file)
    labels = content["labels"]
    content["labels"] = dict(reversed(labels.items())) if isinstance(labels, dict) else labels[::-1]
    store(copied / file, content)
    reseal(copied)
    with pytest.raises(BundleError, match=r"expected labels .* in this order"):
        read_bundle(copied)


def test_a_label_without_threshold_is_refused(copied, reseal):
    thresholds = load(copied / "calibration.json")
    del thresholds["labels"]["shill"]["threshold"]
    store(copied / "calibration.json", thresholds)
    reseal(copied)
    with pytest.raises(BundleError, match="incomplete or mistyped entry"):
        read_bundle(copied)


def test_thresholds_of_another_graph_are_refused(copied, tiny_bundle, reseal):
    shutil.copy(tiny_bundle / "model.onnx", copied / "model.onnx")
    reseal(copied)
    with pytest.raises(BundleError, match=r"the thresholds were fitted with another model\.onnx"):
        read_bundle(copied)


def test_thresholds_of_another_tokenizer_are_refused(copied, reseal):
    definition = load(copied / "tokenizer.json")
    vocabulary = definition["model"]["vocab"]
    vocabulary["微"], vocabulary["信"] = vocabulary["信"], vocabulary["微"]
    store(copied / "tokenizer.json", definition)
    reseal(copied)
    with pytest.raises(BundleError, match=r"the thresholds were fitted with another tokenizer\.json"):
        read_bundle(copied)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff{}", b"[]", b"null", b"[" * 100_000], ids=["empty", "cut", "utf8", "list", "null", "deep"]
)
@pytest.mark.parametrize("name", JSON_FILES)
def test_what_is_no_json_object_is_refused(copied, reseal, name, data):
    (copied / name).write_bytes(data)
    if name != MANIFEST:
        reseal(copied)
    with pytest.raises(BundleError):
        read_bundle(copied)


def nodes(value, path=()):
    """Paths to every value in parsed JSON; of many alike entries the first stands for all."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(entries)[:3]:
        yield from nodes(child, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    changed = copy.deepcopy(value)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return changed


@pytest.mark.parametrize("odd", [None, 5, 1e999, 10**400, "x", [], [["x"]], {"x": 1}], ids=lambda x: f"{x!r:.9}")
@pytest.mark.parametrize("name", ["manifest.json", "taxonomy.json", "calibration.json", "policy.json", "metrics.json"])
def test_an_odd_value_anywhere_is_harmless_or_refused(copied, reseal, name, odd):
    sound = load(copied / name)
    for path in nodes(sound):
        store(copied / name, replaced(sound, path, odd))
        if name != MANIFEST:
            reseal(copied)
        try:
            read_bundle(copied)
        except BundleError:
            continue


# --- writing --------------------------------------------------------------------------------------------------


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_earlier_bundle_and_an_empty_folder_are_replaced(make_bundle, tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    make_bundle(folder, name="first")
    make_bundle(folder, name="second")
    assert read_bundle(folder).manifest.name == "second"
    assert entries(tmp_path) == ["bundle"]


def test_a_bundle_of_another_format_version_is_replaced(make_bundle, copied):
    store(copied / MANIFEST, {"format_version": 99, "files": {}})
    make_bundle(copied)
    read_bundle(copied)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", "irreplaceable"),
        ("manifest.json", '{"name": "a browser extension", "manifest_version": 3}'),
        ("manifest.json", "[]"),
        ("manifest.json", "not JSON"),
        ("model.onnx", "another model"),
    ],
)
def test_a_folder_that_is_no_bundle_is_left_alone(make_bundle, tmp_path, name, content):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        make_bundle(folder)
    assert (folder / name).read_text(encoding="utf-8") == content
    assert entries(folder) == [name]
    assert entries(tmp_path) == ["mine"]


def test_a_file_or_a_link_is_left_alone(make_bundle, copied, tmp_path):
    (tmp_path / "file").write_text("irreplaceable", encoding="utf-8")
    (tmp_path / "link").symlink_to(copied)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "dangling"):
        with pytest.raises(BundleError, match="exists and is not a bundle"):
            make_bundle(tmp_path / name)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "irreplaceable"
    read_bundle(tmp_path / "link")
    assert entries(tmp_path) == ["copied", "dangling", "file", "link"]


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ({"metrics": {"f1": float("nan")}}, ValueError),
        ({"metrics": {"f1": object()}}, TypeError),
        ({"provenance": {"log": "x" * (1 << 20)}}, BundleError),
        ({"points": ()}, ValueError),
    ],
    ids=["nan", "not JSON", "refused when read back", "missing points"],
)
def test_a_failed_write_leaves_the_earlier_bundle(make_bundle, copied, parts, error):
    before = {name: (copied / name).read_bytes() for name in ALL_FILES}
    with pytest.raises(error):
        make_bundle(copied, **parts)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert entries(copied.parent) == ["copied"]


def test_a_failed_first_write_leaves_nothing(make_bundle, tmp_path):
    with pytest.raises(BundleError):
        make_bundle(tmp_path / "bundle", provenance={"log": "x" * (1 << 20)})
    assert entries(tmp_path) == []


@pytest.mark.parametrize("nth", [1, 2])
def test_a_failed_rename_leaves_the_earlier_bundle(make_bundle, copied, monkeypatch, nth):
    rename, calls = Path.rename, []

    def failing(self, target):
        calls.append(target)
        if len(calls) == nth:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    name = read_bundle(copied).manifest.name
    with pytest.raises(OSError, match="No space left"):
        make_bundle(copied, name="never arrives")
    assert read_bundle(copied).manifest.name == name
    assert entries(copied.parent) == ["copied"]


def test_labels_that_do_not_fit_the_calibration_are_not_written(make_bundle, taxonomy, tmp_path):
    longer = taxonomy.to_dict()
    longer["labels"] = [*longer["labels"], longer["labels"][0] | {"id": "one_more"}]
    with pytest.raises((ShudunError, ValueError)):
        make_bundle(tmp_path / "bundle", taxonomy=Taxonomy.from_dict(longer))
    assert entries(tmp_path) == []
