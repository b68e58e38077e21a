"""Claim: `simclr classify fit` learns a linear probe in less time than what one writes with scikit-learn takes, from the same vectors, is as
often right, and its probabilities mean as much; what saying how unlike an image is costs beside it.

    classify.py [--rows 10000] [--store STORE ...] [--most 10000] [--times 3] [--name NAME] [--work FOLDER] [--quick]

The peer: StandardScaler and LogisticRegression (lbfgs), its C chosen among the same values on a fifth held out; KNeighborsClassifier with
the same number of neighbours and weights; CalibratedClassifierCV for its probabilities. Both read the same store, a fifth of each class
is tested on, and every run is a process of its own with 2 threads; extra memory is its peak above what it has after its imports.

Shape letters: N = images learned from, Q = test images, D = width, C = classes.
"""

import argparse
import csv
import json
import os
import pickle
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import stores
from classify_rival import PEERS, calibrated, nearest, ready, vote
from reporting import Row, in_fresh_process, lost, middle, peak_megabytes, ratio, rounds, short, spread, write

from simclr.classify.calibration import calibration_error, log_loss
from simclr.classify.classifier import Classifier
from simclr.classify.examples import Examples, examples, split_stores
from simclr.classify.fitting import KEPT, fit_classifier
from simclr.classify.predicting import predict
from simclr.classify.probe import STRENGTHS
from simclr.classify.splits import at_most
from simclr.embed.store import Store

SIZES, WIDTH, TIMES, MOST = (10_000,), 512, 3, 10_000
PER_CLASS, GROUPS, ODD = 1000, 3, 0.05
"""Images of a class, groups that it is made of, and the share that lies among those of another class."""
NOISE = 1.6
"""Length of what is added to the middle of a group."""
THREADS = "2"
LEAST = 1e-6
"""Probability that the right class is taken to have had at least, for the log loss."""
FITS = {
    "probe": "classify fit",
    "logistic": "LogisticRegression",
    "knn": "classify fit --method knn",
    "vote": "KNeighborsClassifier",
}
"""Ours, and after it the peer."""
ASKS = {
    "probe": "classify predict",
    "logistic": "LogisticRegression",
    "logistic, unlike": "the same, and NearestNeighbors",
    "knn": "classify predict, kNN",
    "vote": "KNeighborsClassifier, cosine",
    "vote, unlike": "the same, and NearestNeighbors",
    "vote, euclidean": "KNeighborsClassifier, euclidean",
}
Found = dict[str, Any]


# ---- vectors


