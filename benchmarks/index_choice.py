"""Claim: `auto` keeps the budgets it accepts on queries it has never seen, is as fast as the best fixed index type that fits, and beats
autofaiss at the same memory in recall x queries a second, built in a tenth of its time.

    index_choice.py [--store STORE] [--autofaiss af/bin/python] [--work FOLDER] [--quick]

Made-up vectors, then those of STORE, 1,000 of them left out as queries. `--work` keeps what was built, so that a run that was cut off
goes on where it ended. Times are taken in turn: every contender once a round.

Shape letters: N = vectors, Q = queries, D = width, K = neighbours.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import stores
from reporting import Row, lost, middle, ratio, rounds, short, spread, write
from stores import Data, K

from simclr.artifacts import IndexInfo
from simclr.embed.index import IndexWish, build_index, load_index, nearest
from simclr.embed.index.anatomy import Anatomy
from simclr.embed.index.menu import LOOKUP_BYTES, list_count
from simclr.embed.rerank import rerank
from simclr.embed.search import Index
from simclr.embed.store import Store
from simclr.errors import ConfigError

QUERIES, SINGLE, TIMES = 1000, 200, 5
MEMORY, RECALL, LATENCY = (12e6, 25e6, 60e6, 250e6), (0.95, 0.99), 10.0
"""Bytes for 100,000 x 512, other sizes in proportion; recall@10; milliseconds."""
DEPTHS = (10, 30, 100, 300)
RIVAL_MINUTES = 25
"""Granted to autofaiss for each budget."""
SLACK = 1.15
"""Times as fast as ours: from there on a fixed type that finds as much counts as a better choice."""


# ---- data


def made_up(work: Path, count: int, width: int, clusters: int) -> Data:
    vectors = np.concatenate(list(stores.clustered(count + QUERIES, width, clusters=clusters)))
    title = f"{count:,} x {width}, made up: {clusters:,} clusters, noise as long as a centre"
    return stores.with_queries(work / "made", title, vectors[:count], vectors[count:])


def real(work: Path, store: Path) -> Data:
    vectors = np.concatenate([vectors for _, vectors in Store.open(store).blocks()])
    out = np.random.Generator(np.random.PCG64(0)).permutation(len(vectors))[:QUERIES]
    title = f"{len(vectors) - QUERIES:,} x {vectors.shape[1]}, the vectors of {store.name}"
    return stores.with_queries(work / "real", title, np.delete(vectors, out, axis=0), vectors[out])


# ---- contenders


@dataclass
class Contender:
    """One way of asking one index. `ask` takes queries (Q, D) and gives ids (Q, K)."""

    name: str
    ask: Callable[[np.ndarray], np.ndarray]
    bytes: int = 0
    """While it is searched, the lookup of ids among them."""
    recall: float = 0.0
    error: float = 0.0
    rates: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    """Median of single queries in milliseconds, of each round."""
    pieces: "Contender | None" = None
    """Of a Finder: its index asked with the same effort and depth as a fixed type is."""

    def rate(self, queries_QD: np.ndarray) -> float:
        started = time.perf_counter()
        self.ask(queries_QD)
        return len(queries_QD) / (time.perf_counter() - started)

    def judge(self, data: Data) -> None:
        started = time.perf_counter()
        ids_QK = self.ask(data.queries_QD)
        self.rates = [len(ids_QK) / (time.perf_counter() - started)]
        shares = data.shares(ids_QK)
        self.recall, self.error = float(shares.mean()), float(shares.std() / len(shares) ** 0.5)

    @property
    def speed(self) -> float:
        return statistics.median(self.rates)

    @property
    def figures(self) -> dict[str, Any]:
        return {
            name: getattr(self, name) for name in ("name", "bytes", "recall", "error", "rates", "latency")
        }


def alone(ask: Callable[[np.ndarray], Any], queries_QD: np.ndarray) -> float:
    seconds = []
    for query in queries_QD[:SINGLE]:
        started = time.perf_counter()
        ask(query[None])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e3


@dataclass
class Built:
    """An index, or why there is none. Kept in a file, so that a run can be continued."""

    seconds: float
    refused: str = ""
    chosen: str = ""
    foretold: str = ""
    """Recall, speed and latency in the sidecar."""

    @classmethod
    def of(cls, data: Data, path: Path, wish: IndexWish) -> "Built":
        note = path.with_suffix(".built.json")
        if note.exists():
            return cls(**json.loads(note.read_text()))
        print(f"  building {path.name}", file=sys.stderr)
        started, info, refused = time.perf_counter(), None, ""
        try:
            info = build_index(
                data.store, path, wish, note=lambda line: print(f"    {line}", file=sys.stderr)
            )
        except ConfigError as exc:
            refused = str(exc)
        built = cls(time.perf_counter() - started, refused, *(said(info) if info else ()))
        note.write_text(json.dumps(asdict(built)))
        return built


def said(info: IndexInfo) -> tuple[str, str]:
    asked = ", ".join(f"{name} {value}" for name, value in info.search_parameters.items())
    m = info.measured
    return (
        f"{info.factory} ({asked})",
        f"{m['recall@10']:.3f}, {m['queries_per_second']:,.0f}, {m['latency_ms']:.2f}",
    )


def by_pieces(data: Data, name: str, index: Any, effort: int, depth: int, size: int) -> Contender:
    """FAISS for candidates, the store's vectors to rank them, and no more."""

    def ask(queries_QD: np.ndarray) -> np.ndarray:
        found = nearest(index, queries_QD, depth, effort=effort)[1]
        return rerank(data.lookup, queries_QD, found)[1][:, :K]

    one = Contender(name, ask, size)
    one.judge(data)
    return one


