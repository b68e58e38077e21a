"""Claim: an index of 1,000,000 x 2048 vectors is chosen and built on 2 cores within 6 GB of memory, for a budget of 3 GB; what it costs at
10,000, 100,000 and 1,000,000 rows, against exact search.

    index_large.py [--rows 10000 100000 1000000] [--work FOLDER] [--quick]

Every index is built by a process of its own, whose memory is read from /proc twice a second. `--work` keeps stores, indexes, which
take 4.1 GB and up to 3 GB for the largest, and figures: what is there is not made again.
"""

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import stores
from reporting import Row, lost, middle, peak_megabytes, short, spread, write

from simclr.embed.exact import TIE
from simclr.embed.index import IndexWish, build_index
from simclr.embed.search import Index
from simclr.embed.store import Store

WIDTH = 2048
PER_CLUSTER = 100
"""Vectors of each cluster, at every size: with a fixed number of clusters small stores would have no neighbours in theirs."""
QUERIES, SINGLE, TIMES, K = 1000, 200, 3, 10
MEMORY = 3000
"""Bytes a vector, 3 GB for a million."""
LIMIT = 6.0
"""GB of memory that building may take."""
THREADS = 2


def fill(work: Path, rows: int, width: int) -> tuple[Store, np.ndarray]:
    """A store, and queries (Q, D) of the same distribution that are not in it."""
    folder, queries = work / f"{rows}.store", work / f"{rows}.queries.npy"
    if not queries.exists():
        shutil.rmtree(folder, ignore_errors=True)
        rest: list[np.ndarray] = []

        def first(blocks: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
            left = rows
            for vectors in blocks:
                if left:
                    yield vectors[:left]
                rest.append(vectors[left:].copy())  # a view would keep the block
                left = max(0, left - len(vectors))

        blocks = stores.clustered(rows + QUERIES, width, clusters=rows // PER_CLUSTER)
        stores.fill(folder, first(blocks), model=stores.model(work / "export"), width=width)
        np.save(queries, np.concatenate(rest))
    return Store.open(folder), np.load(queries)


# ---- building, in a process of its own


def build(store: Path, index: Path, memory: int) -> None:
    """Prints as JSON what the sidecar says, when each phase began, and the peak of this process."""
    started, phases, last = time.time(), list[tuple[float, str]](), [0]

    def say(words: str) -> None:
        phases.append((time.time(), words.removeprefix("index: ")))
        print(f"  {phases[-1][0] - started:.1f} s: {phases[-1][1]}", file=sys.stderr)

    def progress(done: int, total: int, _: str) -> None:
        if not done:
            say("filling")
        elif done == total and last[0] != total:
            say("tuning, measuring, saving")
        last[0] = done

    say("sampling")
    info = build_index(Store.open(store), index, IndexWish(memory=memory), progress=progress, note=say)
    print(
        json.dumps(
            {
                "seconds": time.time() - started,
                "phases": [*phases, (time.time(), "end")],
                "peak": peak_megabytes() / 1e3,
                "factory": info.factory,
                "asked": info.search_parameters,
                "reason": info.reason,
                "measured": info.measured,
                "trials": [
                    [
                        t.factory,
                        t.memory,
                        t.recall,
                        t.queries_per_second,
                        t.latency,
                        t.build_seconds,
                        t.verdict,
                    ]
                    for t in info.trials
                ],
            }
        )
    )


def watched(words: list[str]) -> dict[str, Any]:
    """What such a process prints, with the most memory of its own (RssAnon, in GB) that was seen in each phase."""
    process = subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)
    status, seen = Path(f"/proc/{process.pid}/status"), list[tuple[float, float]]()
    while process.poll() is None:
        lines = status.read_text().splitlines()
        seen += [
            (time.time(), int(line.split()[1]) * 1024 / 1e9) for line in lines if line.startswith("RssAnon")
        ]
        time.sleep(0.5)
    assert process.stdout
    said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: ended with {process.returncode}")
    built = json.loads(said.splitlines()[-1])
    marks = built["phases"]
    spans = [(words, start, end) for (start, words), (end, _) in itertools.pairwise(marks)]
    built["phases"] = [
        (words, end - start, max((own for moment, own in seen if start <= moment <= end), default=0.0))
        for words, start, end in spans
    ]
    return built | {"own": max(own for _, own in seen)}


# ---- asking


def scan(store: Store, queries: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Seconds of exact search for all queries, for one alone, and the similarity of each query's tenth neighbour.

    By FAISS over float32 vectors in memory, a block of the store at a time; reading the blocks is not counted.
    """
    faiss.omp_set_num_threads(THREADS)
    best = np.full((len(queries), K), -np.inf, np.float32)
    together = alone = 0.0
    for _, vectors in store.blocks():
        started = time.perf_counter()
        found, _ = faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)
        middle = time.perf_counter()
        faiss.knn(queries[:1], vectors, K, metric=faiss.METRIC_INNER_PRODUCT)
        together, alone = together + middle - started, alone + time.perf_counter() - middle
        best = -np.partition(-np.hstack([best, found]), K - 1, axis=1)[:, :K]
    return together, alone, best.min(1)


def ask(path: Path, queries: np.ndarray, tenth: np.ndarray) -> dict[str, Any]:
    """Whole searches as a user makes them, on queries that nothing was tuned by."""
    started = time.perf_counter()
    index = Index.open(path)
    opened = time.perf_counter() - started
    index.search(queries[:8], K)
    rates, single = [], []
    for _ in range(TIMES):
        started = time.perf_counter()
        hits = index.search(queries, K)
        rates.append(len(queries) / (time.perf_counter() - started))
        each = []
        for query in queries[:SINGLE]:
            started = time.perf_counter()
            index.search(query[None], K)
            each.append((time.perf_counter() - started) * 1e3)
        single.append(statistics.median(each))
    shares = np.array(
        [
            np.mean([hit.similarity >= last - TIE for hit in row])
            for row, last in zip(hits, tenth, strict=True)
        ]
    )
    return {"rates": rates, "single": single, "opened": opened,
            "recall": float(shares.mean()), "error": float(shares.std() / len(shares) ** 0.5)}  # fmt: skip


# ---- the report


def row(rows: int, built: dict, asked: dict, scanned: tuple[float, float]) -> str:
    together, alone = QUERIES / scanned[0], scanned[1] * 1e3
    m, way = built["measured"], ", ".join(f"{name} {value:g}" for name, value in built["asked"].items())
    return (
        f"| {rows:,} | {built['factory']} ({way}) | {built['seconds']:.0f} | {built['own']:.2f}; {built['peak']:.2f} | {m['bytes'] / 1e6:,.1f} "
        f"| {m['recall@10']:.3f}, {m['queries_per_second']:,.0f}, {m['latency_ms']:.2f} ({m['latency_p99_ms']:.2f}) | {asked['recall']:.4f} ± {asked['error']:.4f} "
        f"| {spread(asked['rates'])} | {spread(asked['single'])} | {together:,.0f}; {alone:.1f} ms | {statistics.median(asked['rates']) / together:.1f} |"
    )  # fmt: skip


def phases(rows: int, built: dict) -> str:
    lines = [f"| {words} | {took:.1f} | {own:.2f} |" for words, took, own in built["phases"]]
    trials = [
        f"| {factory} | {memory / 1e6:,.0f} | "
        + " | ".join("" if x is None else f"{x:,g}" for x in figures)
        + f" | {verdict} |"
        for factory, memory, *figures, verdict in built["trials"]
    ]
    head = "| foretold | MB | recall@10 | q/s | one query, ms | build, s | verdict |\n|---|---|---|---|---|---|---|\n"
    return (
        f"## {rows:,} rows: {built['reason']}\n\n| phase | took, s | most memory of its own, GB |\n|---|---|---|\n" + "\n".join(lines)
        + (f"\n\n{head}" + "\n".join(trials) if trials else "")
    )  # fmt: skip


def summary(figures: dict[int, list], width: int) -> list[Row]:
    """Of the largest; the recall, rate and time of one query of the others, too."""

    def found(rows: int) -> list[str]:
        asked = figures[rows][1]
        return [f"{asked['recall']:.3f}", f"{middle(asked['rates'])} /s", f"{middle(asked['single'])} ms"]

    *smaller, largest = sorted(figures)
    built, asked, (together, alone) = figures[largest]
    others = "; ".join(f"{rows:,} rows: {', '.join(found(rows))}" for rows in smaller)
    return [
        Row(
            f"an index of {largest:,} x {width}, chosen within {largest * MEMORY * width / WIDTH / 1e9:g} GB, 0.95 and 10 ms, built on {THREADS} cores: time; peak memory",
            f"{built['seconds']:.0f} s; {short(built['own'])} GB of its own, {short(built['peak'])} with mapped files",
            limit=f"{LIMIT:g} GB allowed" + lost(built["own"] > LIMIT, "not kept"),
        ),
        Row(
            "the same: recall@10; queries a second; one query" + (f" ({others})" if others else ""),
            "; ".join(found(largest)) + lost(asked["recall"] < 0.95, "below the 0.95 asked"),
            f"exact scan in float32, in memory: {short(QUERIES / together)} /s; {short(alone * 1e3)} ms",
            f"{short(statistics.median(asked['rates']) * together / QUERIES)} times the rate",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--work", type=Path, help="keeps stores and indexes [a temporary folder]")
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing written")
    options = parser.parse_args()
    sizes, width = ([2000, 20_000], 128) if options.quick else (options.rows, WIDTH)
    table, parts, worst, figures = [], [], 0.0, {}
    with tempfile.TemporaryDirectory() as place:
        work = options.work or Path(place)
        work.mkdir(exist_ok=True)
        for rows in sizes:
            store, queries = fill(work, rows, width)
            path, note = work / f"{rows}.faiss", work / f"{rows}.json"
            if not note.exists():
                memory = rows * MEMORY * width // WIDTH
                built = watched(["build", str(store.folder), str(path), str(memory)])
                together, alone, tenth = scan(store, queries)
                note.write_text(json.dumps([built, ask(path, queries, tenth), [together, alone]]))
            figures[rows] = built, asked, scanned = json.loads(note.read_text())
            table.append(row(rows, built, asked, scanned))
            parts.append(phases(rows, built))
            worst = max(worst, built["own"])
            print(table[-1], file=sys.stderr)
    body = (
        "| rows | chosen | built in s | peak memory, GB: own; with mapped files | file, MB | sidecar: recall@10, q/s, ms (p99) | recall@10 outside "
        "| Index.search, q/s | one query, ms | exact scan: q/s; one query | q/s over the scan's |\n" + "|---" * 11 + "|\n" + "\n".join(table)
        + f"\n\nMost memory of its own {worst:.2f} GB, allowed {LIMIT:g}: {'kept' if worst <= LIMIT else '**not kept**'}. Budget {MEMORY:,} bytes a vector, recall@10 0.95, 10 ms. "
        "\"Own\" is RssAnon, sampled twice a second; \"with mapped files\" is VmHWM, in which pages of the store that were read by mapping count, and which the system "
        f"takes back when it needs them. {QUERIES:,} queries of the same distribution that are in no index, together (q/s) or {SINGLE} alone (median); median (range) of "
        f"{TIMES} rounds. The scan is FAISS's exact search in float32 with {THREADS} threads, its vectors in memory, measured once.\n\n" + "\n\n".join(parts)
    )  # fmt: skip
    write("index_large_cpu", claim="An index of a million vectors of 2048 numbers on two cores", data=f"made up here (PCG64, seed 0): a cluster for every {PER_CLUSTER} vectors, noise as long as a centre, {width} numbers", packages=["faiss-cpu", "numpy", "pyarrow"], body=body, rows=summary(figures, width), figures=figures, keep=not options.quick)  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["build"]:
        build(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