def made_up(rows: int) -> Iterable[np.ndarray]:
    """Unit vectors (4096, width), a thousand of a class after one another, as `stores.row` names them: each near the middle of a group,
    the axes of the noise the shorter the later they come (n^-1/2), as those of encoders are."""
    rng = np.random.Generator(np.random.PCG64(0))
    classes = -(-rows // PER_CLASS)
    lengths = np.arange(1, WIDTH + 1, dtype=np.float32) ** np.float32(-0.5)
    lengths /= np.linalg.norm(lengths)
    middles = rng.standard_normal((classes, GROUPS, WIDTH), np.float32) * lengths
    middles /= np.linalg.norm(middles, axis=2, keepdims=True)
    for start in range(0, rows, stores.SHARD_ROWS):
        own = np.arange(start, min(start + stores.SHARD_ROWS, rows)) // PER_CLASS
        own = np.where(rng.random(len(own)) < ODD, rng.integers(classes, size=len(own)), own)
        noise = rng.standard_normal((len(own), WIDTH), np.float32) * lengths * np.float32(NOISE)
        vectors = middles[own, rng.integers(GROUPS, size=len(own))] + noise
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def table_of(store: Path, path: Path, most: int) -> Path:
    """The class of each image, its first folder, and which fifth of each class tests: for ours and for the peer the same. Of `most` images
    where there are more, as many of each class."""
    names = np.array(Store.open(store).table(["image_path"])["image_path"].to_pylist())
    labels = np.array([name.split("/")[0] for name in names.tolist()])
    rng, tests, taken = np.random.Generator(np.random.PCG64(1)), np.zeros(len(labels), np.bool_), []
    classes = np.unique(labels)
    for label in classes:
        rows = rng.permutation(np.flatnonzero(labels == label))[: -(-most // len(classes))]
        tests[rows[: len(rows) // 5]] = True
        taken.append(rows)
    rows = np.sort(np.concatenate(taken))
    names, labels, tests = names[rows], labels[rows], tests[rows]
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["path", "label", "split"])
        out.writerows(zip(names, labels, np.where(tests, "test", "train"), strict=True))
    return path


def split_of(store: Store, table: Path) -> Examples:
    return examples(store, split_stores([store], table)[0])


# ---- learning, in a process of its own


def fitted(who: str, folder: str, table: str, out: str) -> Found:
    """What it cost to learn, and what the test images say; of a peer also with its probabilities calibrated. What was learned is at `out`."""
    ready()
    store = Store.open(folder)
    before, started = peak_megabytes(), time.perf_counter()

    def cost() -> Found:
        return {"seconds": time.perf_counter() - started, "extra": peak_megabytes() - before}

    if who in PEERS:
        data = split_of(store, Path(table))
        model = PEERS[who](data.train_ND, data.train_N)
        Path(out).write_bytes(pickle.dumps(model))
        found = cost()
        more = calibrated(model, data.train_ND, data.train_N)
        after = cost() | worth(more.predict_proba(data.test_QD), data.test_Q)
        return found | worth(model.predict_proba(data.test_QD), data.test_Q) | {"calibrated": after}
    ours = fit_classifier(store, table, Path(out), method=who)
    found = cost()
    data = split_of(store, Path(table))
    plain = Classifier(replace(ours.info, temperature=1.0, floor=1e-4), ours.tensors)
    found |= worth(plain.predict(data.test_QD).probabilities_QC, data.test_Q)
    return found | {"calibrated": cost() | worth(ours.predict(data.test_QD).probabilities_QC, data.test_Q)}


def worth(chances_QC: np.ndarray, labels_Q: np.ndarray) -> dict[str, float]:
    return {
        "top-1": float((chances_QC.argmax(1) == labels_Q).mean()),
        "calibration error": calibration_error(chances_QC.astype(np.float64), labels_Q),
        "log loss": log_loss(np.maximum(chances_QC, LEAST), labels_Q),
    }


# ---- answering, in a process of its own


def asked(who: str, folder: str, table: str, learned: str) -> Found:
    """Seconds for every vector of the store, MB above what was learned; opening that is not in them."""
    ready()
    store = Store.open(folder)
    method, _, also = who.partition(", ")
    other = None
    if who in PEERS or also == "unlike":
        model = pickle.loads(Path(learned).read_bytes())
    elif also == "euclidean":
        data = split_of(store, Path(table))
        model = vote(data.train_ND, data.train_N, also)
    else:
        model = Classifier.open(learned)
    if also == "unlike":
        data = split_of(store, Path(table))
        other = nearest(data.train_ND if method == "vote" else data.train_ND[at_most(data.train_N, KEPT)])
    data = None
    forget_peak()
    before, started = peak_megabytes(), time.perf_counter()
    if isinstance(model, Classifier):
        count = sum(1 for _ in predict(model, store))
    else:
        count = 0
        for _, vectors_SD in store.blocks():
            count += len(model.predict_proba(vectors_SD).argmax(1))
            if other is not None:
                other.kneighbors(vectors_SD)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "extra": peak_megabytes() - before, "rate": count / seconds}


def forget_peak() -> None:
    """What opening took is not what answering takes."""
    Path("/proc/self/clear_refs").write_text("5")


# ---- all of it


def compare(store: Path, work: Path, times: int, most: int) -> tuple[str, Found]:
    """Two tables of one store, and every figure behind them."""
    table = table_of(store, work / f"{store.stem}.csv", most)
    learned = {
        "probe": f"{store.stem}.classifier",
        "knn": f"{store.stem}.knn.classifier",
        **{who: f"{store.stem}.{who}.pickle" for who in PEERS},
    }
    kept: dict[str, dict[str, list[Found]]] = {"fit": {}, "ask": {}}

    def run(part: str, who: str, file: str) -> float:
        said = in_fresh_process([f"--{part}", who, str(store), str(table), file], huge_pages=False)
        kept[part].setdefault(who, []).append(said)
        return float(said["seconds"])

    def paths(who: str) -> str:
        return str(work / learned[who.partition(",")[0]])

    rounds({who: partial(run, "fit", who, str(work / learned[who])) for who in FITS}, times=times)
    rounds({who: partial(run, "ask", who, paths(who)) for who in ASKS}, times=times)
    return "\n".join([*fit_lines(kept["fit"]), "", *ask_lines(kept["ask"])]), kept


def fit_lines(kept: dict[str, list[Found]]) -> list[str]:
    """Seconds and memory are without the peer's calibration, which has a line of its own; ours cannot be had without."""
    lines = [
        "| learning | seconds | extra MB | top-1 | calibration error, as it comes | calibrated | log loss, as it comes | calibrated |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for who, title in FITS.items():
        first = kept[who][0]
        told = [f"{one[name]:.4f}" for name in ("calibration error", "log loss") for one in (first, first["calibrated"])]  # fmt: skip
        lines.append(f"| {title} | {costs(kept[who])} | {first['top-1']:.4f} | {' | '.join(told)} |")
        if who in PEERS:
            after = [one["calibrated"] for one in kept[who]]
            lines.append(
                f"| with CalibratedClassifierCV | {costs(after)} | {after[0]['top-1']:.4f} | | | | |"
            )
    lines.append("")
    for ours, peer in (("probe", "logistic"), ("knn", "vote")):
        seconds = values(kept[ours], "seconds")
        plain, after = values(kept[peer], "seconds"), values([one["calibrated"] for one in kept[peer]], "seconds")  # fmt: skip
        lines.append(
            f"- {FITS[ours]} takes {ratio(seconds, plain):.2f} of the time of {FITS[peer]}, {ratio(seconds, after):.2f} of that with its calibration"
        )
    return lines


def costs(each: list[Found]) -> str:
    return f"{spread(values(each, 'seconds'))} | {spread(values(each, 'extra'))}"


def ask_lines(kept: dict[str, list[Found]]) -> list[str]:
    lines = ["| answering | vectors/s | extra MB | ours over it |", "|---|---|---|---|"]
    ours = ""
    for who, title in ASKS.items():
        ours = who if who in FITS and who not in PEERS else ours
        rates = values(kept[who], "rate")
        over = "" if who == ours else f"{ratio(values(kept[ours], 'rate'), rates):.2f}"
        lines.append(f"| {title} | {spread(rates)} | {spread(values(kept[who], 'extra'))} | {over} |")
    return lines


def summary(kept: dict[str, dict[str, list[Found]]], rows: int) -> list[Row]:
    """Of one of the stores made up here, of which so many rows have a class."""
    fit, ask = kept["fit"], kept["ask"]

    def took(who: str) -> list[float]:
        return values(fit[who], "seconds")

    def in_all(who: str) -> list[float]:
        """Calibration included."""
        return values([one["calibrated"] for one in fit[who]], "seconds")

    def rate(who: str) -> list[float]:
        return values(ask[who], "rate")

    def worth(who: str) -> str:
        first = fit[who][0]
        return f"{first['top-1']:.3f}; {first['calibrated']['calibration error']:.3f}"

    probe, knn = (
        [ratio(took(ours), peer(theirs)) for peer in (took, in_all)]
        for ours, theirs in (("probe", "logistic"), ("knn", "vote"))
    )
    faster = [ratio(rate("probe"), rate(peer)) for peer in ("logistic", "logistic, unlike")]
    which = lost(max(faster) < 1) or lost(faster[0] < 1, "lost without the latter")
    return [
        Row(
            f"a linear probe on {rows - rows // 5:,} x {WIDTH}, its strength chosen, {THREADS} cores: time; top-1; calibration error",
            f"{middle(took('probe'))} s; {worth('probe')}",
            f"scikit-learn, the same strengths: {middle(took('logistic'))} s, calibrated {middle(in_all('logistic'))} s; {worth('logistic')}",
            ", ".join(map(short, probe)) + lost(max(probe) > 1),
        ),
        Row(
            f"the same: images a second that get a class, and how unlike all they are{which}",
            f"{middle(rate('probe'))} /s",
            f"LogisticRegression {middle(rate('logistic'))} /s; with NearestNeighbors {middle(rate('logistic, unlike'))} /s",
            "; ".join(map(short, faster)),
        ),
        Row(
            f"kNN of the same, learned and calibrated{lost(knn[1] > 1)}",
            f"{middle(took('knn'))} s",
            f"KNeighborsClassifier {middle(took('vote'))} s, calibrated {middle(in_all('vote'))} s",
            f"{'; '.join(map(short, knn))} times as long",
        ),
    ]


def values(each: list[Found], name: str) -> list[float]:
    return [one[name] for one in each]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, action="append", default=[], help="a store of class folders")
    parser.add_argument("--rows", type=int, nargs="*", default=list(SIZES), help="of those made up here")
    parser.add_argument("--most", type=int, default=MOST, help="images that have a class in a store")
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--name", default="classify_cpu", help="of the report")
    parser.add_argument("--work", type=Path, help="keeps the stores made up here")
    parser.add_argument("--quick", action="store_true", help="few vectors, one round, nothing written")
    parser.add_argument("--fit", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--ask", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fit or options.ask:
        print(json.dumps(fitted(*options.fit) if options.fit else asked(*options.ask)))
        return
    os.environ |= {"OMP_NUM_THREADS": THREADS, "OPENBLAS_NUM_THREADS": THREADS}
    parts, figures, in_table = [], {}, []
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(exist_ok=True)
        for rows in [4000] if options.quick else options.rows:
            folder = work / f"{rows}.store"
            if not folder.exists():
                stores.fill(folder, made_up(rows), model=stores.model(work / "export"), width=WIDTH)
            options.store.append(folder)
        for folder in options.store:
            text, figures[folder.stem] = compare(
                folder, work, 1 if options.quick else options.times, options.most
            )
            opened = Store.open(folder)
            if folder.parent == work:
                in_table += summary(figures[folder.stem], min(options.most, len(opened)))
            parts.append(
                f"## {len(opened):,} x {opened.info.width}, {folder.name}; {min(options.most, len(opened)):,} have a class\n\n{text}"
            )
    body = "\n\n".join(parts) + (
        f"\n\nMedian (range) of {options.times} rounds in turn, {THREADS} threads. Learning is from an opened store to a saved model, and includes reading the vectors and choosing C among "
        f"{len(STRENGTHS)} values: ours from the weakest up, each from where the last one ended, until two in a row are worse. Answering is for every vector of the store, the model already open. "
        "`classify predict` also checks the store against its SHA-256, gives every image its path, and says how unlike all that it learned from it is; NearestNeighbors tells the peer of that."
    )
    write(options.name, claim="A classifier on the vectors of a store, beside what one writes with scikit-learn", data=f"made up here (PCG64, seed 0): {PER_CLASS:,} of a class in {GROUPS} groups, noise {NOISE:g} times as long as a middle, {ODD:.0%} among another class; and stores where they are named", packages=["numpy", "scipy", "scikit-learn"], body=body, rows=in_table, figures=figures, keep=not options.quick)  # fmt: skip


if __name__ == "__main__":
    main()
