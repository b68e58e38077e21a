"""Claim: whatever moment `kill -9` ends an update of an index at, the old index or the new one is there, and one clean run makes it equal its store.

    index_kills.py [--kills N] [--quick]

A store is changed (rows added, dropped, given other vectors), an update of its index begins in a process of its own and is killed after a random
time of up to a whole update. Then the index must open and hold the ids of the store before or after; an undisturbed update must give an index
that holds the store's ids, finds every vector by itself, and leaves no unfinished file. Kills at named points of a writer are in
`tests/embed/index/test_index_files.py`; here the moment is chance.
"""

import argparse
import collections
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import stores
from reporting import write

from simclr.embed.index import IndexWish, build_index, check_index, load_index, update_index
from simclr.embed.index.anatomy import NOBODY, Anatomy
from simclr.embed.lookup import Lookup
from simclr.embed.neighbours import Finder
from simclr.embed.store import Store
from simclr.embed.writer import writing

ROWS, WIDTH, KILLS = 10_000, 128, 50
TYPES = ("IDMap2,Flat", "IVF64,SQ8", "IVF64,RaBitQfs4", "HNSW16,SQ8")
UPDATE = """
import sys
from simclr.embed.index import update_index
from simclr.embed.store import Store
import faiss
store, path = Store.open(sys.argv[1]), sys.argv[2]
print("begins", flush=True)
update_index(store, path)
"""


def change(folder: Path, rng: np.random.Generator) -> None:
    """Some 1 % of the rows: new ones, dropped ones, others under the same id."""
    vectors = np.concatenate(list(stores.clustered(300, WIDTH, seed=int(rng.integers(1 << 30)))))
    with writing(folder) as writer:
        held = np.concatenate([table["id"].to_numpy() for table in writer.store.tables(["id"])])
        picked = rng.permutation(held)[:200].tolist()
        changed, gone = picked[:100], picked[100:]
        ids = [*changed, *writer.new_ids(200)]
        writer.commit([stores.row(id) for id in ids], vectors, drop=[*changed, *gone])


def begin(folder: Path, path: Path) -> subprocess.Popen[str]:
    """A process that has just begun to update."""
    child = subprocess.Popen(
        [sys.executable, "-c", UPDATE, folder, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "begins\n"
    return child


def ids_in(path: Path) -> list[int]:
    ids = Anatomy.of(load_index(path)[0]).stored_ids()
    return sorted(ids[ids != NOBODY].tolist())


def faults(folder: Path, path: Path) -> list[str]:
    """What is wrong with an index after a clean update."""
    store = Store.open(folder)
    checked = check_index(path)
    found = list(checked.faults)
    if checked.missing or checked.superfluous:
        found.append(f"{checked.missing} missing, {checked.superfluous} too many")
    lookup = Lookup(store)
    index, info = load_index(path)
    rows = [
        (id, vector) for ids, block in store.blocks() for id, vector in zip(ids.tolist(), block, strict=True)
    ][::37]
    similarities, _ = Finder(index, info, lookup).find(np.stack([vector for _, vector in rows]), 1)
    if (lost := int((similarities[:, 0] < 0.9999).sum())) > len(rows) // 50:
        found.append(f"{lost} of {len(rows)} vectors do not find themselves")
    found += [
        f"left {file.name}"
        for file in path.parent.glob(f"*{path.name}*")
        if file.name.endswith((".tmp", ".next"))
    ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--quick", action="store_true", help="a few kills of a small store, no report")
    options = parser.parse_args()
    rows, kills = (4000, 8) if options.quick else (ROWS, options.kills)
    rng, moments = np.random.Generator(np.random.PCG64(0)), random.Random(0)
    outcomes: dict[str, collections.Counter[str]] = {}
    with tempfile.TemporaryDirectory() as work:
        model = stores.model(Path(work) / "export")
        for place, factory in enumerate(TYPES):
            folder, path = Path(work) / f"{place}.store", Path(work) / f"{place}.faiss"
            stores.fill(folder, stores.clustered(rows, WIDTH), model=model, width=WIDTH)
            build_index(Store.open(folder), path, IndexWish(index_type=factory, recall=0.5))
            change(folder, rng)
            child, started = begin(folder, path), time.perf_counter()
            child.wait()
            whole = time.perf_counter() - started
            counts = outcomes[factory] = collections.Counter()
            for _ in range(place, kills, len(TYPES)):
                old = ids_in(path)
                change(folder, rng)
                new = sorted(Lookup(Store.open(folder)).ids.tolist())
                child = begin(folder, path)
                time.sleep(moments.uniform(0, 1.1 * whole))
                child.send_signal(signal.SIGKILL)
                ended = child.wait() == 0
                try:
                    state = {str(old): "the old index", str(new): "the new index"}.get(
                        str(ids_in(path)), "NEITHER"
                    )
                except Exception as exc:
                    state = f"NEITHER ({exc})"
                counts[state + (" (update had ended)" if ended else "")] += 1
                update_index(Store.open(folder), path)
                for fault in faults(folder, path):
                    counts[f"AFTER A CLEAN RUN: {fault}"] += 1
                counts["equal to its store after a clean run"] += not faults(folder, path)
            print(factory, f"{whole:.2f} s an update", dict(counts), file=sys.stderr)
    total = sum(outcomes.values(), collections.Counter())
    lines = ["| type | " + " | ".join(sorted(total)) + " |", "|---|" + "---|" * len(total)]
    lines += [
        f"| {factory} | " + " | ".join(str(counts[name]) for name in sorted(total)) + " |"
        for factory, counts in outcomes.items()
    ]
    body = (
        f"{kills} kills, {rows:,} x {WIDTH} vectors, 200 rows added, 100 dropped and 100 changed before each.\n\n"
        + "\n".join(lines)
    )
    write("index_kills", claim="50 random `kill -9` during updates of an index", data="made up here (PCG64, seed 0)", packages=["faiss-cpu", "numpy"], body=body, keep=not options.quick)  # fmt: skip


if __name__ == "__main__":
    main()
