"""Claim: the near copies in a store of 200,000 x 512 vectors are found within 2 GB of memory beside those of the program, with and without an index.

    duplicates_large.py [--rows 20000 50000 200000] [--twin 50000] [--large STORE] [--work FOLDER] [--quick]

Made-up clustered vectors, and a near copy of each fiftieth. Every search is a process of its own; extra memory is its peak less that of a process
that imports and opens the same and searches nothing. The slow twin is every pair, by a blocked product in numpy.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import stores
import watching
from programs import run
from reporting import Row, lost, peak_megabytes, short, write

from simclr.classify.copy_search import find_duplicates
from simclr.embed.index import build_index
from simclr.embed.store import Store

WIDTH = 512
PER_CLUSTER = 100
EVERY = 50
"""One vector in so many is a copy, of the vector before it."""
NOISE = 0.2
"""Length of what is added to a copy: cosines of about 0.98."""
THRESHOLD = 0.95
LIMIT = 2.0
"""GB beside the program."""


def with_copies(blocks: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    rng = np.random.default_rng(7)
    for vectors in blocks:
        copies = np.arange(EVERY - 1, len(vectors), EVERY)
        noise = rng.standard_normal((len(copies), vectors.shape[1]), np.float32)
        vectors[copies] = vectors[copies - 1] + noise * np.float32(NOISE / vectors.shape[1] ** 0.5)
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def planted(rows: int) -> set[tuple[int, int]]:
    starts = range(0, rows, stores.SHARD_ROWS)
    return {
        (start + place - 1, start + place)
        for start in starts
        for place in range(EVERY - 1, min(stores.SHARD_ROWS, rows - start), EVERY)
    }


def fill(work: Path, rows: int) -> Path:
    """A store, and beside its name another one of the same files with an index."""
    plain, indexed = work / f"{rows}.store", work / f"{rows}-indexed.store"
    if not indexed.with_suffix(".faiss").exists():
        for folder in (plain, indexed):
            shutil.rmtree(folder, ignore_errors=True)
        blocks = with_copies(stores.clustered(rows, WIDTH, clusters=max(1, rows // PER_CLUSTER)))
        stores.fill(plain, blocks, model=stores.model(work / "export"), width=WIDTH)
        shutil.copytree(plain, indexed)
        build_index(Store.open(indexed), indexed.with_suffix(".faiss"))
    return plain


def measured(words: list[str]) -> dict[str, Any]:
    """What such a process says in its last line."""
    said: dict[str, Any] = json.loads(run([sys.executable, __file__, *words]).splitlines()[-1])
    return said


def opening(store: Path) -> None:
    """Imports and opens."""
    from simclr.embed.index.library import faiss_library

    faiss_library()
    print(json.dumps({"peak": peak_megabytes(), "rows": len(Store.open(store))}))


def search(store: Path) -> None:
    started = time.perf_counter()
    found = find_duplicates(
        Store.open(store),
        threshold=THRESHOLD,
        note=lambda line: print(line, file=sys.stderr),
        show=lambda what: nullcontext(lambda done, total, words: None),
    )
    seconds = time.perf_counter() - started
    pairs = [
        sorted((int(group.keeper), int(copy))) for group in found.groups for copy in group.copies_C
    ]  # ids count from 0, so a place is an id
    print(json.dumps({"seconds": seconds, "peak": peak_megabytes(), "pairs": pairs}))


def twin(store: Path) -> None:
    """Every pair."""
    started = time.perf_counter()
    vectors = np.concatenate([block for _, block in Store.open(store).blocks()])
    pairs = []
    for start in range(0, len(vectors), 1000):
        alike = vectors[start : start + 1000] @ vectors[start:].T
        one, other = np.nonzero(alike >= THRESHOLD)
        pairs += [[start + i, start + j] for i, j in zip(one.tolist(), other.tolist(), strict=True) if i < j]
    print(json.dumps({"seconds": time.perf_counter() - started, "peak": peak_megabytes(), "pairs": pairs}))


def summary(figures: list[dict[str, Any]], large: dict[str, dict[str, float]], store: Path) -> list[Row]:
    """Of the most rows, of the most that every pair was compared of, and of the store that is large."""
    *_, without, indexed = figures
    *_, bare, fast = (each for each in figures if each["seconds of every pair"])
    (cost,), opened = large.values(), Store.open(store)
    faster = [each["seconds of every pair"] / each["seconds"] for each in (bare, fast)]
    most, least = (
        pick(each[key] for each in (without, indexed)) for pick, key in ((max, "extra GB"), (min, "found"))
    )
    return [
        Row(
            f"near copies in {without['rows']:,} x {WIDTH}, 2 cores, without and with an index: time; extra memory; planted pairs found",
            f"{short(without['seconds'])}, {short(indexed['seconds'])} s; {short(without['extra GB'])}, {short(indexed['extra GB'])} GB; {least:.4f}",
            f"of {bare['rows']:,}, every pair in numpy: {short(bare['seconds of every pair'])} s, ours {short(bare['seconds'])} and {short(fast['seconds'])} s",
            f"{', '.join(map(short, faster))} times as fast{lost(faster[1] < 1)}",
            f"{LIMIT:g} GB allowed" + lost(most > LIMIT, "not kept"),
        ),
        Row(
            f"near copies in {len(opened):,} x {opened.info.width} through an index: time; memory of its own",
            f"{short(cost['seconds'])} s; {short(cost['its own'] / 1e3)} GB",
            limit=f"{short(cost['extra MB'] / 1e3)} GB with mapped pages",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 50_000, 200_000])
    parser.add_argument("--twin", type=int, default=50_000, help="most rows that every pair is compared of")
    parser.add_argument(
        "--large", type=Path, help="a store of a million vectors or so, with an index beside it"
    )
    parser.add_argument("--work", type=Path, help="keeps stores and indexes [a temporary folder]")
    parser.add_argument("--quick", action="store_true", help="few rows, nothing written")
    options = parser.parse_args()
    sizes = [2000] if options.quick else options.rows
    table, worst, figures, large = [], 0.0, [], {}
    with tempfile.TemporaryDirectory() as place:
        work = options.work or Path(place)
        work.mkdir(exist_ok=True)
        for rows in sizes:
            store = fill(work, rows)
            base = measured(["opening", str(store)])["peak"]
            truth = planted(rows)
            every = measured(["twin", str(store)]) if rows <= options.twin else None
            for title, path in (("none", store), ("there", work / f"{rows}-indexed.store")):
                ours = measured(["search", str(path)])
                extra = (ours["peak"] - base) / 1e3
                worst = max(worst, extra)
                found = {(one, other) for one, other in ours["pairs"]}
                wrong = len(found - truth)
                figures.append({"rows": rows, "index": title, "seconds": ours["seconds"], "extra GB": extra, "found": len(found & truth) / len(truth), "other pairs": wrong, "seconds of every pair": every and every["seconds"]})  # fmt: skip
                exact = (
                    f"{every['seconds']:.1f} | {every['seconds'] / ours['seconds']:.2f}" if every else " | "
                )
                same = f"{len(found & {(a, b) for a, b in every['pairs']}):,} of {len(every['pairs']):,}" if every else ""  # fmt: skip
                table.append(
                    f"| {rows:,} | {title} | {ours['seconds']:.1f} | {extra:.2f} | {len(found & truth) / len(truth):.4f} | {wrong:,} | {exact} | {same} |"
                )
                print(table[-1], file=sys.stderr)
    body = (
        "| rows | index | time, s | extra peak memory, GB | planted pairs found | other pairs | every pair by numpy, s | that over ours | its pairs that are ours |\n" + "|---" * 9
        + "|\n" + "\n".join(table) + f"\n\nMost extra memory {worst:.2f} GB, allowed {LIMIT:g}: {'kept' if worst <= LIMIT else '**not kept**'}. "
        "It is VmHWM, in which mapped pages of the store and the index count that the system takes back when it needs them. Where there is no index, building it for the moment is "
        f"in time and memory. Measured once each; threshold {THRESHOLD}.\n"
    )  # fmt: skip
    if options.large:
        body += f"\n## {len(Store.open(options.large)):,} x {Store.open(options.large).info.width}\n\n"
        words = ["duplicates", "--threshold", "0.97", "--index", str(options.large.with_suffix(".faiss"))]
        text, large = watching.table([words], store=options.large)
        body += text
    write("duplicates_large_cpu", claim="Near copies in a store of 200,000 vectors of 512 numbers", data=f"made up here (PCG64, seed 0): a cluster for every {PER_CLUSTER} vectors, noise as long as a centre; one in {EVERY} is the vector before it with noise of {NOISE:g}", packages=["faiss-cpu", "numpy", "pyarrow"], body=body, rows=summary(figures, large, options.large) if large else (), figures={"made up": figures, "large": large}, keep=not options.quick)  # fmt: skip


if __name__ == "__main__":
    parts = {"opening": opening, "search": search, "twin": twin}
    if sys.argv[1:2] and sys.argv[1] in parts:
        parts[sys.argv[1]](Path(sys.argv[2]))
    else:
        main()
