"""Claim: `simclr clusters` groups 200,000 x 512 vectors with less than 2 GB of extra memory, as well as scikit-learn's MiniBatchKMeans
or better, and finds the number of groups that lie apart.

    clusters.py [--store STORE ...] [--large STORE] [--work FOLDER] [--quick]

Every run is a process of its own; extra memory is its peak above what it has after its imports. The number chosen for the
vectors of STORE is reported, too; and of one that is large what the command takes (`index_large.py --work` makes one of a million).

Shape letters: N = vectors, D = width, K = clusters.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import stores
import watching
from reporting import Row, in_fresh_process, lost, middle, peak_megabytes, ratio, rounds, short, spread, write

from simclr.classify.cluster_count import choose_count
from simclr.classify.clusters import find_clusters
from simclr.embed.index.library import faiss_library
from simclr.embed.store import Store

SIZES, WIDTH, GROUPS, GIVEN, TIMES = (10_000, 50_000, 200_000), 512, 100, 64, 3
CONTENDERS = ("given", "auto", "peer")
Found = dict[str, list[dict[str, Any]]]
"""What `measured` says of each round, by contender."""
KNOWN = (2, 3, 5, 10, 23, 48, 100)
"""Groups that are to be found."""


# ---- one run, in a process of its own


def measured(who: str, folder: str) -> dict[str, Any]:
    """Seconds, MB above the imports, clusters, and the mean cosine to the centre of the own cluster."""
    store = Store.open(folder)
    faiss_library()
    if who == "peer":
        import sklearn.cluster  # noqa: F401
    before, started = peak_megabytes(), time.perf_counter()
    count, tightness, reading = (
        peer(store) if who == "peer" else ours(store, None if who == "auto" else GIVEN)
    )
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "reading": reading, "extra": peak_megabytes() - before, "clusters": count, "tightness": tightness}  # fmt: skip


def ours(store: Store, count: int | None) -> tuple[int, float, float]:
    found = find_clusters(store, count)
    return len(found.clusters), found.tightness, 0.0


def peer(store: Store) -> tuple[int, float, float]:
    """All vectors in memory, as it takes them; its defaults. Then the cosine to its centres, brought to unit length."""
    from sklearn.cluster import MiniBatchKMeans

    started = time.perf_counter()
    vectors_ND, done = np.empty((len(store), store.info.width), np.float32), 0
    for _, vectors in store.blocks():
        vectors_ND[done : done + len(vectors)] = vectors
        done += len(vectors)
    reading = time.perf_counter() - started
    means = MiniBatchKMeans(GIVEN, random_state=0).fit(vectors_ND)
    centres_KD = means.cluster_centers_ / np.linalg.norm(means.cluster_centers_, axis=1, keepdims=True)
    total = 0.0
    for start in range(0, len(vectors_ND), 4096):
        here = slice(start, start + 4096)
        own_N = means.labels_[here]
        total += float(np.einsum("nd,nd->n", vectors_ND[here], centres_KD[own_N]).sum(dtype=np.float64))
    return GIVEN, total / len(vectors_ND), reading


# ---- how it grows


def sizes(work: Path, all_sizes: tuple[int, ...], times: int) -> tuple[str, dict[int, Found]]:
    figures = {}
    lines = [
        "| vectors | who | clusters | seconds | extra MB | mean cosine |",
        "|---|---|---|---|---|---|",
    ]
    for count in all_sizes:
        folder = work / f"{count}.store"
        if not folder.exists():
            blocks = stores.clustered(count, WIDTH, clusters=GROUPS)
            stores.fill(folder, blocks, model=stores.model(work / "export"), width=WIDTH)
        found: Found = {who: [] for who in CONTENDERS}

        def run(who: str, folder: Path = folder, found: Found = found) -> float:
            found[who].append(in_fresh_process(["--run", who, str(folder)], huge_pages=False))
            return float(found[who][-1]["seconds"])

        seconds = rounds({who: partial(run, who) for who in CONTENDERS}, times=times)
        for who, title in zip(CONTENDERS, (f"clusters -n {GIVEN}", "clusters, number chosen", "MiniBatchKMeans"), strict=True):  # fmt: skip
            each = found[who]
            lines.append(
                f"| {count:,} | {title} | {each[0]['clusters']} | {spread(seconds[who])} | "
                f"{spread([one['extra'] for one in each])} | {each[0]['tightness']:.4f} |"
            )
        figures[count] = found
        reading = statistics.median(one["reading"] for one in found["peer"])
        lines.append(
            f"| {count:,} | -n {GIVEN} / MiniBatchKMeans | | {ratio(seconds['given'], seconds['peer']):.2f} | "
            f"{ratio([one['extra'] for one in found['given']], [one['extra'] for one in found['peer']]):.2f} | "
            f"{found['given'][0]['tightness'] / found['peer'][0]['tightness']:.4f} |"
        )
        print(f"  the peer reads {count:,} vectors in {reading:.2f} s of its time", file=sys.stderr)
    return "\n".join(lines), figures


def summary(figures: dict[int, Found], large: dict[str, dict[str, float]], store: Path) -> list[Row]:
    """Of the most vectors that were made up, and of the store that is large."""
    count, found = [*figures.items()][-1]

    def of(who: str, name: str) -> list[float]:
        return [one[name] for one in found[who]]

    time_, memory, tightness = (
        ratio(of("given", name), of("peer", name)) for name in ("seconds", "extra", "tightness")
    )
    opened = Store.open(store)
    return [
        Row(
            f"{GIVEN} clusters of {count:,} x {WIDTH}, from the store, 2 cores: time; extra memory; mean cosine to the centre (number chosen, too: {middle(of('auto', 'seconds'))} s, {middle(of('auto', 'extra'))} MB)",
            f"{middle(of('given', 'seconds'))} s; {middle(of('given', 'extra'))} MB; {middle(of('given', 'tightness'))}",
            f"scikit-learn's MiniBatchKMeans {middle(of('peer', 'seconds'))} s; {middle(of('peer', 'extra'))} MB; {middle(of('peer', 'tightness'))}",
            f"{short(time_)}{lost(time_ > 1)}; {short(memory)}{lost(memory > 1)}; {short(tightness)}{lost(tightness < 1)}",
            "2 GB allowed" + lost(max(of("given", "extra") + of("auto", "extra")) > 2000, "not kept"),
        ),
        Row(
            f"{len(opened):,} x {opened.info.width}, 2 cores: 256 clusters; number chosen: time; memory of its own",
            f"{', '.join(short(cost['seconds']) for cost in large.values())} s; {', '.join(short(cost['its own'] / 1e3) for cost in large.values())} GB",
            limit=f"{', '.join(short(cost['extra MB'] / 1e3) for cost in large.values())} GB with mapped pages",
        ),
    ]


# ---- how many


def uneven(vectors: int, groups: int, noise: float, *, width: int, seed: int) -> np.ndarray:
    """Like `stores.clustered`, the largest group six times the smallest at most."""
    rng = np.random.Generator(np.random.PCG64(seed))
    middles = rng.standard_normal((groups, width), np.float32)
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    shares = rng.uniform(1, 6, groups)
    own = rng.choice(groups, vectors, p=shares / shares.sum())
    return unit(
        middles[own] + rng.standard_normal((vectors, width), np.float32) * np.float32(noise / width**0.5)
    )


def cloud(vectors: int, power: float, *, width: int) -> np.ndarray:
    """No groups: a normal distribution whose n-th axis is n^-power long, away from the origin."""
    rng = np.random.Generator(np.random.PCG64(0))
    lengths = np.arange(1, width + 1, dtype=np.float32) ** np.float32(-power)
    return unit(
        rng.standard_normal((vectors, width), np.float32) * lengths + np.eye(width, dtype=np.float32)[-1]
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def numbers(
    named: list[Path], *, vectors: int, known: tuple[int, ...], width: int = 128
) -> tuple[str, list[dict[str, Any]]]:
    """What is chosen where it is known, where there are no groups, and for stores; beside what the silhouette alone says."""
    found = list[tuple[str, dict[str, Any]]]()
    lines = [
        "| vectors | groups | chosen | stands out | gain | largest silhouette at |",
        "|---|---|---|---|---|---|",
    ]
    for groups in known:
        for noise in (0.5, 1.0, 2.0):
            data = uneven(vectors, groups, noise, width=width, seed=groups)
            found.append(chosen(f"{vectors:,} x {width}, noise {noise:g}", str(groups), data))
    for power in (0.0, 0.7, 1.5):
        title = f"{vectors:,} x {width}, one cloud, axes n^-{power:g}"
        found.append(chosen(title, "none", cloud(vectors, power, width=width)))
    for folder in named:
        stored = np.concatenate([block for _, block in Store.open(folder).blocks()])
        drawn = np.random.Generator(np.random.PCG64(0)).permutation(len(stored))[:24_576]
        found.append(
            chosen(f"{len(stored):,} x {stored.shape[1]}, {folder.name}", "not known", stored[drawn])
        )
    return "\n".join([*lines, *(line for line, _ in found)]), [each for _, each in found]


def chosen(title: str, groups: str, vectors: np.ndarray) -> tuple[str, dict[str, Any]]:
    """A line, and all that was tried."""
    choice = choose_count(vectors)
    best = max(choice.trials, key=lambda each: each.gain)
    plain = max(choice.trials, key=lambda each: each.silhouette)
    line = f"| {title} | {groups} | {choice.count} | {'yes' if choice.stands_out else 'no'} | {best.gain:+.3f} | {plain.count} ({plain.silhouette:.2f}) |"
    print(f"  {line}", file=sys.stderr)
    return line, {"vectors": title, "groups": groups} | asdict(choice)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--store", type=Path, action="append", default=[], help="a store to choose a number for"
    )
    parser.add_argument("--large", type=Path, help="a store of a million vectors or so")
    parser.add_argument("--work", type=Path, help="keeps the stores made up here")
    parser.add_argument("--quick", action="store_true", help="few vectors, one round, nothing written")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(measured(*options.run)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        body, growing = sizes(work, (5000,) if options.quick else SIZES, 1 if options.quick else TIMES)
    body += (
        f"\n\nMedian (range) of {TIMES} rounds in turn. Vectors: {GROUPS} groups, noise as long as a centre. Ours reads the store, finds centres, and names the images "
        f"of each cluster; MiniBatchKMeans(n_clusters={GIVEN}) has its defaults, its time includes reading the vectors into one array. Mean cosine: of each vector to the "
        "centre of its cluster.\n\n## The number\n\n"
    )
    text, counts = numbers(
        options.store,
        vectors=2000 if options.quick else 8_000,
        known=KNOWN[:3] if options.quick else KNOWN,
    )
    body += text + (
        "\n\nThe last column is what the simplified silhouette alone would choose. Groups have sizes up to 1 : 6; noise is in lengths of a "
        "centre. A gain is the silhouette of vectors left out, less that of made-up vectors of the same mean and covariance."
    )
    large: dict[str, dict[str, float]] = {}
    if options.large:
        body += f"\n\n## {len(Store.open(options.large)):,} x {Store.open(options.large).info.width}\n\n"
        text, large = watching.table([["clusters", "-n", "256"], ["clusters"]], store=options.large)
        body += text
    write("clusters_cpu", claim="Groups of like images, and how many there are", data="made up here (PCG64), and stores where they are named", packages=["faiss-cpu", "numpy", "scikit-learn"], body=body, rows=summary(growing, large, options.large) if large else (), figures={"made up": growing, "number": counts, "large": large}, keep=not options.quick)  # fmt: skip


if __name__ == "__main__":
    main()
