"""Claim: an index of 800,000 x 512 vectors that was filled in 8 parts finds what the index built in one piece finds; joining the parts
takes less memory than the vectors of two of them, and is compared with merge_ondisk of faiss.contrib.

    index_parts.py [--rows 800000] [--parts 8] [--work FOLDER] [--quick]

Every step is a process of its own, ours from the command line, whose memory is read from /proc. The rival gets the same trained index and
the same parts. All are asked by FAISS itself in the same way, memory-mapped.
"""

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import stores
import watching
from reporting import Row, lost, middle, ratio, rounds, short, spread, write

from simclr.embed.exact import exact_neighbours
from simclr.embed.index import load_index, nearest
from simclr.embed.index.files import read_index
from simclr.embed.index.tuning import Truth
from simclr.embed.store import Store

WIDTH, QUERIES, TIMES = 512, 1000, 3
LISTS = (1, 4, 16)
Answers = dict[str, dict[str, Any]]
"""By contender: recall@10, and q/s of each round."""
RIVAL = """
import sys, faiss
from faiss.contrib.ondisk import merge_ondisk
out, trained, *parts = sys.argv[1:]
faiss.omp_set_num_threads(2)
index = faiss.read_index(trained)
merge_ondisk(index, parts, out + ".ivfdata")
faiss.write_index(index, out)
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=800_000)
    options.add_argument("--parts", type=int, default=8)
    options.add_argument("--work", type=Path)
    options.add_argument("--index-type", default="IVF4096,SQ8")
    options.add_argument("--quick", action="store_true", help="40,000 vectors in 4 parts; nothing is written")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.rows, chosen.parts, chosen.index_type = 40_000, 4, "IVF256,SQ8"
    work = chosen.work or Path(tempfile.mkdtemp())
    try:
        run(work, chosen.rows, chosen.parts, chosen.index_type, keep=not chosen.quick)
    finally:
        if chosen.work is None:
            shutil.rmtree(work)


def run(work: Path, rows: int, parts: int, factory: str, *, keep: bool) -> None:
    store, queries = filled(work, rows)
    whole, joined, rival = work / "whole.faiss", work / "joined.faiss", work / "rival.faiss"
    wish = ["--index-type", factory, "--recall", "0.9"]
    lines = ["| step | seconds | extra MB | its own |", "|---|---|---|---|"]
    steps: dict[str, dict[str, float]] = {}

    def step(words: str, *command: str | Path, code: str = "") -> None:
        start = ["-c", code] if code else ["-m", "simclr", "index"]
        seconds, peak, own = watching.watched_program([*start, *map(str, command)])
        steps[words] = {"seconds": seconds, "extra MB": peak, "its own": own}
        lines.append(f"| {words} | {seconds:.0f} | {peak:,.0f} | {own:,.0f} |")
        print(lines[-1], file=sys.stderr)

    step("`index build`, in one piece", "build", store, "--out", whole, *wish)
    step("`index train`", "train", store, "--out", joined, *wish)
    for number in (1, *range(2, parts + 1)):
        command = ["build", store, "--out", joined, "--shard", f"{number}/{parts}"]
        if number == 1:
            step(f"`index build --shard 1/{parts}`", *command)
        else:
            subprocess.run(
                [sys.executable, "-m", "simclr", "index", *map(str, command)],
                check=True,
                stdout=subprocess.DEVNULL,
            )
    step(f"`index join` of {parts} parts: joined, tuned, measured", "join", store, "--out", joined)
    folder = joined.with_name(joined.name + ".parts")
    given = [
        folder / "trained.faiss",
        *sorted(folder.glob(f"part-*-of-{parts}-*.faiss")),
    ]
    given.append(left_out(folder, work / "rest.faiss"))
    step("merge_ondisk: merged", rival, *given, code=RIVAL)
    joining = compared(work, given)

    truth = Truth(queries, exact_neighbours(Store.open(store).blocks(), queries, k=100))
    opened = {
        "one piece": load_index(whole, mapped=True)[0],
        "joined": load_index(joined, mapped=True)[0],
        "merge_ondisk": faiss.read_index(str(rival)),
    }
    asked = [
        "| lists looked into | " + " | ".join(f"{name}: recall@10, q/s" for name in opened) + " |",
        "|---|" + "---|" * len(opened),
    ]
    answers: dict[int, Answers] = {}
    for lists in LISTS:
        recall = {
            name: float(truth.shares(nearest(index, queries, 10, effort=lists)[1], 10).mean())
            for name, index in opened.items()
        }

        def rate(name: str, lists: int = lists) -> Callable[[], float]:
            def once() -> float:
                started = time.perf_counter()
                nearest(opened[name], queries, 10, effort=lists)
                return len(queries) / (time.perf_counter() - started)

            return once

        rates = rounds({name: rate(name) for name in opened}, times=TIMES)
        cells = [f"{recall[name]:.4f}, {spread(rates[name])}" for name in opened]
        asked.append(f"| {lists} | {' | '.join(cells)} |")
        answers[lists] = {name: {"recall@10": recall[name], "q/s": rates[name]} for name in opened}
    part, size = given[1].stat().st_size / 1e6, joined.stat().st_size / 1e6
    body = "\n".join(
        [
            *lines, "",
            f"One part is {part:,.0f} MB, the joined index {size:,.0f} MB in one file, the rival's {(rival.stat().st_size + Path(str(rival) + '.ivfdata').stat().st_size) / 1e6:,.0f} MB in two. "
            "Above an empty interpreter; \"its own\" is RssAnon, the rest are pages of files that are mapped, which the system takes back when it needs them. "
            "`join` also checks every part against its SHA-256, tunes, and writes the index twice, since what it is measured by is put in last.",
            "", f"Joining the lists alone, from mapped parts to a file, s: ours {spread(joining['ours'])}, merge_ondisk {spread(joining['merge_ondisk'])}: "
            f"{ratio(joining['merge_ondisk'], joining['ours']):.2f} times as fast ({TIMES} rounds, order drawn anew; the files are in the page cache).",
            "", *asked, "",
            f"{QUERIES:,} queries of the same distribution that are in no index, together, memory-mapped, as FAISS returns them, nothing ranked again; median (range) of {TIMES} rounds.",
        ]
    )  # fmt: skip
    write(
        "index_parts_cpu", claim=f"An index of {rows:,} x {WIDTH} vectors in {parts} parts", body=body, packages=["faiss-cpu", "numpy"],
        data=f"made up here (PCG64, seed 0): a cluster for every 100 vectors, noise as long as a centre, {WIDTH} numbers; {factory}", keep=keep,
        rows=summary(steps, answers, joining, rows=rows, parts=parts), figures={"steps": steps, "answers": answers, "seconds of joining": joining},
    )  # fmt: skip


def summary(
    steps: dict[str, dict[str, float]],
    answers: dict[int, Answers],
    joining: dict[str, list[float]],
    *,
    rows: int,
    parts: int,
) -> list[Row]:
    whole, joined = (
        next(cost["its own"] for words, cost in steps.items() if words.startswith(start))
        for start in ("`index build`, in one", "`index join`")
    )
    same = answers[LISTS[0]]
    allowed = 2 * rows / parts * WIDTH * 4 / 1e6
    rates = {name: found["q/s"] for name, found in answers[LISTS[1]].items()}
    faster = ratio(joining["merge_ondisk"], joining["ours"])
    asked = ratio(rates["joined"], rates["merge_ondisk"])
    return [
        Row(
            f"an index of {rows:,} x {WIDTH} filled in {parts} parts and joined on disk: recall@10 at the same lists; memory of its own while it is joined, tuned and measured",
            f"{same['joined']['recall@10']:.4f}; {short(joined)} MB",
            f"built in one piece: {same['one piece']['recall@10']:.4f}; {short(whole)} MB",
            f"{same['joined']['recall@10'] / same['one piece']['recall@10']:.4f}; {short(joined / whole)}",
            f"{short(allowed)} MB asked: two parts of vectors" + lost(joined > allowed, "not kept"),
        ),
        Row(
            f"joining the lists alone; asking the joined index, memory-mapped, {LISTS[1]} lists",
            f"{middle(joining['ours'])} s; {middle(rates['joined'])} q/s",
            f"merge_ondisk of faiss.contrib {middle(joining['merge_ondisk'])} s; {middle(rates['merge_ondisk'])} q/s",
            f"{short(faster)} times as fast{lost(faster < 1)}; {short(asked)}{lost(asked < 1)}",
        ),
    ]


def left_out(folder: Path, out: Path) -> Path:
    """One more part, of the vectors that ours puts in last."""
    index, held = read_index(folder / "trained.faiss"), np.load(folder / "trained.npz")
    index.add_with_ids(held["vectors"], held["ids"])
    faiss.write_index(index, str(out))
    return out


def compared(work: Path, given: list[Path]) -> dict[str, list[float]]:
    """Seconds of joining lists, in this process: ours and the rival's, in turn."""
    from faiss.contrib.ondisk import merge_ondisk

    from simclr.embed.index.joined_lists import write_joined

    trained, *parts = given

    def ours() -> float:
        empty = read_index(trained)
        started = time.perf_counter()
        write_joined(work / "try.faiss", empty, [read_index(part, mapped=True) for part in parts])
        return time.perf_counter() - started

    def theirs() -> float:
        empty = read_index(trained)
        started = time.perf_counter()
        merge_ondisk(empty, [*map(str, parts)], str(work / "try.ivfdata"))
        faiss.write_index(empty, str(work / "try.faiss"))
        taken = time.perf_counter() - started
        (work / "try.ivfdata").unlink()
        return taken

    found = rounds({"ours": ours, "merge_ondisk": theirs}, times=TIMES)
    (work / "try.faiss").unlink()
    return found


def filled(work: Path, rows: int) -> tuple[Path, np.ndarray]:
    """A store, and queries (Q, D) of the same distribution that are not in it."""
    folder, queries = work / "v.store", work / "queries.npy"
    if not queries.exists():
        shutil.rmtree(folder, ignore_errors=True)
        blocks = iter(stores.clustered(rows + QUERIES, WIDTH, clusters=rows // 100))
        first = next(blocks)
        own = itertools.chain([first[QUERIES:]], blocks)
        stores.fill(folder, own, model=stores.model(work / "export"), width=WIDTH)
        np.save(queries, first[:QUERIES])
    return folder, np.load(queries)


if __name__ == "__main__":
    main()
