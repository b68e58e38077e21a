"""Claim: naming the images of a folder takes less time than pathlib and torchvision need, and at a second start next to
none; the names are those of the slow walk."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reporting import Row, lost, middle, peak_megabytes, ratio, rounds, short, spread, write

from simclr.cpus import available_cpus

FOLDERS = 200
ROUNDS = {200_000: 3}
"""For each number of files."""


def fill(root: Path, count: int) -> None:
    """Empty files with names as ImageNet's, `FOLDERS` folders of them."""
    each = count // FOLDERS
    for folder in range(FOLDERS):
        (root / f"n{folder:08d}").mkdir(parents=True)
        for i in range(each):
            os.close(os.open(root / f"n{folder:08d}" / f"n{folder:08d}_{i}.JPEG", os.O_CREAT | os.O_WRONLY))


def simclr(root: Path) -> int:
    from simclr.sources import open_collection

    return len(open_collection(str(root), note=print).names)


def walk(root: Path) -> int:
    from simclr.sources import list_images

    return len(list_images(root))


def pathlib(root: Path) -> int:
    from simclr.images import SUFFIXES

    return len(sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES))


def torchvision(root: Path) -> int:
    from torchvision.datasets import ImageFolder

    return len(ImageFolder(str(root)).samples)


def lightly(root: Path) -> int:
    from lightly.data import LightlyDataset

    return len(LightlyDataset(str(root)).get_filenames())


CONTENDERS = {"simclr, first start": simclr, "simclr, second start": simclr, "simclr, with size and time of each": walk,
              "sorted(Path.rglob)": pathlib, "torchvision ImageFolder": torchvision, "lightly LightlyDataset": lightly}  # fmt: skip


def measure(name: str, root: Path) -> None:
    """Seconds and growth of the peak memory, in a process of its own, its imports done before."""
    small = root.parent / "small"
    CONTENDERS[name](small)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = peak_megabytes()
    started = time.perf_counter()
    count = CONTENDERS[name](root)
    print(time.perf_counter() - started, peak_megabytes() - before, count)


def main() -> None:
    parts, in_table, figures = [], [], {}
    for size, times_each in ROUNDS.items():
        with tempfile.TemporaryDirectory() as place:
            root, cache = Path(place) / "images", Path(place) / "cache"
            fill(root, size)
            fill(root.parent / "small", FOLDERS)
            time.sleep(3)  # what has just changed is not trusted
            memory: dict[str, list[float]] = {name: [] for name in CONTENDERS}

            def run(name: str, root: Path = root, cache: Path = cache, memory=memory, size=size) -> float:
                if "first" in name:
                    for file in (cache / "listings").glob("*"):
                        file.unlink()
                words = [sys.executable, __file__, name, str(root)]
                done = subprocess.run(
                    words,
                    capture_output=True,
                    text=True,
                    check=True,
                    env=os.environ | {"SIMCLR_CACHE": str(cache)},
                )
                seconds, megabytes, count = done.stdout.split()
                assert int(count) == size, name
                memory[name].append(float(megabytes))
                return float(seconds)

            times = rounds({name: lambda name=name: run(name) for name in CONTENDERS}, times=times_each)
            rows = "\n".join(
                f"| {name} | {spread(times[name])} | {spread(memory[name])} |" for name in CONTENDERS
            )
            first, second = times["simclr, first start"], times["simclr, second start"]
            in_table += summary(size, times, memory)
            figures[size] = {"seconds": times, "extra MB": memory}
            parts.append(
                f"## {size:,} files in {FOLDERS} folders, {times_each} rounds\n\n| | seconds | extra peak memory, MB |\n|---|---|---|\n{rows}\n\n"
                f"First start against pathlib {ratio(first, times['sorted(Path.rglob)']):.2f}, torchvision "
                f"{ratio(first, times['torchvision ImageFolder']):.2f}, lightly {ratio(first, times['lightly LightlyDataset']):.2f}; second "
                f"start against pathlib {ratio(second, times['sorted(Path.rglob)']):.4f}."
            )
    write(
        "scan_cpu",
        claim="Naming the images of a folder against pathlib, torchvision and lightly",
        data="empty files named as ImageNet's; the system's own cache of folders is warm for all",
        packages=["torchvision", "lightly", "numpy"],
        body=(
            "\n\n".join(parts)
            + "\n\nMedian (range) of the rounds, taken in turn, each in a process of its own with its imports "
            "done. The second start proves by one stat a folder that nothing has changed. torchvision and lightly also "
            "number the classes."
        ),
        rows=in_table,
        figures=figures,
    )


def summary(size: int, times: dict[str, list[float]], memory: dict[str, list[float]]) -> list[Row]:
    first, second, _, *peers = CONTENDERS

    def cost(name: str) -> str:
        return f"{middle(times[name])} s, {middle(memory[name])} MB"

    def against(name: str) -> str:
        found = [ratio(times[name], times[peer]) for peer in peers]
        return f"time {'; '.join(map(short, found))}" + lost(max(found) > 1)

    return [
        Row(
            f"naming {size:,} images in {FOLDERS} folders, {available_cpus()} cores: first start",
            cost(first),
            "; ".join(f"{peer} {cost(peer)}" for peer in peers),
            against(first),
        ),
        Row("the same: second start", cost(second), "as above", against(second), "one stat a folder"),
    ]


if __name__ == "__main__":
    measure(sys.argv[1], Path(sys.argv[2])) if len(sys.argv) > 1 else main()
