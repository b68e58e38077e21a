"""What every benchmark prints: machine, versions, command, medians with spread. Not part of the package."""

import datetime
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from simclr.cpus import available_cpus

K = TypeVar("K")


def rounds(runs: dict[K, Callable[[], float]], *, times: int) -> dict[K, list[float]]:
    """Measure in turn: each contender once a round, so that a noisy moment hits all of them.

    Each round has an order of its own: who comes after a contender that leaves the same data in the caches does not always do so.
    """
    found: dict[K, list[float]] = {name: [] for name in runs}
    for number in range(times):
        for name, run in random.Random(number).sample([*runs.items()], len(runs)):
            found[name].append(run())
            print(f"  {name}: {found[name][-1]:.4g}", file=sys.stderr)
    return found


def in_fresh_process(words: list[str], *, huge_pages: bool) -> Any:
    """What this script, called with these words, prints as JSON. `huge_pages`: torch asks for them, as a run of ours does; it
    looks once, at its first allocation, so that contenders who differ in it need processes of their own."""
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment |= {"THP_MEM_ALLOC_ENABLE": "1"} if huge_pages else {}
    done = subprocess.run(
        [sys.executable, sys.argv[0], *words], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def ratio(first: list[float], second: list[float]) -> float:
    """Of the medians."""
    return statistics.median(first) / statistics.median(second)


def peak_megabytes() -> float:
    """Largest resident set of this process; ru_maxrss would count the parent's as well."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def write(
    name: str, *, claim: str, body: str, packages: list[str], data: str, keep: bool = True
) -> Path | None:
    """A dated report beside the scripts; also printed. Only printed unless `keep`: a quick try is no result."""
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    today = datetime.date.today()
    command = " ".join(
        ["python", f"benchmarks/{Path(sys.argv[0]).name}", *(Path(word).name for word in sys.argv[1:])]
    )
    text = (
        f"# {claim}\n\n"
        f"- date: {today}\n- command: `{command}`\n- data: {data}\n"
        f"- machine: {processor()}, {available_cpus()} cores used, {platform.system()} {platform.machine()}\n"
        f"- versions: Python {platform.python_version()}, {versions}\n\n{body}\n"
    )
    print(text)
    if not keep:
        return None
    path = Path(__file__).parent / f"{name}_{today:%Y-%m}.md"
    path.write_text(text)
    return path


def processor() -> str:
    """Name of the CPU, and which wide instructions it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    wide = [name for name in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if name in flags]
    return f"{names[0] if names else 'unknown'} ({', '.join(wide)})"
