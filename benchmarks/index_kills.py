"""Claim: whatever moment `kill -9` ends an update of an index at, the old index or the new one is there, bit for bit, and one clean run mends all.

    index_kills.py [--kills 50] [--rows 20000] [--seed 0] [--quick]

For each type of index in turn a store is changed (rows added, dropped, replaced), and its index is updated, in a copy, by an undisturbed process: that
tells how long it takes, which files it touches in which order, and what the new index is. Then such a process is killed

- at a random moment of that duration, which begins after the imports, until it has been alive `--kills` times;
- before each of its changes to the files, and with FAISS's file half written;
- a second time: it has been killed right after the new index took its place, and `update_index` or `build_index` that comes next is killed before
  each of its changes.

After every kill the index must open and be the old or the new one; after a clean `update_index` it must be the new one, agree with its store, its
entries and exact search, and have no unfinished file beside it. The processes are forked from this one, on one core, so that the same update writes the
same bytes. Kills leave the system alive: what a power cut does to files that were not synced is not tried, nor are other processes that read meanwhile.
"""

import argparse
import itertools
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import stores
from reporting import Row, lost, write

from simclr.artifacts import file_sha256
from simclr.embed.exact import TIE
from simclr.embed.index import IndexWish, build_index, check_index, load_index, update_index
from simclr.embed.index.anatomy import NOBODY, Anatomy
from simclr.embed.index.files import load_entries
from simclr.embed.index.library import faiss_library, unit_vectors
from simclr.embed.index.neighbours import Finder
from simclr.embed.lookup import Lookup
from simclr.embed.search import Index
from simclr.embed.store import Store
from simclr.embed.writer import writing

WIDTH, ADDED, DROPPED, REPLACED = 64, 600, 300, 300
TYPES = ("IDMap2,Flat", "IVF64,SQ8", "IVF64,RaBitQfs4", "HNSW32,SQ8")
SELF = {"HNSW32,SQ8": 0.999}
"""Share of the vectors that must find themselves, where a search may miss one; all of them with the other types."""
LASTING = {"out.faiss", "out.faiss.json", "out.faiss.entries", ".out.faiss.lock"}
FORK = multiprocessing.get_context("fork")
Verb = Callable[[Store, Path], object]


# ---- a process that is killed


def touched(event: str, arguments: tuple[Any, ...], folder: Path) -> str:
    """What Python is about to change in a folder, in words; empty if it does not."""
    if event not in ("open", "os.rename", "os.remove") or not isinstance(arguments[0], str | Path):
        return ""
    path = Path(arguments[0])
    if path.parent != folder or "lock" in path.name or (event != "open" and not path.exists()):
        return ""
    if event == "open" and (arguments[1] is None or not set(arguments[1]) & set("wxa")):
        return ""
    target = Path(arguments[1]).name if event == "os.rename" else path.name.replace(f".{os.getpid()}", "")
    return {"open": "writing", "os.rename": "renaming to", "os.remove": "removing"}[event] + f" {target}"


def changing(verb: Verb, folder: Path, path: Path, line: Connection, stop: int) -> None:
    """Tells that it begins, and each of its changes; before the `stop`-th it waits for its end."""
    faiss, steps = faiss_library(), itertools.count()
    whole = faiss.write_index

    def reached(name: str) -> bool:
        line.send(name)
        return next(steps) == stop

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if (name := touched(event, arguments, path.parent)) and reached(f"before {name}"):
            time.sleep(600)

    def half(index: Any, name: str) -> None:
        whole(index, name)
        if reached("while FAISS writes"):
            os.truncate(name, os.stat(name).st_size // 2)
            time.sleep(600)

    faiss.write_index = half
    store = Store.open(folder)
    sys.addaudithook(hook)
    line.send("begins")
    verb(store, path)


class Child:
    def __init__(self, verb: Verb, folder: Path, path: Path, *, stop: int = -1) -> None:
        self.line, theirs = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=changing, args=(verb, folder, path, theirs, stop))
        self.process.start()
        theirs.close()
        assert self.line.recv() == "begins"

    def steps(self, most: int = 1000) -> list[str]:
        """Those it tells of until it ends, or has told so many."""
        told: list[str] = []
        try:
            while len(told) < most:
                told.append(self.line.recv())
        except EOFError:
            self.process.join()
        return told

    def kill(self) -> bool:
        """Whether it was still alive."""
        self.process.kill()
        self.process.join()
        assert self.process.exitcode in (0, -9), f"the update failed by itself: {self.process.exitcode}"
        return self.process.exitcode == -9


# ---- a store, its index, and what must hold


