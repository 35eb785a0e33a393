"""The shipped folder: one model with everything needed to score, each file pinned by its sha256.

A bundle is written whole or not at all, and read once: the bytes that were hashed are the bytes that are
parsed. The hashes guard against damage and mix-ups; they are no signature, so take bundles from people you trust.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shudun.calibration import Calibration, OperatingPoint, calibration_from_dict, calibration_to_dict
from shudun.errors import BundleError, TaxonomyError
from shudun.normalization import NORMALIZER_VERSION
from shudun.policy import Policy
from shudun.taxonomy import Taxonomy
from shudun.tokenization import ItemTokenizer

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
GRAPH = "model.onnx"
FILES = (GRAPH, "tokenizer.json", "taxonomy.json", "calibration.json", "policy.json", "metrics.json")
MANIFEST_BYTES = 1 << 20
FILE_BYTES = 2 << 30
"""Largest manifest and largest other file that are read, in bytes (a protobuf graph cannot exceed 2 GiB)."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and sha256 (hex) of one bundle file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BundleManifest:
    """What a bundle is, and the checksum of each of its files.

    `normalizer` is the version of the text normalisation that the model was trained with, `precision` names the
    graph's arithmetic, `max_length` is in tokens, `provenance` records where the model
    comes from: encoder, data sources with checksums, versions, git revision.
    """

    name: str
    created: str
    shudun_version: str
    normalizer: str
    precision: str
    max_length: int
    provenance: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle in memory; `graph` holds the ONNX bytes."""

    manifest: BundleManifest
    graph: bytes
    tokenizer: ItemTokenizer
    taxonomy: Taxonomy
    calibration: Calibration
    points: tuple[OperatingPoint, ...]
    policy: Policy
    metrics: Mapping[str, Any]


def write_bundle(
    folder: Path,
    *,
    name: str,
    created: str,
    shudun_version: str,
    precision: str,
    provenance: Mapping[str, Any],
    graph: bytes,
    tokenizer: ItemTokenizer,
    taxonomy: Taxonomy,
    calibration: Calibration,
    points: tuple[OperatingPoint, ...],
    policy: Policy,
    metrics: Mapping[str, Any],
) -> Bundle:
    """Write a bundle folder in one step, replacing an earlier bundle of the same path; return it as read back.

    Raises:
        BundleError: `folder` exists and is not a bundle.
    """
    thresholds = {
        "graph_sha256": _sha256(graph),
        "tokenizer_sha256": _sha256(tokenizer.to_json().encode("utf-8")),
        "labels": calibration_to_dict(taxonomy.label_ids, calibration, points),
    }
    contents = {
        GRAPH: graph,
        "tokenizer.json": tokenizer.to_json().encode("utf-8"),
        "taxonomy.json": _json(taxonomy.to_dict()),
        "calibration.json": _json(thresholds),
        "policy.json": _json(policy.to_dict()),
        "metrics.json": _json(metrics),
    }
    manifest = BundleManifest(
        name=name,
        created=created,
        shudun_version=shudun_version,
        normalizer=NORMALIZER_VERSION,
        precision=precision,
        max_length=tokenizer.max_length,
        provenance=provenance,
        files={file: FileEntry(len(data), _sha256(data)) for file, data in contents.items()},
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for file, data in {**contents, MANIFEST: _json(asdict(manifest))}.items():
            (staging / file).write_bytes(data)
        staging.chmod(0o755)
        bundle = read_bundle(staging)
        _replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return bundle


def read_bundle(folder: str | os.PathLike[str]) -> Bundle:
    """Read and verify a bundle folder.

    Raises:
        BundleError: a file is missing, altered, not a regular file or too large; parts do not belong
            together; or the format or the text normalisation is of another version.
    """
    root = Path(folder)
    manifest = _parse_manifest(root, _read_regular(root / MANIFEST, limit=MANIFEST_BYTES))
    contents = {name: _verified(root, name, entry) for name, entry in manifest.files.items()}
    try:
        taxonomy = Taxonomy.from_dict(_load(contents, "taxonomy.json"))
        policy = Policy.from_dict(_load(contents, "policy.json"))
    except TaxonomyError as error:
        raise BundleError(f"{root}: {error}") from error
    thresholds = _load(contents, "calibration.json")
    for key, file in (("graph_sha256", GRAPH), ("tokenizer_sha256", "tokenizer.json")):
        if thresholds.get(key) != manifest.files[file].sha256:
            raise BundleError(f"{root}: the thresholds were fitted with another {file}; export the bundle again")
    calibration, points = calibration_from_dict(taxonomy.label_ids, thresholds.get("labels", {}))
    return Bundle(
        manifest=manifest,
        graph=contents[GRAPH],
        tokenizer=ItemTokenizer(_utf8(contents, "tokenizer.json"), max_length=manifest.max_length),
        taxonomy=taxonomy,
        calibration=calibration,
        points=points,
        policy=policy,
        metrics=_load(contents, "metrics.json"),
    )


def _parse_manifest(root: Path, data: bytes) -> BundleManifest:
    values = _load({MANIFEST: data}, MANIFEST)
    if values.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{root}: bundle format {values.get('format_version')!r}, this shudun reads {FORMAT_VERSION}; "
            "export the bundle again with this version"
        )
    try:
        entries = {
            str(name): FileEntry(int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in values.pop("files").items()
        }
        manifest = BundleManifest(**values, files=entries)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BundleError(f"{root}/{MANIFEST}: incomplete or mistyped: {error!r}") from error
    if set(entries) != set(FILES):
        raise BundleError(f"{root}/{MANIFEST}: expected exactly the files {sorted(FILES)}, got {sorted(entries)}")
    if manifest.normalizer != NORMALIZER_VERSION:
        raise BundleError(
            f"{root}: the model was trained on text of normaliser {manifest.normalizer!r}, this shudun has "
            f"{NORMALIZER_VERSION!r}; train again, or install the shudun that made it ({manifest.shudun_version})"
        )
    if not isinstance(manifest.max_length, int) or not 8 <= manifest.max_length <= 1 << 16:
        raise BundleError(f"{root}/{MANIFEST}: max_length must be 8 to 65536 tokens, got {manifest.max_length!r}")
    return manifest


def _verified(root: Path, name: str, entry: FileEntry) -> bytes:
    data = _read_regular(root / name, limit=min(entry.bytes, FILE_BYTES))
    if len(data) != entry.bytes or _sha256(data) != entry.sha256:
        raise BundleError(
            f"{root / name}: contents do not match the manifest (altered, truncated or mixed with another "
            "bundle); copy the whole bundle folder again"
        )
    return data


def _read_regular(path: Path, *, limit: int) -> bytes:
    """Read a regular file through one descriptor; links, pipes and larger files are refused unread."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(f"{path}: expected a regular file")
            if status.st_size > limit:
                raise BundleError(f"{path}: {status.st_size} bytes, more than the {limit} expected")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(limit + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}; is this a complete bundle folder?") from error


def _load(contents: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        value = json.loads(_utf8(contents, name))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise BundleError(f"{name}: expected a JSON object, got {type(value).__name__}")
    return value


def _utf8(contents: Mapping[str, bytes], name: str) -> str:
    try:
        return contents[name].decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{name}: not valid UTF-8: {error}") from error


def _replace(staging: Path, folder: Path) -> None:
    if not os.path.lexists(folder):
        staging.rename(folder)
        return
    if not _is_replaceable(folder):
        raise BundleError(f"{folder}: exists and is not a bundle; choose another folder or remove it")
    # Moved aside rather than removed first: a rename that fails must not cost the earlier bundle.
    aside = staging.with_name(f"{staging.name}-replaced")
    folder.rename(aside)
    try:
        staging.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _is_replaceable(folder: Path) -> bool:
    """Whether `folder` is an empty folder or a bundle of any format version; many tools write a manifest.json."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        manifest = _load({MANIFEST: _read_regular(folder / MANIFEST, limit=MANIFEST_BYTES)}, MANIFEST)
    except BundleError:
        return False
    return {"format_version", "files"} <= set(manifest)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode("utf-8")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