def fixed(data: Data, factory: str) -> tuple[float, list[Contender]]:
    """Seconds of its build, and the ways of asking it, each better than the others in something."""
    path = data.folder / f"{factory.replace(',', '_')}.faiss"
    built = Built.of(data, path, IndexWish(index_type=factory, recall=0.01, latency=1000))
    if built.refused:
        raise SystemExit(f"{factory}: {built.refused}")
    index, _ = load_index(path)
    anatomy = Anatomy.of(index)
    size = path.stat().st_size + LOOKUP_BYTES * len(data.store)
    efforts = [0]
    if anatomy.effort:
        efforts = [1 << n for n in range(4 if anatomy.hnsw else 0, 9 if anatomy.hnsw else 10)]
    tried = []
    for effort in efforts:
        for depth in DEPTHS:
            words = [factory, *([f"{anatomy.effort} {effort}"] if effort else []), f"{depth} again"]
            tried.append(by_pieces(data, ", ".join(words), index, effort, depth, size))
        if tried[-1].recall > 0.9995:
            break
    best = [one for one in tried if not any(o.recall >= one.recall and o.speed > one.speed for o in tried)]
    return built.seconds, [one for one in best if one.recall >= 0.85]


def automatic(data: Data, memory: int, recall: float) -> tuple[Built, Contender | None, Index | None]:
    path = data.folder / f"auto_{memory}_{recall}.faiss"
    wish = IndexWish(memory=memory, recall=recall, latency=LATENCY)
    built = Built.of(data, path, wish)
    if built.refused:
        return built, None, None
    index = Index.open(path)
    index.search(data.queries_QD[:8], K)  # opens the store
    one = Contender(
        f"auto, {memory / 1e6:.3g} MB, {recall}",
        lambda queries_QD: index._finder.find(queries_QD, K)[1],
        path.stat().st_size + LOOKUP_BYTES * len(data.store),
    )
    one.judge(data)
    asked = index.info.search_parameters
    effort = int(asked.get("nprobe", asked.get("efSearch", 0)))
    one.pieces = by_pieces(data, f"{one.name}: pieces", index._index, effort, int(asked["rerank"]), one.bytes)
    return built, one, index


def rival(data: Data, python: Path, memory: int, *, run: bool) -> dict[str, Any]:
    """What autofaiss built in a process of its own, `cut` if it took too long."""
    name = f"af_{memory / 1e6:.3g}"
    note = data.folder / f"{name}.json"
    if not note.exists() and not run:
        return {"key": None, "name": name}
    if not note.exists():
        print(f"  autofaiss, {memory / 1e6:.3g} MB", file=sys.stderr)
        words = ["build", data.folder, "--index", name, "--memory", memory]
        try:
            note.write_text(rival_says(python, words, timeout=60 * RIVAL_MINUTES))
        except subprocess.TimeoutExpired:
            note.write_text(json.dumps({"key": None, "seconds": 60 * RIVAL_MINUTES, "cut": True}))
    return json.loads(note.read_text()) | {"name": name}


