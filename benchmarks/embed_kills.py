"""Claim: after 50 random `kill -9` of `simclr embed` and one clean run, the store equals an undisturbed one: nothing twice, nothing
lost, and no image that was committed before a kill is embedded again.

    embed_kills.py [--kills 50] [--images 2000] [--cifar cifar10.npz] [--seed 0] [--quick]

The store is read with json, numpy and pyarrow alone, as any other program would. Shards are made small, so that there are many
moments to hit; the process group is killed at a moment drawn evenly from the start of the process to some way into its work. A
store that is complete before the kills are used up is compared, and another begun.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pictures import small
from programs import embed, export, run
from reporting import Row, lost, write

SHARD_ROWS, SHARD_SECONDS = 8, 0.5
"""In place of the package's, which would take a kill a minute to hit anything."""
SHARE = 0.12
"""Of an undisturbed run's work: how far a run may get before it is killed."""
LOST = 64
"""Images that a kill may cost at most: an unfinished shard, one being written, and the batches on their way."""
SAME = 1e-3
"""Largest difference of a coordinate: a batch of another size may round another way, and float16 has steps of 5e-4 below 1."""


# ---- what a store holds


@dataclass
class Held:
    """A store as it lies on disk, read by its manifest."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By image_path."""
    vectors: dict[str, NDArray[np.float16]] = field(default_factory=dict)
    stray: list[str] = field(default_factory=list)
    """Files of vectors, metadata or unfinished writing that the manifest does not list."""
    exists: bool = False
    problems: list[str] = field(default_factory=list)


def held(store: Path) -> Held:
    found = Held(exists=(store / "manifest.json").exists())
    if not found.exists:
        return found
    manifest = json.loads((store / "manifest.json").read_text())
    listed = set()
    ids: list[int] = []
    for shard in manifest["shards"]:
        vectors_path = store / f"img_emb/img_emb_{shard['number']:05d}.npy"
        metadata_path = store / f"metadata/metadata_{shard['number']:05d}.parquet"
        listed |= {vectors_path, metadata_path}
        vectors, rows = np.load(vectors_path), pq.read_table(metadata_path).to_pylist()
        if not len(vectors) == len(rows) == shard["rows"]:
            found.problems.append(
                f"shard {shard['number']}: {len(vectors)} vectors, {len(rows)} rows, {shard['rows']} listed"
            )
        for row, vector in zip(rows, vectors, strict=True):
            if row["image_path"] in found.rows:
                found.problems.append(f"{row['image_path']}: twice")
            found.rows[row["image_path"]], found.vectors[row["image_path"]] = row, vector
            ids.append(row["id"])
    if len(set(ids)) < len(ids) or max(ids, default=-1) >= manifest["next_id"]:
        found.problems.append("ids are not unique and below next_id")
    there = [path for folder in ("img_emb", "metadata") for path in (store / folder).iterdir()]
    found.stray = [
        path.name for path in [*there, *store.glob("*.tmp"), *store.glob(".*.tmp")] if path not in listed
    ]
    return found


def kept(before: Held, after: Held) -> list[str]:
    """What a kill took away or changed of what had been committed."""
    problems = [*after.problems]
    for path, row in before.rows.items():
        if path not in after.rows:
            problems.append(f"{path}: was committed and is gone")
        elif after.rows[path] != row or (after.vectors[path] != before.vectors[path]).any():
            problems.append(f"{path}: was committed and made anew")
    return problems


@dataclass(frozen=True)
class Compared:
    problems: list[str]
    equal: int
    """Vectors equal bit for bit."""
    largest: float
    """Difference of a coordinate."""


def compare(found: Held, undisturbed: Held) -> Compared:
    """Rows but for their ids, vectors, and files on disk."""
    problems = [*found.problems, *(f"{name}: is not in the manifest" for name in found.stray)]
    if missing := undisturbed.rows.keys() ^ found.rows.keys():
        problems.append(f"{len(missing)} paths are in one store only, such as {min(missing)}")
    both = undisturbed.rows.keys() & found.rows.keys()
    for path in both:
        theirs, ours = (
            {k: v for k, v in each.rows[path].items() if k != "id"} for each in (undisturbed, found)
        )
        if theirs != ours:
            problems.append(f"{path}: {ours}, undisturbed {theirs}")
    off = [float(np.abs(found.vectors[x].astype(np.float32) - undisturbed.vectors[x]).max()) for x in both]
    if max(off, default=0.0) > SAME:
        problems.append(f"a vector is off by {max(off):.1e}")
    return Compared(problems, sum(each == 0 for each in off), max(off, default=0.0))


