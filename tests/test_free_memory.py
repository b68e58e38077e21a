"""The least of what machine, container and limit leave."""

import subprocess
import sys

import pytest

from simclr import free_memory


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, free_memory.UNKNOWN),
        ({"meminfo": "MemTotal: 9 kB\nMemAvailable: 5 kB\n"}, 5 * 1024),
        ({"meminfo": "MemAvailable: 5 kB", "memory.max": "max", "memory.current": "9"}, 5 * 1024),
        ({"meminfo": "MemAvailable: 5 kB", "memory.max": "4000", "memory.current": "1000"}, 3000),
        (
            {
                "meminfo": "MemAvailable: 9 kB",
                "memory.max": "4000",
                "memory.current": "3000",
                "memory.stat": "anon 500\ninactive_file 2500\n",
            },
            3500,
        ),
        (
            {
                "meminfo": "MemAvailable: 5 kB",
                "memory/memory.limit_in_bytes": "2000",
                "memory/memory.usage_in_bytes": "2500",
            },
            0,
        ),
    ],
    ids=[
        "nothing known",
        "machine",
        "no limit",
        "cgroup v2",
        "cgroup v2 with files in memory",
        "cgroup v1, full",
    ],
)
def test_free_memory_is_the_least_of_machine_and_container(tmp_path, files, free):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory._of_machine(tmp_path / "meminfo", tmp_path) == free


def test_a_limit_on_the_address_space_counts():
    """100 MB above what the process has, in a fresh one."""
    script = """
import resource
from simclr.free_memory import free_memory
size = next(int(x.split()[1]) * 1024 for x in open("/proc/self/status") if x.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (size + 100_000_000, -1))
print(free_memory())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(100_000_000, rel=0.05)
