"""What every benchmark prints: machine, versions, command, medians with spread. Not part of the package."""

import datetime
import importlib.metadata
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from simclr.cpus import available_cpus

K = TypeVar("K")
HERE = Path(__file__).parent


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


def ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Of the medians."""
    return statistics.median(first) / statistics.median(second)


def short(value: float) -> str:
    """Three digits, for a cell of a Row."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded == 0 or abs(rounded) >= 100 else f"{rounded:#.3g}"


def middle(values: Sequence[float]) -> str:
    """The median, as short."""
    return short(statistics.median(values))


def lost(is_it: bool, words: str = "lost") -> str:
    """What a claim or a figure of a Row ends with, where it is a loss."""
    return f": **{words}**" if is_it else ""


def peak_megabytes() -> float:
    """Largest resident set of this process; ru_maxrss would count the parent's as well."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


@dataclass(frozen=True)
class Row:
    """One line of the table in README.md, in Markdown; a figure that is a loss says so in bold."""

    claim: str
    ours: str
    peer: str = ""
    ratio: str = ""
    limit: str = ""

    def line(self, link: str) -> str:
        cells = [self.claim, self.ours, self.peer, self.ratio, self.limit, link]
        assert not any("|" in cell or "\n" in cell for cell in cells), cells
        return f"| {' | '.join(cells)} |\n"


def write(
    name: str,
    *,
    claim: str,
    body: str,
    packages: list[str],
    data: str,
    rows: Sequence[Row] = (),
    figures: Any = None,
    keep: bool = True,
) -> Path | None:
    """A dated report beside the scripts, the same as JSON, and its rows in the table of README.md; also printed.

    `figures`: every number behind the report, as JSON takes it. Only printed unless `keep`: a quick try is no result.
    """
    today = datetime.date.today()
    about = {
        "date": f"{today}",
        "command": " ".join(
            ["python", f"benchmarks/{Path(sys.argv[0]).name}", *(Path(word).name for word in sys.argv[1:])]
        ),
        "data": data,
        "machine": f"{processor()}, {available_cpus()} cores used, {platform.system()} {platform.machine()}",
        "versions": ", ".join(
            [
                f"Python {platform.python_version()}",
                *(f"{package} {importlib.metadata.version(package)}" for package in packages),
            ]
        ),
    }
    lines = [f"- {key}: {f'`{value}`' if key == 'command' else value}" for key, value in about.items()]
    text = "\n".join([f"# {claim}", "", *lines, "", body, ""])
    print(text, *(row.line(name) for row in rows), sep="\n")
    kept = {"claim": claim, **about, "rows": [asdict(row) for row in rows], "figures": figures}
    numbers = (
        json.dumps(kept, indent=1, ensure_ascii=False) + "\n"
    )  # a quick try finds what JSON does not take
    if not keep:
        return None
    path = HERE / f"{name}_{today:%Y-%m}.md"
    path.write_text(text)
    path.with_suffix(".json").write_text(numbers)
    if rows:
        refresh_table(HERE / "README.md", path.name, rows)
    return path


def refresh_table(table: Path, report: str, rows: Sequence[Row]) -> None:
    """Puts a report's rows where those of the same script's reports were, or at the table's end."""
    lines = table.read_text().splitlines(keepends=True)
    script = report.rpartition("_")[0]
    old = [
        number
        for number, line in enumerate(lines)
        if re.search(rf"\]\({script}_[\d-]+\.md\) \|$", line.strip())
    ]
    place = (
        old[0]
        if old
        else 1 + max(n for n, line in enumerate(lines) if line.startswith("| ") and "_20" in line)
    )
    date = report.rpartition("_")[2].removesuffix(".md")
    new = [row.line(f"[{date}]({report})") for row in rows]
    rest = [line for number, line in enumerate(lines) if number not in old]
    table.write_text("".join(rest[:place] + new + rest[place:]))


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
