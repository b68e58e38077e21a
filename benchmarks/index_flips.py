"""Claim: a changed byte in any file of an index is refused on one line, or changes nothing; plain FAISS loads most of them, and answers.

    index_flips.py [--flips 500] [--fuzzed 300] [--seed 0] [--quick]

Over several types of index, and in turn in `out.faiss`, its sidecar and its entries, one byte gets another value; every second one of `out.faiss` is in
its first or last 128 bytes, where FAISS keeps sizes. The index is opened and searched: it must raise ArtifactError, or answer as before. Every fifth
time, and always where it was not refused, the store changes too, and `update_index` must bring the index in step. What `faiss.read_index` makes of the
same `out.faiss` is tried in a process of its own with a limit of 4 GiB and 10 s.

Then sidecars that nobody wrote (cut, random, other types, names and kinds, nested, with the right seal where there is one); changes in place of an index that
is remembered to have been whole, with its times set back; and bytes changed in that memory. Nobody who can compute a seal is kept out, nor is a disk
that gives other bytes without the file's times changing found before `simclr index check`.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import stores
from reporting import Row, lost, write

from simclr.artifacts.base import _seal
from simclr.embed.index import IndexWish, build_index, check_index, sidecar, update_index
from simclr.embed.index.files import entries_file
from simclr.embed.search import Index
from simclr.embed.store import MANIFEST_FILE, Store
from simclr.embed.writer import writing
from simclr.errors import ArtifactError, SimclrError

ROWS, WIDTH = 2000, 64
TYPES = ("IDMap2,Flat", "IVF32,SQ8", "IVF32,RaBitQfs4", "HNSW16,SQ8")
ENDS = 128
"""Bytes at the beginning and the end of an index file that get half of the changes."""
ODD = [
    None,
    True,
    -1,
    0,
    3,
    10**400,
    1e308,
    float("nan"),
    "",
    "x" * 5000,
    "a\0b",
    "\ud800",
    [],
    [[1]],
    {},
    {"a": None},
]


class Plain:
    """A process that has loaded FAISS alone, and forks for each file."""

    def __init__(self, queries: Path) -> None:
        words = [sys.executable, __file__, "plain", queries]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip

    def __call__(self, path: Path) -> str:
        """Its answers, or how it ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


def plain(queries_file: str) -> None:
    import faiss

    queries = np.load(queries_file)
    for name in map(str.strip, sys.stdin):
        ours, theirs = os.pipe()
        if not (child := os.fork()):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            faiss.omp_set_num_threads(1)
            try:
                os.write(
                    theirs, repr(faiss.read_index(name).search(queries, 10)[1].tolist()).encode()[:60_000]
                )
                os._exit(0)
            except BaseException:
                os._exit(1)
        os.close(theirs)
        ends = time.monotonic() + 10
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < ends:
            time.sleep(0.001)
        if not ended[0]:
            os.kill(child, 9)
            os.waitpid(child, 0)
        with open(ours, "rb") as file:
            said = file.read().decode()
        how = os.waitstatus_to_exitcode(ended[1])
        print("hangs" if not ended[0] else "crashes" if how < 0 else "raises" if how else said, flush=True)


class Bench:
    def __init__(self, work: Path, factory: str, queries: np.ndarray, seed: int) -> None:
        self.factory = factory
        self.folder, self.path, self.queries = work / "v.store", work / "out.faiss", queries
        self.files = (self.path, sidecar(self.path), entries_file(self.path))
        self.random = random.Random(f"{factory} {seed}")
        build_index(Store.open(self.folder), self.path, IndexWish(index_type=factory, recall=0.5))
        self.right = self.answers()

    def answers(self) -> str:
        """What a search finds, or in a few words why not."""
        try:
            found = Index.open(self.path).search(self.queries)
        except SimclrError as exc:
            if "\n" in str(exc) or len(str(exc)) > 1000:
                return "REFUSED ON A LONG LINE"
            return "refused" if isinstance(exc, ArtifactError) else f"REFUSED BY {type(exc).__name__.upper()}"
        except Exception as exc:
            return failure(exc)
        return repr([[(hit.id, hit.similarity) for hit in hits] for hits in found])

    def outcome(self) -> str:
        found = self.answers()
        return "same answers" if found == self.right else found if len(found) < 300 else "OTHER ANSWERS"

    def flip(self, file: Path, *, ends: bool = False) -> None:
        """In place, size kept."""
        size = file.stat().st_size
        place = self.random.randrange(-ENDS, ENDS) % size if ends else self.random.randrange(size)
        with open(file, "r+b") as opened:
            opened.seek(place)
            old = opened.read(1)[0]
            opened.seek(place)
            opened.write(bytes([old ^ self.random.randrange(1, 256)]))

    def held(self) -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in self.files}

    def restore(self, held: dict[Path, bytes]) -> None:
        for file, data in held.items():
            file.write_bytes(data)

    def mended(self, *, keep: bool = True) -> str:
        """Whether an update brings the index in step with a store that has changed; `keep` it then, or build it anew."""
        with writing(self.folder) as writer:
            id = int(writer.new_ids(1)[0])
            writer.commit([stores.row(id)], self.queries[:1], drop=[id - 1] if id > ROWS else [])
        try:
            update_index(Store.open(self.folder), self.path)
            checked = check_index(self.path)
            top = Index.open(self.path).search(self.queries[:1], 1)[0][0]
            whole = not (checked.faults or checked.missing or checked.superfluous) and top.id == id
            said = "in step" if whole else "NOT IN STEP"
        except Exception as exc:
            said = failure(exc)
        if said != "in step" or not keep:
            build_index(Store.open(self.folder), self.path, IndexWish(index_type=self.factory, recall=0.5))
        self.right = self.answers()
        return said