def rival_says(python: Path, words: list[Any], timeout: float | None = None) -> str:
    script = Path(__file__).with_name("autofaiss_rival.py")
    done = subprocess.run(
        [python, script, *map(str, words)], capture_output=True, text=True, timeout=timeout, check=True
    )
    return done.stdout.splitlines()[-1]


# ---- the report


def compare(data: Data, python: Path | None, only: list[float]) -> tuple[str, dict[str, Any]]:
    """One data set: build all, measure all in turn, say who kept what; and the figures."""
    count, width = data.vectors_ND.shape
    lists = list_count(count, min(width, 512))
    budgets = [round(memory * count * width / (100_000 * 512)) for memory in MEMORY]
    factories = ["IDMap2,Flat", "IDMap2,SQ8", "HNSW32,SQ8"]
    codes = ["SQfp16", "SQ8", "RaBitQfs", "RaBitQfs2", "RaBitQfs4", f"PQ{width // 4}x4fs"]
    factories += [f"IVF{lists},{code}" for code in codes]
    seconds, fixed_ones = {}, list[Contender]()
    for factory in factories:
        seconds[factory], ways = fixed(data, factory)
        fixed_ones += ways
    ours = {(memory, recall): automatic(data, memory, recall) for memory in budgets for recall in RECALL}
    autos = [one for _, one, _ in ours.values() if one]
    bare = [one.pieces for one in autos if one.pieces]
    searches = {one.name: index for _, one, index in ours.values() if one and index}
    theirs = (
        [
            rival(data, python, memory, run=at / 1e6 in only)
            for memory, at in zip(budgets, MEMORY, strict=True)
        ]
        if python
        else []
    )
    asked: dict[str, list[dict[str, float]]] = {each["name"]: [] for each in theirs if each["key"]}

    def ask_rival(each: dict[str, Any]) -> float:
        words = ["ask", data.folder, "--index", each["name"], "--param", each["param"]]
        assert python
        asked[each["name"]].append(json.loads(rival_says(python, words)))
        return asked[each["name"]][-1]["queries_per_second"]

    def find_alone(one: Contender) -> float:
        one.latency.append(alone(one.ask, data.queries_QD))
        return one.latency[-1]

    def search(index: Index) -> float:
        started = time.perf_counter()
        index.search(data.queries_QD, K)
        return QUERIES / (time.perf_counter() - started)

    runs: dict[str, Callable[[], float]] = {}
    for one in [*fixed_ones, *bare, *autos]:
        runs[one.name] = lambda one=one: one.rate(data.queries_QD)
    for one in autos:
        runs[f"{one.name}: one query"] = lambda one=one: find_alone(one)
        runs[f"{one.name}: Index.search"] = lambda one=one: search(searches[one.name])
    for each in theirs:
        if each["key"]:
            runs[each["name"]] = lambda each=each: ask_rival(each)
    found = rounds(runs, times=TIMES)
    for one in [*fixed_ones, *bare, *autos]:
        one.rates = found[one.name]
    parts = [f"## {data.title}", choices(ours, fixed_ones, found)]
    parts += [against(ours, dict(zip(budgets, theirs, strict=True)), asked)] if python else []
    parts += [menu(fixed_ones, seconds, lists)]
    kept = []
    for (memory, recall), (built, one, _) in ours.items():
        kept.append({"memory": memory, "recall": recall, "built": asdict(built)})
        if one and one.pieces:
            best = fastest([o for o in fixed_ones if o.bytes <= memory], one.recall)
            kept[-1] |= {"found": one.figures, "pieces": one.pieces.figures, "not kept": broken(one, memory, recall),
                         "best fixed": best and best.figures}  # fmt: skip
    rivals = [each | {"memory": memory, "asked": asked.get(each["name"], [])} for memory, each in zip(budgets, theirs, strict=False)]  # fmt: skip
    return "\n\n".join(parts), {
        "title": data.title, "budgets": kept, "fixed": [one.figures for one in fixed_ones], "autofaiss": rivals
    }  # fmt: skip


