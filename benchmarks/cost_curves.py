"""Claim: what each stage costs a million images, in time, bytes read, bytes written and memory, and how that grows with their number.

    cost_curves.py [--cifar cifar10.npz] [--images 1250 2500 5000 10000] [--vectors 25000 50000 100000 200000] [--work FOLDER] [--quick]

Every stage is one of our commands, run once at each size in a process of its own, watched from /proc. A power of the size is fitted to the
logarithms, and a line to what it takes. Bytes are those that the process asked for, of which the page cache answers many.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pictures
import programs
import stores
from reporting import Row, processor, short, write
from watching import EVERY

WIDTH = 512
PLOT = Path(__file__).parent / "cost_curves_cpu_2026-11.png"


@dataclass
class Cost:
    """Of one command, above those of one that does nothing."""

    seconds: float
    read: float
    written: float
    own: float

    NAMES = ("seconds", "bytes read", "bytes written", "own memory")

    @property
    def values(self) -> tuple[float, ...]:
        return self.seconds, self.read, self.written, self.own


def watched(words: list[str | Path]) -> Cost:
    """What a command takes, with the processes that it starts and waits for; memory is the largest sum of what is their own."""
    started, own, io = time.perf_counter(), 0.0, (0, 0)
    process = subprocess.Popen([*map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        own = max(own, sum(map(_own, _family(process.pid))))
        io = _io(process.pid) or io
        time.sleep(EVERY)
    if process.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(map(str, words))}: ended with {process.returncode}")
    return Cost(time.perf_counter() - started, *io, own)


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(each for child in children for each in _family(int(child)))]


def _own(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) * 1024.0 for line in status if line.startswith("RssAnon"))


def _io(pid: int) -> tuple[int, int] | None:
    """Bytes that it and its ended children have read and written."""
    try:
        counts = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return (int(counts["rchar"]), int(counts["wchar"])) if "wchar" in counts else None


def exponent(sizes: list[int], values: list[float]) -> float:
    """Of the power of the size that is nearest to the values, in their logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0])


def line(sizes: list[int], values: list[float]) -> tuple[float, float, float]:
    """What is spent in any case, what each million adds, and the largest residual as a share of its value; by least squares of these shares."""
    x, y = np.array(sizes) / 1e6, np.array(values)
    each, fixed = np.polyfit(x, y, 1, w=1 / np.maximum(y, 1e-9))
    return float(fixed), float(each), float(np.abs((fixed + each * x - y) / np.maximum(y, 1e-9)).max())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cifar", type=Path)
    options.add_argument("--images", type=int, nargs="+", default=[1250, 2500, 5000, 10_000])
    options.add_argument("--vectors", type=int, nargs="+", default=[25_000, 50_000, 100_000, 200_000])
    options.add_argument("--work", type=Path)
    options.add_argument("--quick", action="store_true", help="few; nothing is written")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.images, chosen.vectors = [100, 200, 400], [6000, 9000, 12_000]
    work = chosen.work or Path(tempfile.mkdtemp())
    try:
        run(work, chosen.cifar, chosen.images, chosen.vectors, keep=not chosen.quick)
    finally:
        if chosen.work is None:
            shutil.rmtree(work)


