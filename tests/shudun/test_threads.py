"""Thread counts: what affinity and the cgroup quota leave, or what was asked for; nonsense is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shudun import DeviceError
from shudun.threads import ENVIRONMENT_VARIABLE, available_cpus, resolve_threads


@pytest.fixture(autouse=True)
def in_group(monkeypatch):
    """Sixteen CPUs to share, no setting inherited, and a process whose `/proc/self/cgroup` says what is asked for."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    read_text = Path.read_text

    def place(entries):
        def fake(self, *arguments, **options):
            if str(self) != "/proc/self/cgroup":
                return read_text(self, *arguments, **options)
            if entries is None:
                raise FileNotFoundError(self)
            return entries

        monkeypatch.setattr(Path, "read_text", fake)

    place("0::/\n")
    return place


def v2(root, cpu_max):
    root.mkdir(parents=True, exist_ok=True)
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


@pytest.mark.parametrize("group", ["", "system.slice", "system.slice/job.service"])
def test_the_quota_of_any_group_above_the_process_counts(tmp_path, in_group, group):
    in_group("0::/system.slice/job.service\n")
    v2(tmp_path / "system.slice" / "job.service", "max 100000")
    v2(tmp_path / "other.slice", "100000 100000")
    v2(tmp_path / group, "300000 100000")
    assert available_cpus(cgroup_root=tmp_path) == 3


def test_the_smallest_of_several_quotas_counts(tmp_path, in_group):
    in_group("0::/a/b\n")
    for folder, quota in (("", 900000), ("a", 200000), ("a/b", 400000)):
        v2(tmp_path / folder, f"{quota} 100000")
    assert available_cpus(cgroup_root=tmp_path) == 2


def test_the_own_group_of_cgroup_v1_counts(tmp_path, in_group):
    in_group("12:memory:/job\n4:cpu,cpuacct:/docker/job\n1:name=systemd:/x\n")
    (tmp_path / "cpu" / "docker" / "job").mkdir(parents=True)
    (tmp_path / "cpu" / "docker" / "job" / "cpu.cfs_quota_us").write_text("500000\n", encoding="ascii")
    (tmp_path / "cpu" / "docker" / "job" / "cpu.cfs_period_us").write_text("100000\n", encoding="ascii")
    assert available_cpus(cgroup_root=tmp_path) == 5


@pytest.mark.parametrize("entries", [None, "", "0::/\n", "0::/gone\n"])
def test_without_quotas_the_affinity_counts(tmp_path, in_group, entries):
    in_group(entries)
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