def broken(one: Contender, memory: float, recall: float) -> list[str]:
    """What it does not keep of a budget."""
    slow = statistics.median(one.latency)
    fails = [f"recall {one.recall:.4f}"] if one.recall < recall else []
    fails += [f"{slow:.2f} ms"] if slow > LATENCY else []
    fails += [f"{one.bytes / 1e6:.2f} MB"] if one.bytes > memory else []
    return fails


def summary(sets: list[dict[str, Any]]) -> list[Row]:
    """`sets`: the figures of each data set."""
    by_set = [[budget for budget in each["budgets"] if "found" in budget] for each in sets]
    accepted = [budget for budgets in by_set for budget in budgets]
    kept = [budget for budget in accepted if not budget["not kept"]]
    titles = [
        f"{each['title'].split(':')[0]} ({len(budgets)})" for each, budgets in zip(sets, by_set, strict=True)
    ]
    pairs = [(each["found"]["rates"], each["best fixed"]["rates"]) for each in accepted if each["best fixed"]]
    over = [ratio(theirs, ours) for ours, theirs in pairs]
    behind = sum(each > SLACK for each in over)
    built = [budget["built"]["seconds"] for budget in accepted]
    return [
        Row(
            f"an index chosen by budgets of memory and recall, {' and '.join(titles)}, 2 cores: budgets kept on {QUERIES:,} queries never seen",
            f"{len(kept)} of {len(accepted)}" + lost(len(kept) < len(accepted)),
            limit=f"built in {min(built):.0f} to {max(built):.0f} s",
        ),
        Row(
            f"the same: queries a second against the best fixed type of that memory and recall: behind by more than {100 * (SLACK - 1):.0f} % in {behind} of {len(pairs)}",
            f"{between([ours for ours, _ in pairs])} /s",
            f"{between([theirs for _, theirs in pairs])} /s",
            f"theirs {short(min(over))} to {short(max(over))} of ours" + lost(behind > 0),
            "the fixed ones do not ask again where the last candidate counts",
        ),
        *(row for each in sets for row in beside_autofaiss(each)),
    ]


def between(rates: list[list[float]]) -> str:
    medians = [statistics.median(each) for each in rates]
    return f"{short(min(medians))} to {short(max(medians))}"


def beside_autofaiss(figures: dict[str, Any]) -> list[Row]:
    """One data set, at the lower recall; no row where autofaiss has built nothing."""
    ours = {
        each["memory"]: each for each in figures["budgets"] if each["recall"] == RECALL[0] and "found" in each
    }
    theirs = {
        each["memory"]: each for each in figures["autofaiss"] if each["asked"] and each["memory"] in ours
    }
    if not theirs:
        return []

    def shown(recall: float, rates: list[float], seconds: float) -> str:
        return f"{recall:.3f} x {middle(rates)} /s, {short(seconds)} s"

    sizes, left, right, better, longer = [], [], [], [], []
    for memory, each in theirs.items():
        found, seconds = ours[memory]["found"], ours[memory]["built"]["seconds"]
        recall, rates = each["asked"][0]["recall@10"], [said["queries_per_second"] for said in each["asked"]]
        sizes.append(f"{memory / 1e6:.3g}")
        left.append(shown(found["recall"], found["rates"], seconds))
        right.append(f"{each['key']}: {shown(recall, rates, each['seconds'])}")
        better.append(found["recall"] / recall * ratio(found["rates"], rates))
        longer.append(seconds / each["seconds"])
    return [
        Row(
            f"{figures['title'].split(':')[0]} against autofaiss at {', '.join(sizes)} MB: recall@10 x queries a second, build time"
            + lost(max(longer) > 0.1, "more than the tenth of the build time asked"),
            "; ".join(left),
            "; ".join(right),
            "; ".join(f"{short(a)}, {short(b)}" for a, b in zip(better, longer, strict=True))
            + lost(min(better) < 1),
        )
    ]


