"""Thread counts: what affinity and the cgroup quota leave, or what was asked for; nonsense is refused."""

from __future__ import annotations

import os

import pytest

from shudun import DeviceError
from shudun.threads import ENVIRONMENT_VARIABLE, available_cpus, resolve_threads


@pytest.fixture(autouse=True)
def large_host(monkeypatch):
    """Sixteen CPUs to share, and no setting inherited from the environment."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


def v2(root, cpu_max):
    root.mkdir(exist_ok=True)
    (root / "cpu.max").write_text(cpu_max + "\n", encoding="ascii")
    return root


def v1(root, quota, period=100000):
    (root / "cpu").mkdir(parents=True)
    (root / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n", encoding="ascii")
    (root / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n", encoding="ascii")
    return root


@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [
        ("max 100000", 16),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1000 100000", 1),
        ("400000 50000", 8),
        ("9900000 100000", 16),
    ],
)
def test_the_quota_of_cgroup_v2_caps_the_affinity(tmp_path, cpu_max, expected):
    assert available_cpus(cgroup_root=v2(tmp_path, cpu_max)) == expected


@pytest.mark.parametrize(("quota", "expected"), [(-1, 16), (200000, 2), (250000, 3), (20000, 1), (9900000, 16)])
def test_the_quota_of_cgroup_v1_caps_the_affinity(tmp_path, quota, expected):
    assert available_cpus(cgroup_root=v1(tmp_path, quota)) == expected


def test_without_cgroups_the_affinity_counts(tmp_path):
    assert available_cpus(cgroup_root=tmp_path) == 16
    assert available_cpus(cgroup_root=tmp_path / "nowhere") == 16


def test_a_pinned_process_uses_no_more_than_its_cpus(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert available_cpus(cgroup_root=v2(tmp_path, "800000 100000")) == 1


def test_the_argument_counts_before_the_environment_and_that_before_the_quota(tmp_path, monkeypatch):
    root = v2(tmp_path, "200000 100000")
    assert resolve_threads(None, cgroup_root=root) == 2
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "5")
    assert resolve_threads(None, cgroup_root=root) == 5
    assert resolve_threads(7, cgroup_root=root) == 7
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "")
    assert resolve_threads(None, cgroup_root=root) == 2


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", " ", "1e3", "0x2"])
def test_a_bad_environment_variable_is_refused_by_name(monkeypatch, value):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, value)
    with pytest.raises(DeviceError, match=f"{ENVIRONMENT_VARIABLE}: expected a positive whole number"):
        resolve_threads(None)


@pytest.mark.parametrize("value", [0, -3, 1.5, "two", True])
def test_a_bad_argument_is_refused_by_name(value):
    with pytest.raises(DeviceError, match="threads: expected a positive whole number of threads, got"):
        resolve_threads(value)
