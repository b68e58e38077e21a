"""Claim: the peak memory of `simclr embed` at 100,000 small images is within 10 % of that at 5,000, once 200 bytes a row are taken
off, and a rerun on 100,000 unchanged files takes less than 10 s.

    embed_memory.py [--cifar cifar10.npz] [--quick]

Linux only: the resident sets of the process and of all its descendants are read from /proc while it runs.
"""

import argparse
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pictures import linked, small
from programs import embed, export, rows_in
from reporting import Row, lost, middle, short, spread, write

FEW, MANY, ROUNDS = 5_000, 100_000, 3
ROW_BYTES = 200
"""A row of the index, not counted."""
POLL = 0.02
"""Seconds between two looks."""


@dataclass(frozen=True)
class Took:
    seconds: float
    together: float
    """Largest sum of the resident sets at one moment, in MB; pages that processes share count in each of them."""
    peaks: float
    """Sum of each process's own largest resident set (VmHWM), in MB, whenever it was."""
    processes: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as packed JPEGs [images drawn here]")
    parser.add_argument("--quick", action="store_true", help="few images, one round, nothing written")
    options = parser.parse_args()
    few, many, times = (500, 3000, 1) if options.quick else (FEW, MANY, ROUNDS)
    work = Path(tempfile.mkdtemp())
    try:
        data = small(work / "many", options.cifar, many)
        linked(work / "few", work / "many", few)
        model = export("test_resnet", work / "model", "--image-size", "32")
        found: dict[str, list[Took]] = defaultdict(list)
        for _ in range(times):
            for folder, images in (("few", few), ("many", many)):
                store = work / f"{folder}.store"
                words = embed(work / folder, store, model)
                found[f"{images:,} images"].append(watched(words))
                assert rows_in(store) == images, f"{store}: {rows_in(store)} rows"
                manifest = (store / "manifest.json").read_bytes()
                found[f"{images:,} again, unchanged"].append(watched(words))
                assert (store / "manifest.json").read_bytes() == manifest, "the rerun changed the store"
                shutil.rmtree(store)
    finally:
        shutil.rmtree(work)
    write(
        "embed_memory",
        claim="Memory of `simclr embed` as the collection grows, and a rerun on unchanged files",
        data=data,
        packages=["onnxruntime", "numpy", "pyarrow", "simplejpeg"],
        body=body(found, few, many),
        rows=[summary(found, few, many)],
        figures={name: [asdict(each) for each in took] for name, took in found.items()},
        keep=not options.quick,
    )


def body(found: dict[str, list[Took]], few: int, many: int) -> str:
    rows = "\n".join(
        f"| {name} | {spread([x.seconds for x in took])} | {spread([x.together for x in took])} | {spread([x.peaks for x in took])} | "
        f"{max(x.processes for x in took)} |"
        for name, took in found.items()
    )
    first, first_again, second, rerun = found.values()
    lines = []
    for words, values in (
        ("at one moment", [[x.together for x in took] for took in (first, second)]),
        ("each process's own", [[x.peaks for x in took] for took in (first, second)]),
        ("at one moment of a rerun", [[x.together for x in took] for took in (first_again, rerun)]),
    ):
        larger, grown = growth(*values, many - few)
        lines.append(f"| peak memory, {words} | {larger:.3f} ({grown:+.0f} bytes a row) | 1.1 |")
    seconds = statistics.median(x.seconds for x in rerun)
    lines.append(f"| rerun on {many:,} unchanged, s | {seconds:.2f} | 10 |")
    goals = "\n".join(lines)
    return (
        f"| | s | peak MB at one moment | peak MB, each process's own | processes |\n|---|---|---|---|---|\n{rows}\n\n"
        f"| {many:,} against {few:,}, {ROW_BYTES} bytes a row taken off | found | asked, at most |\n|---|---|---|\n{goals}\n\n"
        f"Median (range) of {len(first)} rounds in turn. test_resnet at 32 px with random weights, no index. Memory is the resident set of the "
        f"process and all its descendants, looked at every {POLL * 1000:.0f} ms; pages they share count in each."
    )


def growth(small: list[float], large: list[float], rows: int) -> tuple[float, float]:
    """How many times as much memory, the allowance for rows taken off; and bytes a row in all."""
    low, high = map(statistics.median, (small, large))
    return (high - ROW_BYTES * rows / 1e6) / low, (high - low) * 1e6 / rows


def summary(found: dict[str, list[Took]], few: int, many: int) -> Row:
    first, first_again, second, rerun = ([x.together for x in took] for took in found.values())
    larger, _ = growth(first, second, many - few)
    _, grown = growth(first_again, rerun, many - few)
    seconds = statistics.median(x.seconds for x in [*found.values()][-1])
    return Row(
        f"peak memory of embedding {many:,} small images against {few:,}, all processes",
        f"{middle(second)} MB",
        f"{middle(first)} MB",
        f"{short(larger)} after {ROW_BYTES} bytes a row" + lost(larger > 1.1, "more than the 1.1 asked"),
        f"rerun on {many:,} unchanged: {short(seconds)} s{lost(seconds > 10, 'more than the 10 asked')} (its own peak grows by {grown:.0f} bytes a row)",
    )


def watched(words: Sequence[str | Path]) -> Took:
    """Run a program to its end. The benchmark ends if it fails."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([*map(str, words)], stdout=output, stderr=output)
        together = 0
        own: dict[int, int] = {}
        while process.poll() is None:
            sets = {pid: seen for pid in family(process.pid) if (seen := resident(pid))}
            together = max(together, sum(now for now, _ in sets.values()))
            for pid, (_, peak) in sets.items():
                own[pid] = max(own.get(pid, 0), peak)
            time.sleep(POLL)
        took = time.perf_counter() - started
        output.seek(0)
        if process.returncode:
            raise SystemExit(
                f"{' '.join(map(str, words))}\nended with {process.returncode}:\n{output.read()[-3000:]}"
            )
    print(f"  {took:.1f} s, {together / 1e6:.0f} MB: {' '.join(map(str, words))}", file=sys.stderr)
    return Took(took, together / 1e6, sum(own.values()) / 1e6, len(own))


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for each in found:  # grows while it is walked
        with contextlib.suppress(OSError):  # it has ended
            for thread in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def resident(pid: int) -> tuple[int, int] | None:
    """Bytes of the resident set now, and at its largest; None for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    values = {
        key: int(rest.split()[0]) * 1024
        for key, _, rest in (x.partition(":") for x in lines)
        if key in ("VmRSS", "VmHWM")
    }
    return (values["VmRSS"], values["VmHWM"]) if len(values) == 2 else None


if __name__ == "__main__":
    main()