def choices(ours: dict, fixed_ones: list[Contender], found: dict[str, list[float]]) -> str:
    """What `auto` took, whether it kept the budget, and the best fixed way that finds as much within the same memory."""
    rows, refused, missed = [], [], []
    behind: dict[str, list[str]] = {"Finder.find": [], "its pieces": []}
    for (memory, recall), (built, one, _) in ours.items():
        budget = f"{memory / 1e6:.3g} MB, {recall}"
        if one is None:
            refused.append(f'- {budget}: {built.seconds:.1f} s, then "{built.refused}"')
            continue
        fails = broken(one, memory, recall)
        missed += [f"- {budget}: {', '.join(fails)}"] if fails else []
        assert one.pieces
        fit = [o for o in fixed_ones if o.bytes <= memory]
        for ours_, what in ((one, "Finder.find"), (one.pieces, "its pieces")):
            better = fastest(fit, ours_.recall)
            if better and better.speed > SLACK * ours_.speed:
                behind[what].append(
                    f"- {budget}, {what}: {better.name} finds {better.recall:.4f} at {better.speed / ours_.speed:.2f} times the rate"
                )
        rows.append(
            f"| {budget} | {built.chosen} | {built.seconds:.0f} | {one.bytes / 1e6:.1f} | {built.foretold} | {one.recall:.4f} ± {one.error:.4f} "
            f"| {spread(one.rates)} | {spread(one.latency)} | {spread(found[f'{one.name}: Index.search'])} | {shown(fastest(fit, one.recall), one)} "
            f"| {one.pieces.recall:.4f}, {spread(one.pieces.rates)} | {shown(fastest(fit, one.pieces.recall), one.pieces)} | {shown(fastest(fit, recall), one.pieces)} |"
        )  # fmt: skip
    counts = ", ".join(f"{len(lines)} by {what}" for what, lines in behind.items())
    lists = {
        "Not kept": missed,
        "Behind": [line for lines in behind.values() for line in lines],
        "Refused": refused,
    }
    return (
        "### `auto`\n\n| budget: memory, recall@10 | chosen | built in s | MB | sidecar: recall, q/s, ms | recall@10 outside | Finder.find, q/s | one query, ms "
        "| Index.search, q/s | fastest fixed that finds as much: its q/s over Finder.find's | the same index by its pieces: recall, q/s "
        "| fastest fixed that finds as much, over the pieces | fastest fixed with the recall asked, over the pieces |\n"
        + "|---" * 13 + "|\n" + "\n".join(rows)
        + f"\n\nBudgets accepted {len(rows)}, not kept {len(missed)}, refused {len(refused)}. Behind a fixed type of the same memory and recall by more than "
        f"{SLACK - 1:.0%}: {counts}. Fixed types are asked by their pieces, FAISS and then the store's vectors; Finder.find also asks again, deeper, "
        "where the last candidate is one that counts, and Index.search makes paths of ids."
        + "".join(f"\n\n{head}:\n\n" + "\n".join(lines) for head, lines in lists.items() if lines)
    )  # fmt: skip


def fastest(among: list[Contender], recall: float) -> Contender | None:
    return max((one for one in among if one.recall >= recall), key=lambda one: one.speed, default=None)


def shown(other: Contender | None, one: Contender) -> str:
    return f"{other.speed / one.speed:.2f}: {other.name} ({other.recall:.4f})" if other else "none"


