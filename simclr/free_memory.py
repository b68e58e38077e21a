"""How much memory this process may still take: of the machine, of its container, under its own limit; and has taken."""

import sys
from pathlib import Path

UNKNOWN = 1 << 62
"""Bytes, where the system does not say (not Linux)."""


def free_memory() -> int:
    """Bytes; UNKNOWN where the system does not say."""
    return min(_of_machine(Path("/proc/meminfo"), Path("/sys/fs/cgroup")), _below_limit())


def resident_peak() -> int:
    """Bytes of main memory that this process has held at most."""
    peaks = [
        1024 * int(line.split()[1]) for line in _lines(Path("/proc/self/status")) if line.startswith("VmHWM")
    ]
    if peaks:
        return peaks[0]
    import resource  # not Linux, or a kernel that does not say

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _of_machine(meminfo: Path, cgroup: Path) -> int:
    """What the machine has left, or the container (cgroup v2 and v1), whichever is less."""
    free = [1024 * int(line.split()[1]) for line in _lines(meminfo) if line.startswith("MemAvailable:")]
    for limit, used, stat, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        numbers = [*_lines(cgroup / limit)[:1], *_lines(cgroup / used)[:1]]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):  # `max` is no limit
            # files read a while ago count as used, and make room when asked
            cached = sum(int(n) for name, n in map(str.split, _lines(cgroup / stat)) if name == cache)
            free.append(max(0, int(numbers[0]) - int(numbers[1]) + cached))
    return min(free, default=UNKNOWN)


def _below_limit() -> int:
    """What `ulimit -v` leaves."""
    try:
        import resource
    except ImportError:  # Windows
        return UNKNOWN
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    taken = [line.split()[1] for line in _lines(Path("/proc/self/status")) if line.startswith("VmSize:")]
    return UNKNOWN if limit == resource.RLIM_INFINITY else max(0, limit - 1024 * sum(map(int, taken)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
