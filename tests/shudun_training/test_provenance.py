"""Provenance: what a run folder records of where it ran."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest

from shudun import __version__
from shudun_training import provenance
from shudun_training.provenance import PACKAGES, environment, now


def test_the_environment_names_versions_and_is_json() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["shudun"] == __version__
    assert found["packages"] == {name: version(name) for name in PACKAGES}
    assert found["python"].startswith("3.")


@pytest.mark.skipif(not (Path(__file__).parents[2] / ".git").exists(), reason="no git checkout")
def test_the_git_revision_is_that_of_the_checkout() -> None:
    revision = environment()["git_revision"]
    assert revision
    assert len(revision.removesuffix("-dirty")) >= 7


def test_without_git_the_revision_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment()["git_revision"] is None


def test_outside_a_checkout_the_revision_is_null(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provenance, "__file__", f"{tmp_path}/provenance.py")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert environment()["git_revision"] is None


def test_a_package_that_is_absent_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package-of-ours"))
    assert environment()["packages"] == {"numpy": version("numpy"), "no-such-package-of-ours": None}


def test_times_are_utc_to_the_second() -> None:
    time = datetime.fromisoformat(now())
    assert time.utcoffset() == timedelta(0)
    assert time.microsecond == 0
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)
