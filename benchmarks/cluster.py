"""Claim: a Ray cluster of two machines makes the store that one machine makes, also when a process or a machine is killed, at 0.7 times its rate
where both share the cores of one.

    cluster.py --images FOLDER --model EXPORT [--count 20000] [--quick]

Two machines of one CPU each on this one, with Ray's daemons, against one process with both CPUs. The rate is that of embedding, from the plan to the
last commit, as `--json` reports it; the steady rate leaves out what Ray takes until the first images come. Stores are compared path by path.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from programs import embed, run
from reporting import Row, lost, middle, short, spread, write

from simclr.embed.store import Store

HELPER = Path(__file__).parent.parent / "tests" / "embed" / "ray_cluster.py"


class Machines:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, HELPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )  # fmt: skip
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    def tell(self, words: str) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def vectors_of(path: Path) -> dict[str, np.ndarray]:
    """By path; each must be there once."""
    store = Store.open(path)
    rows = store.rows()
    vectors = np.concatenate([block for _, block in store.blocks()])
    found = {row.image_path: vector for row, vector in zip(rows, vectors, strict=True)}
    assert len(found) == len(rows) == len({row.id for row in rows}), "a path or an id twice"
    return found


def on_cluster(
    words: list[str | Path], machines: Machines, kill: str | None
) -> tuple[dict[str, float], float]:
    """Its report, and images a second from the first progress on; `kill` is told at a third of the images."""
    process = subprocess.Popen(
        [*map(str, words), "--json", "--ray", machines.address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    said: list[str] = []
    listener = threading.Thread(target=lambda: said.append(process.stdout.read()))  # type: ignore[union-attr]
    listener.start()
    first, last, lines = (0.0, 0), (0.0, 0), []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("embed: ") and " of " in line:
            done, total = (int(word.replace(",", "")) for word in (line.split()[1], line.split()[3]))
            last = (time.monotonic(), done)
            first = first if first[1] else last
            if kill and done > total / 3:
                machines.tell(kill)
                kill = None
    listener.join()
    if process.wait():
        raise SystemExit("".join(lines))
    assert kill is None, "ended before it was killed"
    return json.loads(said[0]), (last[1] - first[1]) / max(1e-9, last[0] - first[0])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path, required=True, help="a folder of images")
    parser.add_argument("--model", type=Path, required=True, help="export folder")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few images, nothing written")
    options = parser.parse_args()
    if options.quick:
        options.count, options.rounds = 1500, 1
    rows, rates, steady, whole = [], {"one": [], "cluster": []}, [], {"one": [], "cluster": []}  # type: ignore[var-annotated]
    runs: list[dict[str, Any]] = []
    machines = Machines()
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        (work / "images").mkdir()
        sources = [path for path in sorted(options.images.rglob("*")) if path.is_file()][: options.count]
        for number, path in enumerate(sources):
            (work / "images" / f"{number:06d}{path.suffix}").symlink_to(path.resolve())
        expected: dict[str, np.ndarray] = {}

        def check(title: str, report: dict[str, float], seconds: float, store: Path) -> None:
            found = vectors_of(store)
            least = min(float(vector @ expected[path]) for path, vector in found.items())
            same = "yes" if found.keys() == expected.keys() and least > 1 - 1e-3 else "NO"
            rows.append(f"| {title} | {report['seconds']:.1f} | {seconds:.1f} | {same} | {1 - least:.1e} |")
            runs.append({"title": title, "embedding": report["seconds"], "command": seconds, "same": same == "yes", "least cosine": least})  # fmt: skip

        for turn in range(options.rounds):
            started = time.perf_counter()
            said = json.loads(
                run([*embed(work / "images", work / f"one{turn}.store", options.model), "--json"])
            )
            whole["one"].append(time.perf_counter() - started)
            rates["one"].append(said["added"] / said["seconds"])
            expected = expected or vectors_of(work / f"one{turn}.store")
            check("one machine, 2 CPUs", said, whole["one"][-1], work / f"one{turn}.store")
            started = time.perf_counter()
            said, rate = on_cluster(
                embed(work / "images", work / f"ray{turn}.store", options.model), machines, None
            )
            whole["cluster"].append(time.perf_counter() - started)
            rates["cluster"].append(said["added"] / said["seconds"])
            steady.append(rate)
            check("two machines of 1 CPU", said, whole["cluster"][-1], work / f"ray{turn}.store")
        for kill in ("kill a worker", "kill a machine"):
            store = work / f"{kill.replace(' ', '_')}.store"
            started = time.perf_counter()
            said, _ = on_cluster(embed(work / "images", store, options.model), machines, kill)
            check(f"two machines, {kill} at a third", said, time.perf_counter() - started, store)
        machines.close()
    one, cluster = float(np.median(rates["one"])), float(np.median(rates["cluster"]))
    body = (
        "| | embedding, s | command, s | same store | largest 1 - cosine |\n|---|---|---|---|---|\n" + "\n".join(rows)
        + f"\n\nImages a second: one machine {spread(rates['one'])}; cluster {spread(rates['cluster'])}, {cluster / one:.2f} of it; from its first images on "
        f"{spread(steady)}, {float(np.median(steady)) / one:.2f} of it. 0.7 is asked for.\n"
    )  # fmt: skip
    data = f"{len(sources):,} images of {options.images.name}/, encoder of {options.model.name}/"
    shares = [cluster / one, float(np.median(steady)) / one]
    in_table = Row(
        f"{len(sources):,} images embedded on a Ray cluster of two machines that share 2 cores, encoder of {options.model.name}/: images/s with Ray's start, from the first images on; the same store, also with a process, a machine killed"
        + lost(not all(each["same"] for each in runs), "not the same"),
        f"{short(cluster)}, {middle(steady)}",
        f"one machine with both cores: {short(one)}",
        ", ".join(map(short, shares)),
        f"0.7 asked{lost(shares[0] < 0.7, 'not kept')}; {options.rounds} rounds; the cluster decodes and computes at once, one machine in turns",
    )
    figures = {"runs": runs, "images/s": rates, "images/s from the first images on": steady}
    write("cluster_cpu", claim="A store made on a Ray cluster", data=data, packages=["ray", "onnxruntime"], body=body, rows=[in_table], figures=figures, keep=not options.quick)  # fmt: skip


if __name__ == "__main__":
    main()