def failure(exc: Exception) -> str:
    """Also the line of ours that it came through last."""
    ours = [frame for frame in traceback.extract_tb(exc.__traceback__) if "/simclr/" in frame.filename]
    return f"{type(exc).__name__.upper()} in {Path(ours[-1].filename).name}, {ours[-1].name}"


def fuzzed(values: dict[str, Any], other: bytes, moments: random.Random) -> tuple[str, bytes, str]:
    """A sidecar that nobody wrote: by what kind of change, its bytes, and the change itself."""
    text, kind = json.dumps(values, indent=2).encode(), moments.randrange(8)
    if kind == 0:
        return "cut or empty", text[: moments.choice([0, moments.randrange(len(text))])], ""
    if kind == 1:
        return "random bytes", moments.randbytes(moments.randrange(1, 400)), ""
    if kind == 2:
        renamed = text.replace(b'"index"', b'"encoder"')
        return "another kind", moments.choice([other, renamed, b"[]", b"null", b"1"]), ""
    changed = json.loads(text)
    del changed["seal"]
    if kind == 3:
        deep = moments.choice([moments.randrange(900, 1000), moments.randrange(1, 100_000)])
        inner = f'"seal": "0", "measured": {chr(123)}"a":' + "[" * deep + "]" * deep + "}}"
        return "nested", f"{json.dumps(changed)[:-1]}, {inner}".encode(), f"{deep} deep"
    part = moments.choice(["", "", "wish", "measured", "search_parameters"])
    holder = changed[part] if part else changed
    name = moments.choice([key for key in holder if key not in ("simclr", "format")])
    done = "other value" if kind > 5 else "missing" if kind == 4 else "unknown"
    if kind == 4:
        del holder[name]
    elif kind == 5:
        holder[f"{name}{moments.randrange(9)}"] = holder[name]
    else:
        holder[name] = moments.choice(ODD)
    seal = _seal({key: value for key, value in changed.items() if key not in ("simclr", "format")})
    what = f"{part} {name}" + (f" = {ascii(holder[name])[:20]}" if kind > 5 else "")
    title = f"{done} in {part or 'itself'}, sealed"
    return title, json.dumps(changed | {"seal": seal}).encode(), what.strip()


