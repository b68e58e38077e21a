"""How many CPU cores this process may use.

Libraries ask the host and see cores that a container may not use; every thread pool here is sized by this.
"""

import os
from pathlib import Path


def available_cpus() -> int:
    """Cores of the affinity mask, capped by the cgroup quota (v2 and v1), at least 1."""
    # macOS and Windows have no affinity mask.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, min(cores, int(quota))) if quota else cores


def _cgroup_quota(root: Path) -> float | None:
    """CPU quota in cores, or None where none is set."""
    try:
        if (root / "cpu.max").exists():
            limit, period = (root / "cpu.max").read_text().split()
        else:
            limit = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        return None if limit in ("max", "-1") else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
