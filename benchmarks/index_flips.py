"""Claim: of 500 random bytes changed in the files of an index every one is refused, or changes nothing; plain FAISS loads most of them.

    index_flips.py [--flips N] [--quick]

One byte of `out.faiss`, its sidecar or its entries gets another value. Then the index is opened and searched. A change that is not refused must leave the
answers as they were, and after the store has changed too an update must bring the index in step with it. Beside it: what `faiss.read_index` makes of the same
`out.faiss`, in a process of its own. Sidecars of random or edited JSON, resealed or not, must be refused on one line.
"""

import argparse
import collections
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import stores
from reporting import write

from simclr.artifacts import _seal
from simclr.embed.index import IndexWish, build_index, check_index, sidecar, update_index
from simclr.embed.index.files import entries_file
from simclr.embed.search import Index
from simclr.embed.store import Store
from simclr.embed.writer import writing
from simclr.errors import ArtifactError

ROWS, WIDTH, FLIPS, FUZZED = 3000, 64, 500, 300
TYPES = ("IDMap2,Flat", "IVF32,SQ8", "IVF32,RaBitQfs4", "HNSW16,SQ8")
PLAIN = """
import sys, numpy as np, faiss
faiss.omp_set_num_threads(1)
index = faiss.read_index(sys.argv[1])
print(index.search(np.load(sys.argv[2]), 10)[1].tolist())
"""


def plain(path: Path, queries: Path) -> str:
    """What FAISS alone makes of a file."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PLAIN, path, queries], capture_output=True, text=True, timeout=10
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    if done.returncode < 0:
        return "crashes"
    return done.stdout if done.returncode == 0 else "raises"


def flipped(path: Path, moments: random.Random) -> bytes:
    """Change one byte of a file; gives its content before."""
    before = path.read_bytes()
    data = bytearray(before)
    data[moments.randrange(len(data))] ^= moments.randrange(1, 256)
    path.write_bytes(data)
    return before


def answers(path: Path, queries: np.ndarray) -> str:
    try:
        return repr([[(hit.id, hit.similarity) for hit in hits] for hits in Index.open(path).search(queries)])
    except ArtifactError as exc:
        return "refused" if "\n" not in str(exc) else "REFUSED ON SEVERAL LINES"


def fuzzed(values: dict[str, Any], moments: random.Random) -> bytes:
    """A sidecar that nobody should believe."""
    kind = moments.randrange(5)
    text = json.dumps(values).encode()
    if kind == 0:
        return text[: moments.randrange(len(text))]
    if kind == 1:
        return moments.randbytes(moments.randrange(400))
    if kind == 2:
        return (b'{"a":' * moments.randrange(1, 20_000)) + b"1"
    odd = [None, -1, 10**400, "x" * 5000, [], {}, True, [[1]], {"a": None}, 1e308]
    changed = dict(values)
    name = moments.choice([key for key in changed if key != "seal"])
    if kind == 3:
        del changed[name]
    else:
        changed[name] = moments.choice([value for value in odd if value != changed[name]])
    inner = {key: value for key, value in changed.items() if key not in ("simclr", "format", "seal")}
    return json.dumps(changed | {"seal": _seal(inner)}).encode()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flips", type=int, default=FLIPS)
    parser.add_argument("--quick", action="store_true", help="a few flips, no report")
    options = parser.parse_args()
    flips, fuzz = (24, 40) if options.quick else (options.flips, FUZZED)
    moments, counts = (
        random.Random(0),
        collections.defaultdict[str, collections.Counter[str]](collections.Counter),
    )
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model, queries = (
            stores.model(work / "export"),
            np.concatenate(list(stores.clustered(20, WIDTH, seed=1))),
        )
        np.save(work / "queries.npy", queries)
        for place, factory in enumerate(TYPES):
            folder, path = work / f"{place}.store", work / f"{place}.faiss"
            stores.fill(folder, stores.clustered(ROWS, WIDTH), model=model, width=WIDTH)
            build_index(Store.open(folder), path, IndexWish(index_type=factory, recall=0.5))
            right, plainly = answers(path, queries), plain(path, work / "queries.npy")
            for flip in range(place, flips, len(TYPES)):
                file = (path, sidecar(path), entries_file(path))[(flip // len(TYPES)) % 3]
                before = flipped(file, moments)
                found = answers(path, queries)
                outcome = "same answers" if found == right else found if len(found) < 50 else "OTHER ANSWERS"
                counts[file.suffix][outcome] += 1
                if file == path:
                    alone = plain(path, work / "queries.npy")
                    told = (
                        "loads, same answers"
                        if alone == plainly
                        else alone
                        if len(alone) < 50
                        else "loads, other answers"
                    )
                    counts["plain FAISS"][told] += 1
                elif outcome == "same answers":  # the entries are for updates
                    with writing(folder) as writer:
                        id = next(iter(writer.new_ids(1)))
                        writer.commit([stores.row(id)], queries[:1])
                    update_index(Store.open(folder), path)
                    checked = check_index(path)
                    in_step = not (checked.faults or checked.missing or checked.superfluous)
                    counts[file.suffix]["then in step after an update" if in_step else "NOT IN STEP"] += 1
                    right, plainly = answers(path, queries), plain(path, work / "queries.npy")
                    continue
                file.write_bytes(before)
            values, whole = json.loads(sidecar(path).read_text()), sidecar(path).read_bytes()
            for _ in range(fuzz // len(TYPES)):
                sidecar(path).write_bytes(fuzzed(values, moments))
                found = answers(path, queries)
                counts["fuzzed sidecars"][
                    found if len(found) < 50 else "same answers" if found == right else "OTHER ANSWERS"
                ] += 1
            sidecar(path).write_bytes(whole)
            print(factory, {key: dict(value) for key, value in counts.items()}, file=sys.stderr)
    lines = [
        f"| {what} | " + ", ".join(f"{outcome}: {count}" for outcome, count in counter.most_common()) + " |"
        for what, counter in counts.items()
    ]
    body = (
        f"{flips} bytes, {fuzz} sidecars, {ROWS:,} x {WIDTH} vectors, {', '.join(TYPES)}.\n\n| | |\n|---|---|\n"
        + "\n".join(lines)
    )
    write("index_flips", claim="One byte changed in the files of an index, 500 times", data="made up here (PCG64, seed 0)", packages=["faiss-cpu", "numpy"], body=body, keep=not options.quick)  # fmt: skip


if __name__ == "__main__":
    main()