def remembered(bench: Bench, cache: Path) -> Iterator[tuple[str, str]]:
    """Changes to an index whose SHA-256 has been noted, and to the note."""
    for title, back in (("flipped in place", False), ("flipped in place, mtime set back", True)):
        for wait in (0.0, 2.2):
            time.sleep(2.2)
            assert bench.outcome() == "same answers"
            held, stat = bench.held(), bench.path.stat()
            bench.flip(bench.path)
            if back:
                os.utime(bench.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            time.sleep(wait)
            yield f"{title}, {'looked at later' if wait else 'looked at at once'}", bench.outcome()
            bench.restore(held)
    shutil.rmtree(cache / "verified")
    time.sleep(2.2)
    bench.answers()
    (note,) = (cache / "verified").iterdir()
    whole = note.read_bytes()
    for place in range(len(whole)):
        for value in (0, whole[place] ^ 1):
            if value != whole[place]:
                note.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
                yield "a byte of the note itself", bench.outcome()
    note.unlink()


def summary(counts: dict[str, Counter[str]], unasked: int) -> Row:
    """Of what is counted under a file's name alone, or under "plain FAISS"."""
    ours = sum((found for what, found in counts.items() if ":" not in what), Counter[str]())
    plain = sum((found for what, found in counts.items() if what.endswith(": plain FAISS")), Counter[str]())
    loads = {said: many for said, many in plain.items() if said.startswith("loads")}
    return Row(
        f"{ours.total()} bytes changed in the files of an index",
        f"{ours['refused']} refused, {ours['same answers']} with the same answers"
        + lost(unasked > 0, f"{unasked} outcomes of all kinds that should not be"),
        f"plain FAISS loads {sum(loads.values())} of {plain.total()} changed index files, {loads.get('loads, other answers', 0)} of them with other answers",
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--fuzzed", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="fewer of all, nothing written")
    options = parser.parse_args()
    flips, fuzz = (60, 80) if options.quick else (options.flips, options.fuzzed)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    counts = defaultdict[str, Counter[str]](Counter)
    odd: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["SIMCLR_CACHE"] = str(work / "cache")
        queries = np.concatenate(list(stores.clustered(20, WIDTH, seed=1)))
        np.save(work / "queries.npy", queries)
        model, alone = stores.model(work / "export"), Plain(work / "queries.npy")
        for place, factory in enumerate(TYPES):
            (work / str(place)).mkdir()
            stores.fill(
                work / str(place) / "v.store", stores.clustered(ROWS, WIDTH), model=model, width=WIDTH
            )
            bench = Bench(work / str(place), factory, queries, options.seed)
            for number in range(place, flips, len(TYPES)):
                turn = number // len(TYPES)
                file, ends = bench.files[turn % 3], turn % 2 == 0
                plainly, held = alone(bench.path), bench.held()
                bench.flip(file, ends=ends and file == bench.path)
                title = file.name + ("" if file != bench.path else ", its ends" if ends else ", anywhere")
                counts[title][outcome := bench.outcome()] += 1
                if file == bench.path:
                    told = alone(file)
                    words = (
                        told if len(told) < 10 else f"loads, {'same' if told == plainly else 'other'} answers"
                    )
                    counts[f"{title}: plain FAISS"][words] += 1
                if outcome != "refused" or turn % 5 == 0:
                    counts[f"{file.name}: after an update"][bench.mended()] += 1
                else:
                    bench.restore(held)
            other = (bench.folder / MANIFEST_FILE).read_bytes()
            for number in range(place, fuzz, len(TYPES)):
                held = bench.held()
                title, data, what = fuzzed(json.loads(held[bench.files[1]]), other, bench.random)
                bench.files[1].write_bytes(data)
                outcome = bench.outcome().replace(
                    "OTHER ANSWERS", "other answers"
                )  # a setting may be another
                counts[f"sidecar: {title}"][outcome] += 1
                if outcome != "refused" or number % 20 == place:
                    counts["sidecars: after an update"][after := bench.mended(keep=False)] += 1
                    odd += [f"{what}: {each}" for each in (outcome, after) if each != each.lower()]
                else:
                    bench.restore(held)
            print(factory, file=sys.stderr)
        for title, outcome in remembered(bench, work / "cache"):
            counts[f"remembered: {title}"][outcome] += 1
        alone.process.kill()
    lines = [f"| {what} | " + "; ".join(f"{said}: {many}" for said, many in found.most_common()) + " |" for what, found in sorted(counts.items())]  # fmt: skip
    unasked = sum(many for found in counts.values() for said, many in found.items() if said != said.lower())
    body = (
        f"{flips} bytes and {fuzz} sidecars, over {', '.join(TYPES)} in turn; {ROWS:,} x {WIDTH} vectors.\n\n| changed | outcome: times |\n|---|---|\n"
        + "\n".join(lines)
        + f"\n\nOutcomes in capitals are what should not be: {unasked}. Those of sidecars:\n\n"
        + "\n".join(f"- {line}" for line in odd or ["none"])
    )
    write("index_flips", claim="A byte changed in the files of an index, and sidecars that nobody wrote", data="made up here (PCG64)", packages=["faiss-cpu", "numpy"], body=body, rows=[summary(counts, unasked)], figures={"outcomes": counts, "odd": odd}, keep=not options.quick)  # fmt: skip
    if unasked:
        raise SystemExit(1)


if __name__ == "__main__":
    plain(sys.argv[2]) if sys.argv[1:2] == ["plain"] else main()