def against(ours: dict, theirs: dict[int, dict[str, Any]], asked: dict[str, list[dict[str, float]]]) -> str:
    rows = []
    for memory, each in theirs.items():
        if not each["key"]:
            what = "no index" if "seconds" in each else "not run"
            what = f"nothing in {each['seconds']:.0f} s, then stopped" if each.get("cut") else what
            them, product = f"{what} | | | | | | |", None
        else:
            said = asked[each["name"]]
            rates, product = (
                [a["queries_per_second"] for a in said],
                statistics.median(a["recall@10"] * a["queries_per_second"] for a in said),
            )
            deep = statistics.median(a["queries_per_second_of_100"] for a in said)
            them = (
                f"{each['key']} ({each['param']}) | {each['bytes'] / 1e6:.1f} | {each['seconds']:.0f} | {said[0]['recall@10']:.4f} | {spread(rates)} "
                f"| {spread([a['latency_ms'] for a in said])} | {said[0]['recall_of_100']:.4f} at {deep:,.0f} |"
            )  # fmt: skip
        rows.append(f"| {memory / 1e6:.3g} MB, autofaiss | {them} |")
        for recall in RECALL:
            built, one, _ = ours[memory, recall]
            if one is None:
                rows.append(f"| ours, {recall} | refused | | {built.seconds:.0f} | | | | | |")
                continue
            ratio = (
                f"{one.recall * one.speed / product:.2f}; {built.seconds / each['seconds']:.3f}"
                if product
                else ""
            )
            rows.append(
                f"| ours, {recall} | {built.chosen} | {one.bytes / 1e6:.1f} | {built.seconds:.0f} | {one.recall:.4f} | {spread(one.rates)} "
                f"| {spread(one.latency)} | | {ratio} |"
            )  # fmt: skip
    return (
        "### Against autofaiss\n\n| | index | MB | built in s | recall@10 | q/s | one query, ms | recall of its best 100, q/s | ours over theirs: recall x q/s; build time |\n"
        + "|---" * 9 + "|\n" + "\n".join(rows)
        + f"\n\nautofaiss gets the vectors in memory, the memory budget, 10 ms, `ip` and 2 cores, all else is its default; it has no budget for recall. It was stopped after "
        f"{RIVAL_MINUTES} minutes. Its results are taken as they come; ours are ranked again by the store's vectors, which lie on disk beside the index (float16, "
        "in the page cache here) and are in no budget of either. So its column \"best 100\" says what ranking 100 of its results again could reach, "
        "that ranking's own time not counted."
    )  # fmt: skip


def menu(fixed_ones: list[Contender], seconds: dict[str, float], lists: int) -> str:
    rows = []
    for one in sorted(fixed_ones, key=lambda o: (o.bytes, o.recall)):
        factory = next(name for name in seconds if one.name.startswith(f"{name}, "))
        rows.append(
            f"| {one.name} | {one.bytes / 1e6:.1f} | {seconds[factory]:.0f} | {one.recall:.4f} | {spread(one.rates)} |"
        )
    return (
        "### Fixed types, ranked again in the same way\n\n| type, effort, candidates ranked again | MB | built in s | recall@10 | q/s |\n|---|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nEfforts 1, 2, 4 ... 512 lists of {lists:,}, or beams of 16 to 256, until recall is 0.9995; candidates ranked again {', '.join(map(str, DEPTHS))}. Shown is what no "
        "other way of the same type beats in both, from recall 0.85 on."
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, help="real vectors")
    parser.add_argument("--autofaiss", type=Path, help="an interpreter that has autofaiss")
    parser.add_argument(
        "--only",
        type=float,
        nargs="+",
        default=[m / 1e6 for m in MEMORY],
        metavar="MB",
        help="budgets that autofaiss gets",
    )
    parser.add_argument("--work", type=Path, help="keeps what is built [a temporary folder]")
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        work = options.work or Path(place)
        data = [made_up(work, 10_000, 128, 100) if options.quick else made_up(work, 100_000, 512, 1000)]
        data += [real(work, options.store)] if options.store else []
        parts, figures = zip(*(compare(each, options.autofaiss, options.only) for each in data), strict=True)
    body = "\n\n".join(parts)
    versions = ""
    if options.autofaiss:
        ask = "from importlib.metadata import version as v; print(*(f'{p} {v(p)}' for p in ('autofaiss', 'faiss-cpu', 'numpy')), sep=', ')"
        done = subprocess.run([options.autofaiss, "-c", ask], capture_output=True, text=True, check=True)
        versions = f" The peer's environment: {done.stdout.strip()}."
    body += (
        f"\n\nMedian (range) of {TIMES} rounds, all contenders in turn; {QUERIES:,} queries of the same distribution that are in no index, all together (q/s) or {SINGLE} of "
        f"them alone (median). Recall counts what is as near as the tenth, by inner products with all vectors in numpy; ± is its standard error over queries. MB is "
        f"the file and {LOOKUP_BYTES} bytes a vector for the lookup, which the budget counts, too.{versions}"
    )
    write("index_choice_cpu", claim="The index that `auto` chooses, against fixed types and autofaiss", data="made up here (PCG64, seed 0), and a store where one is named", packages=["faiss-cpu", "numpy", "pyarrow"], body=body, rows=summary([*figures]) if options.store and options.autofaiss else (), figures=figures, keep=not options.quick)  # fmt: skip


if __name__ == "__main__":
    main()