# ---- runs


@dataclass
class Bench:
    folder: Path
    model: Path
    work: Path
    random: random.Random
    undisturbed: Held = field(default_factory=Held)
    share: float = SHARE
    start: float = 0.0
    """Seconds that a run with nothing to do takes."""
    takes: float = 0.0
    """Seconds of work of an undisturbed run, start not counted."""
    hit: Counter[str] = field(default_factory=Counter)
    """What a kill fell into."""
    problems: list[str] = field(default_factory=list)
    wasted: list[int] = field(default_factory=list)
    """By kill: images that went through the encoder and are not in the store."""
    compared: list[Compared] = field(default_factory=list)

    def words(self, store: Path) -> list[str]:
        """Our command, with small shards, noting how many images the encoder gets."""
        options = embed(self.folder, store, self.model)[3:]  # behind `python -m simclr`
        return [sys.executable, __file__, "driven", str(self.log(store)), *map(str, options)]

    def log(self, store: Path) -> Path:
        return store.with_suffix(".log")

    def encoded(self, store: Path) -> int:
        """Images that went through the encoder in all runs on a store."""
        log = self.log(store)
        return sum(map(int, log.read_text().split())) if log.exists() else 0

    def measure(self) -> None:
        """The undisturbed store, and how long a run takes."""
        store = self.work / "undisturbed.store"
        started = time.perf_counter()
        run(self.words(store))
        middle = time.perf_counter()
        run(self.words(store))
        self.start = time.perf_counter() - middle
        self.takes = middle - started - self.start
        self.undisturbed = held(store)
        seen, images = self.encoded(store), len(self.undisturbed.rows)
        if seen != images:  # the checks of work done twice would mean nothing
            raise SystemExit(f"{seen} images were counted at `Encoder.stream`, {images} are in the store")

    def kill_one(self, store: Path) -> bool:
        """Start a run and kill it at a random moment; False if it had ended by itself."""
        before, encoded = held(store), self.encoded(store)
        process = subprocess.Popen(
            self.words(store), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        moment = self.random.uniform(0.05, self.start + self.share * self.takes)
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.wait(moment):
                raise SystemExit(f"a run on {store.name} ended with {process.returncode} by itself")
            self.problems += kept(before, held(store))
            return False
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        while group_lives(process.pid):
            time.sleep(0.01)
        after = held(store)
        self.problems += kept(before, after)
        self.wasted.append(self.encoded(store) - encoded - (len(after.rows) - len(before.rows)))
        if self.wasted[-1] > LOST:
            self.problems.append(
                f"{store.name}: one kill cost {self.wasted[-1]} images that had been embedded"
            )
        self.hit[phase(before, after, self.encoded(store) > encoded)] += 1
        return True

    def finish(self, store: Path) -> None:
        """One clean run: it embeds what is missing and no more, and the store is the undisturbed one."""
        before, encoded = held(store), self.encoded(store)
        run(self.words(store))
        after = held(store)
        self.problems += kept(before, after)
        did, missing = self.encoded(store) - encoded, len(after.rows) - len(before.rows)
        if did != missing:
            self.problems.append(f"{store.name}: the last run embedded {did} images, {missing} were missing")
        self.compared.append(compare(after, self.undisturbed))
        self.problems += self.compared[-1].problems


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def phase(before: Held, after: Held, encoding: bool) -> str:
    if not after.exists:
        return "before there was a store"
    # the list of skipped files is being written all the time
    if any(".skipped.csv" not in name for name in set(after.stray) - set(before.stray)):
        return "while files were written"
    if len(after.rows) > len(before.rows):
        return "between commits"
    return "before the first commit of the run" if encoding else "before the first image of the run"


LOG = "EMBED_KILLS_LOG"


def driven(log: str, words: list[str]) -> None:
    """`simclr` with small shards, whose worker counts the images that it embeds."""
    from simclr.cli import main
    from simclr.embed import carry_out, workers, writer

    writer.SHARD_ROWS, carry_out.SHARD_SECONDS = SHARD_ROWS, SHARD_SECONDS
    os.environ[LOG] = log
    workers._START = "import sys; sys.path[:] = {path!r}; import embed_kills; embed_kills.worker()"
    sys.argv = ["simclr", *words]
    main()


def worker() -> None:
    """The process that embeds: each batch adds its number of images to the log, before it is computed."""
    from simclr.embed import worker
    from simclr.runtime import Encoder

    out = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    whole = Encoder.stream

    def counted(self: Encoder, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        def count(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
            os.write(out, b"%d\n" % len(pixels))
            return pixels

        return whole(self, map(count, batches))

    Encoder.stream = counted  # type: ignore[method-assign]
    worker.main()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as packed JPEGs [images drawn here]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few images and kills, nothing written")
    options = parser.parse_args()
    kills, images = (8, 300) if options.quick else (options.kills, options.images)
    work = Path(tempfile.mkdtemp())
    stores = 0
    try:
        data = small(work / "images", options.cifar, images)
        model = export("resnet18", work / "model", "--image-size", "128" if options.quick else "224")
        bench = Bench(
            work / "images", model, work, random.Random(options.seed), share=0.6 if options.quick else SHARE
        )
        bench.measure()
        print(f"  start {bench.start:.1f} s, work {bench.takes:.1f} s", file=sys.stderr)
        store = work / "0.store"
        while bench.hit.total() < kills:
            if bench.kill_one(store):
                print(f"  kill {bench.hit.total()}: {len(held(store).rows)} committed", file=sys.stderr)
            else:
                bench.finish(store)
                stores += 1
                store = work / f"{stores}.store"
        bench.finish(store)
    finally:
        shutil.rmtree(work)
    write(
        "embed_kills",
        claim="`kill -9` at random moments of `simclr embed`",
        data=data,
        packages=["onnxruntime", "numpy", "pyarrow"],
        body=body(bench, images),
        rows=[
            Row(
                f"{bench.hit.total()} random `kill -9` and a clean run against an undisturbed store",
                f"{len(bench.problems)} differences" + lost(bool(bench.problems)),
                limit=f"a kill cost {int(np.median(bench.wasted))} images, at most {max(bench.wasted)}, with shards of {SHARD_ROWS}",
            )
        ],
        figures={
            "kills": bench.hit,
            "problems": bench.problems,
            "images lost by each kill": bench.wasted,
            "stores": [asdict(each) for each in bench.compared],
            "seconds": {"start": bench.start, "work": bench.takes},
        },
        keep=not options.quick,
    )
    if bench.problems:
        raise SystemExit(1)


def body(bench: Bench, images: int) -> str:
    hit = "\n".join(f"| {words} | {count} |" for words, count in bench.hit.most_common())
    equal = min(each.equal for each in bench.compared)
    shown = [*bench.problems[:20], *(["..."] if len(bench.problems) > 20 else [])]
    said = "\n".join(f"- {problem}" for problem in shown) or "None."
    return (
        f"{bench.hit.total()} kills over {len(bench.compared)} stores of {images:,} images, each ended by a clean run and compared with an "
        f"undisturbed store.\n\n| a kill fell | times |\n|---|---|\n{hit}\n\n"
        "| | found | asked |\n|---|---|---|\n"
        f"| differences, losses, repetitions | {len(bench.problems)} | 0 |\n"
        f"| vectors equal bit for bit, fewest of a store | {equal:,} of {images:,} | |\n"
        f"| largest difference of a coordinate | {max(each.largest for each in bench.compared):.1e} | {SAME:g} |\n"
        f"| images embedded and lost by one kill: median, most | {int(np.median(bench.wasted))}, {max(bench.wasted)} | at most {LOST}; a shard has {SHARD_ROWS} |\n\n"
        f"What was found wrong:\n\n{said}\n\n"
        f"Shards of {SHARD_ROWS} rows or {SHARD_SECONDS:g} s. resnet18 with random weights; a run with nothing to do takes {bench.start:.1f} s, "
        f"all the work {bench.takes:.1f} s; a kill falls evenly between 0.05 s and {bench.start + bench.share * bench.takes:.1f} s of a run. Compared are all "
        "columns but the id, the vectors, the files on disk, and after every kill what had been committed before it: same ids, same bits. "
        "How many images the encoder got is counted at its call."
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["driven"]:
        driven(sys.argv[2], sys.argv[3:])
    else:
        main()
