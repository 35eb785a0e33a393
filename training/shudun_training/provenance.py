"""Where a run comes from: versions, git revision, machine, sources. Recorded in run folders, bundles and reports."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shudun.normalization import NORMALIZER_VERSION
from shudun.threads import available_cpus
from shudun.version import __version__

PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "evaluate",
    "onnx",
    "onnxruntime",
    "safetensors",
    "scikit-learn",
    "tokenizers",
    "numpy",
)


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


def hardware() -> dict[str, Any]:
    """What training runs on: processor, its cores that this process may use, threads of torch, GPUs, processes."""
    import torch

    return {
        "cpu": _cpu_name(),
        "cpus": available_cpus(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def now() -> str:
    """The current time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git_revision() -> str | None:
    # A virtual environment inside somebody else's checkout is not this code's: git must know this very file.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=12")


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