@dataclass
class Bench:
    folder: Path
    """Of the store; folders with the index lie beside it."""
    factory: str
    rng: np.random.Generator
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    """By how the process was killed, then by moment and what was found."""
    problems: list[str] = field(default_factory=list)
    anew: int = 0
    """Undisturbed updates that built the index anew."""
    searched: int = 0
    """Different indexes that all vectors were searched in."""
    lost: int = 0
    """Most vectors of one index that did not find themselves."""

    def __post_init__(self) -> None:
        self.path = self.folder.parent / "index" / "out.faiss"
        self.path.parent.mkdir()
        build_index(Store.open(self.folder), self.path, IndexWish(index_type=self.factory, recall=0.9))

    def change(self) -> float:
        """Another store; gives the seconds of an update, whose steps and outcome are kept."""
        fresh = np.concatenate(
            list(stores.clustered(ADDED + REPLACED, WIDTH, seed=int(self.rng.integers(1 << 30))))
        )
        with writing(self.folder) as writer:
            held = np.concatenate([table["id"].to_numpy() for table in writer.store.tables(["id"])])
            picked = self.rng.permutation(held)[: REPLACED + DROPPED].tolist()
            rows = [stores.row(id) for id in [*picked[:REPLACED], *writer.new_ids(ADDED)]]
            writer.commit(rows, fresh, drop=picked)
        self.store = Store.open(self.folder)
        blocks = list(self.store.blocks())
        ids, vectors = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        self.ids, self.vectors = np.sort(ids), vectors[np.argsort(ids)]
        self.old = file_sha256(self.path)
        undisturbed = self.copy("undisturbed")
        child, began = Child(update_index, self.folder, undisturbed), time.perf_counter()
        self.steps = child.steps()
        seconds = time.perf_counter() - began
        child.kill()
        before, after = load_index(self.path)[1], load_index(undisturbed)[1]
        self.new, self.known = after.sha256, ""
        self.anew += after.built_with != before.built_with
        self.problems += [f"{self.factory}, undisturbed: {fault}" for fault in self.faults(undisturbed)]
        return seconds

    def copy(self, name: str, of: Path | None = None) -> Path:
        target = self.folder.parent / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree((of or self.path).parent, target)
        return target / "out.faiss"

    def judge(self, path: Path, how: str, moment: str, *, same: bool = True) -> None:
        """Count what a kill has left; `same`: it was one of these updates, whose outcome is known bit for bit."""
        where, why = f"{self.factory}, {how}, {moment}", ""
        try:
            index, info = load_index(path)
            ids = Anatomy.of(index).stored_ids()
            Index.open(path).search(self.vectors[:20], 10)
            current = info.generation == self.store.info.generation
            found = {self.old: "old", self.new: "new"}.get(info.sha256, "NEITHER" if same else "new")
            if current != (found == "new") or (
                current and not np.array_equal(np.sort(ids[ids != NOBODY]), self.ids)
            ):
                found = "NEITHER"
            found += "" if load_entries(path, info) else ", WITHOUT ENTRIES"
        except Exception as exc:
            found = "NEITHER"
            why = f" ({type(exc).__name__}: {exc})".replace(f"{path.parent}/", "")
        self.outcomes.setdefault(how, Counter())[f"{moment}|{found}"] += 1
        if found not in ("old", "new"):
            self.problems.append(f"{where}: {found}{why}")
        update_index(self.store, path)
        self.problems += [f"{where}, after a clean run: {fault}" for fault in self.faults(path)]
        if same and file_sha256(path) != self.new:
            self.problems.append(f"{where}, after a clean run: not the bytes of the undisturbed update")

    def faults(self, path: Path) -> list[str]:
        """What is wrong with an index that should be in step with the store."""
        checked = check_index(path)
        faults = [
            *checked.faults,
            *(f"left {name}" for name in {p.name for p in path.parent.iterdir()} - LASTING),
        ]
        if checked.missing or checked.superfluous:
            faults.append(f"{checked.missing} missing, {checked.superfluous} too many")
        if (key := f"{checked.info.sha256} {checked.info.search_parameters}") != self.known:
            self.known = key
            faults += self.strangers(path)
        return faults

    def strangers(self, path: Path) -> Iterator[str]:
        """Search for all vectors, and for others by inner products with all of them."""
        self.searched += 1
        finder = Finder.of(*load_index(path), Lookup(self.store))
        own = finder.find(unit_vectors(self.vectors.astype(np.float16)), 1)[1][:, 0]
        lost = int((own != self.ids).sum())
        self.lost = max(self.lost, lost)
        if lost > (1 - SELF.get(self.factory, 1.0)) * len(own):
            yield f"{lost} of {len(own)} vectors do not find themselves"
        if "Flat" in self.factory:
            queries = np.concatenate(list(stores.clustered(100, WIDTH, seed=1)))
            products = queries @ self.vectors.T
            tenth = -np.partition(-products, 9, axis=1)[:, 9]
            places = np.searchsorted(self.ids, finder.find(queries, 10)[1])
            if (np.take_along_axis(products, places, 1).min(1) < tenth - TIE).any():
                yield "it is exact, and finds others than the ten nearest"

    # ---- kills

    def at_random(self, moment: float) -> bool:
        """Whether it was alive; `moment`: share of the update's duration."""
        seconds = self.change()
        child = Child(update_index, self.folder, self.path)
        time.sleep(moment * seconds)
        alive = child.kill()
        there, names = file_sha256(self.path), {p.name for p in self.path.parent.iterdir()} - LASTING
        words = {
            (self.old, False): "before a file was written",
            (self.old, True): "while files were written",
            (self.new, True): "between the index and its sidecar",
            (self.new, False): "after the last file",
        }
        said = words.get((there, bool(names)), "?") if alive else "after the process had ended"
        self.judge(self.path, "at random", said)
        return alive

    def at_each_step(self) -> None:
        self.change()
        for stop, name in enumerate(self.steps):
            path = self.copy("stopped")
            child = Child(update_index, self.folder, path, stop=stop)
            assert child.steps(stop + 1)[-1:] == [name] and child.kill()
            if name == "before renaming to out.faiss.entries":
                half_done = self.copy("half done", path)
            self.judge(path, "at a step", name)
        for verb in (update_index, build_index):
            for stop in itertools.count():
                path = self.copy("stopped", half_done)
                child = Child(verb, self.folder, path, stop=stop)
                told = child.steps(stop + 1)
                if not child.kill():
                    break
                self.judge(path, f"again, in `{verb.__name__}`", told[-1], same=verb is update_index)
        update_index(self.store, self.path)


