"""How many threads a session should use here: CPU affinity and the cgroup quota, not the host's core count."""

from __future__ import annotations

import math
import os
from pathlib import Path

from shudun.errors import DeviceError

ENVIRONMENT_VARIABLE = "ORT_INTRA_OP_NUM_THREADS"


def resolve_threads(threads: int | None, *, cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Threads to use: the argument, else `ORT_INTRA_OP_NUM_THREADS`, else what this process may really use.

    Raises:
        DeviceError: when the argument or the environment variable is not a positive integer.
    """
    if threads is not None:
        return _positive(str(threads), "threads")
    if value := os.environ.get(ENVIRONMENT_VARIABLE):
        return _positive(value, ENVIRONMENT_VARIABLE)
    return available_cpus(cgroup_root=cgroup_root)


def available_cpus(*, cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs this process may use: its affinity mask, capped by the cgroup (v2 or v1) quota, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_quota(path) for path in _cgroup_folders(cgroup_root)]
    limits = [math.ceil(quota) for quota in quotas if quota is not None]
    return max(1, min([affinity, *limits]))


def _cgroup_folders(root: Path) -> list[Path]:
    # Inside a container the namespace root is this process's own group; on a host the path is in /proc.
    folders = [root, root / "cpu"]
    try:
        entries = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return folders
    for entry in entries:
        _, controllers, path = entry.split(":", 2)
        base = root if not controllers else root / "cpu"
        if not controllers or "cpu" in controllers.split(","):
            own = base / path.lstrip("/")
            folders += [own, *[parent for parent in own.parents if base in parent.parents]]
    return folders


def _quota(folder: Path) -> float | None:
    """CPUs granted by one cgroup folder, `None` where it sets no limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def _positive(value: str, source: str) -> int:
    if not value.strip().isdecimal() or int(value) < 1:
        raise DeviceError(f"{source}: expected a positive whole number of threads, got {value!r}")
    return int(value)
