"""Where a run comes from: versions, git revision, machine, sources. Recorded in run folders, bundles and reports."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shudun.normalization import NORMALIZER_VERSION
from shudun.version import __version__

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "evaluate", "onnx", "onnxruntime", "tokenizers", "numpy")


def environment() -> dict[str, Any]:
    """Versions, platform and the git revision of this code (`None` outside a checkout)."""
    return {
        "shudun": __version__,
        "normalizer": NORMALIZER_VERSION,
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def now() -> str:
    """The current time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None


def _git_revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