def table(benches: list[Bench]) -> str:
    counts: Counter[tuple[str, str, str]] = Counter()
    for bench in benches:
        for how, outcomes in bench.outcomes.items():
            for words, count in outcomes.items():
                moment, found = words.split("|")
                counts[how, moment, found] += count
    lines = [f"| {how} | {moment} | {found} | {count} |" for (how, moment, found), count in counts.items()]
    return "\n".join(["| killed | moment | index found | times |", "|---|---|---|---|", *lines])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="small stores, few kills, nothing written")
    options = parser.parse_args()
    kills, rows = (8, 6000) if options.quick else (options.kills, options.rows)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rng, benches = np.random.Generator(np.random.PCG64(options.seed)), []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name).resolve()
        os.environ["SIMCLR_CACHE"] = str(work / "cache")
        model = stores.model(work / "export")
        for place, factory in enumerate(TYPES):
            folder = work / str(place) / "v.store"
            folder.parent.mkdir()
            stores.fill(folder, stores.clustered(rows, WIDTH), model=model, width=WIDTH)
            benches.append(bench := Bench(folder, factory, rng))
            bench.at_each_step()
            moments, left = random.Random(f"{factory} {options.seed}"), len(range(place, kills, len(TYPES)))
            while left:
                left -= bench.at_random(moments.random())
            print(factory, len(bench.problems), "problems", file=sys.stderr)
    problems = [problem for bench in benches for problem in bench.problems]
    body = (
        f"{kills} random moments at which the process was alive, over {', '.join(TYPES)} in turn; {rows:,} x {WIDTH} vectors, and before each {ADDED} rows added, {DROPPED} dropped, "
        f"{REPLACED} replaced.\n\n{table(benches)}\n\n"
        + "\n".join(
            f"- {b.factory}: {b.anew} of the updates built it anew; in {b.searched} different indexes at most {b.lost} vectors did not find themselves"
            for b in benches
        )
        + f"\n\nWhat was found wrong: {len(problems)}\n\n"
        + "\n".join(f"- {problem} ({count} times)" for problem, count in Counter(problems).items())
    )
    in_table = Row(
        f"`kill -9` of an update or a build of an index, {kills} random moments and before every change to a file: index left; after a clean run",
        "the old or the new one; equal to its store" + lost(bool(problems), f"not so {len(problems)} times"),
    )
    kept = ("outcomes", "anew", "searched", "lost", "problems")
    figures = {bench.factory: {name: getattr(bench, name) for name in kept} for bench in benches}
    write("index_kills", claim="`kill -9` during updates of an index", data="made up here (PCG64)", packages=["faiss-cpu", "numpy"], body=body, rows=[in_table], figures=figures, keep=not options.quick)  # fmt: skip
    if problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
