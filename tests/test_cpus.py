import os
from pathlib import Path

import pytest

from simclr import cpus
from simclr.cpus import _cgroup_quota, available_cpus


def v2(root: Path, text: str) -> Path:
    (root / "cpu.max").write_text(text)
    return root


def v1(root: Path, quota: str, period: str = "100000\n") -> Path:
    (root / "cpu").mkdir()
    (root / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (root / "cpu" / "cpu.cfs_period_us").write_text(period)
    return root


@pytest.mark.parametrize(
    ("text", "cores"), [("200000 100000\n", 2.0), ("150000 100000\n", 1.5), ("max 100000\n", None)]
)
def test_a_version_2_quota_is_limit_over_period(tmp_path: Path, text: str, cores: float | None) -> None:
    assert _cgroup_quota(v2(tmp_path, text)) == cores


@pytest.mark.parametrize(("quota", "cores"), [("400000\n", 4.0), ("-1\n", None)])
def test_a_version_1_quota_is_limit_over_period(tmp_path: Path, quota: str, cores: float | None) -> None:
    assert _cgroup_quota(v1(tmp_path, quota)) == cores


def test_no_cgroup_is_no_quota(tmp_path: Path) -> None:
    assert _cgroup_quota(tmp_path) is None


def test_a_file_of_another_form_is_no_quota(tmp_path: Path) -> None:
    assert _cgroup_quota(v2(tmp_path, "")) is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 6), (2.0, 2), (2.9, 2), (0.5, 1), (64.0, 6)], ids=str)
def test_cores_are_those_of_the_mask_capped_by_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.setattr(cpus, "_cgroup_quota", lambda root: quota)
    assert available_cpus() == expected


def test_without_affinity_masks_the_host_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(cpus, "_cgroup_quota", lambda root: None)
    assert available_cpus() == 3