def run(work: Path, cifar: Path | None, images: list[int], vectors: list[int], *, keep: bool) -> None:
    model = programs.export("resnet18", work / "model", "--size", "96")
    simclr = [*programs.SIMCLR]
    data = ""

    def pictured(count: int) -> Path:
        nonlocal data
        if not (work / f"images-{count}").exists():
            data = pictures.small(work / f"images-{count}", cifar, count)
        return work / f"images-{count}"

    def stored(count: int) -> Path:
        folder = work / f"{count}.store"
        if not folder.exists():
            blocks = stores.clustered(count, WIDTH, clusters=max(10, count // 100))
            stores.fill(folder, blocks, model=stores.model(work / "export"), width=WIDTH)
        return folder

    def out(name: str, count: int) -> Path:
        return work / f"{name}-{count}.faiss"

    lists = ["--index-type", "IVF1024,SQ8", "--recall", "0.5"]
    stages: list[tuple[str, list[int], Callable[[int], list[str | Path]]]] = [
        ("embed, ResNet-18 at 96 px", images, lambda n: programs.embed(pictured(n), work / f"new-{n}.store", model)),
        ("embed again, nothing changed", images, lambda n: programs.embed(pictured(n), work / f"new-{n}.store", model)),
        ("store check", images, lambda n: [*simclr, "store", "check", work / f"new-{n}.store"]),
        ("index build, chosen by itself", vectors, lambda n: [*simclr, "index", "build", stored(n), "--out", out("auto", n)]),
        ("index train, IVF1024,SQ8", vectors, lambda n: [*simclr, "index", "train", stored(n), "--out", out("parts", n), *lists]),
        ("index build --shard 1/4", vectors, lambda n: [*simclr, "index", "build", stored(n), "--out", out("parts", n), "--shard", "1/4"]),
        ("index join of 4 parts", vectors, lambda n: [*simclr, "index", "join", stored(n), "--out", out("parts", n)]),
        ("one search, from the start of the program", vectors, lambda n: [*simclr, "search", out("auto", n), "--id", "5"]),
    ]  # fmt: skip
    nothing = watched([*simclr, "--version"])
    rows, curves = list[str](), dict[str, tuple[list[int], list[Cost]]]()
    for name, sizes, command in stages:
        costs = list[Cost]()
        for size in sizes:
            words = command(size)
            if name.startswith("index join"):
                for number in (2, 3, 4):
                    programs.run(
                        [
                            *simclr,
                            "index",
                            "build",
                            stored(size),
                            "--out",
                            out("parts", size),
                            "--shard",
                            f"{number}/4",
                        ]
                    )
            cost = watched(words)
            costs.append(Cost(*(max(1e-3, a - b) for a, b in zip(cost.values, nothing.values, strict=True))))
            print(f"  {name}, {size:,}: {costs[-1]}", file=sys.stderr)
        curves[name] = sizes, costs
        for place, what in enumerate(Cost.NAMES):
            values = [cost.values[place] for cost in costs]
            fixed, each, rest = line(sizes, values)
            seconds = what == "seconds"
            shown = " / ".join(f"{value:.3g}" if seconds else f"{value / 1e6:.3g} MB" for value in values)
            parts = (
                f"{fixed:.3g} s + {each:.3g} s" if seconds else f"{fixed / 1e6:.3g} MB + {each / 1e6:,.0f} MB"
            )
            million = f"{(fixed + each) / 60:.1f} min" if seconds else f"{(fixed + each) / 1e9:.2f} GB"
            rows.append(
                f"| {name if not place else ''} | {what} | {shown} | {exponent(sizes, values):.2f} | {parts} | {rest:.0%} | {million} |"
            )
    body = "\n".join(
        [
            "| stage | cost | at each size | exponent | in any case + each million | largest residual | a million |", "|---|---|---|---|---|---|---|",
            *rows, "",
            f"Images: {', '.join(f'{n:,}' for n in images)} ({data}). Vectors: {', '.join(f'{n:,}' for n in vectors)}, of {WIDTH} numbers, made up. Each once, above `simclr --version`. "
            "The exponent is that of the nearest power of the size, below 1 where fixed costs (starting, a fixed number of queries) still weigh. A million is foretold by the line: what is spent in any case and what each million adds.",
            "", f"![curves]({PLOT.name})" if keep else "",
        ]
    )  # fmt: skip
    write("cost_curves_cpu", claim="What a million images cost, stage by stage", body=body, packages=["faiss-cpu", "onnxruntime", "numpy"], data="below the table", rows=[summary(curves)], figures={name: {"sizes": sizes, "costs": [*map(asdict, costs)]} for name, (sizes, costs) in curves.items()}, keep=keep)  # fmt: skip
    if keep:
        draw(curves)


def summary(curves: dict[str, tuple[list[int], list[Cost]]]) -> Row:
    """What a million takes, of the stages that take a minute or more."""
    cells = []
    for name, (sizes, costs) in curves.items():
        seconds, own = (sum(line(sizes, [cost.values[place] for cost in costs])[:2]) for place in (0, 3))
        if seconds >= 60:
            cells.append(f"{name} {short(seconds / 60)} min, {short(own / 1e9)} GB")
    return Row(
        f"what a million images cost, foretold by lines through {len(sizes)} sizes, 2 cores: time and memory of those of {len(curves)} stages that take a minute or more",
        "; ".join(cells),
    )


def draw(curves: dict[str, tuple[list[int], list[Cost]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8), layout="constrained")
    for place, (axis, what) in enumerate(zip(figure.subplots(2, 2).ravel(), Cost.NAMES, strict=True)):
        for name, (sizes, costs) in curves.items():
            values = [cost.values[place] / (1 if what == "seconds" else 1e6) for cost in costs]
            axis.loglog(sizes, values, "o-", label=f"{name}: {exponent(sizes, values):.2f}")
        axis.set(title=what if what == "seconds" else f"{what}, MB", xlabel="images or vectors")
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.suptitle(f"cost against size, with the exponents nearest; {processor()}, 2 cores", fontsize=10)
    figure.savefig(PLOT, dpi=80)


if __name__ == "__main__":
    main()
