"""Claim: `simclr duplicates` finds copies of photos that it was not told about, at a precision of 0.99, from a likeness on that it chooses itself.

    duplicates.py --photos FOLDER --caltech FOLDER --model EXPORT [--imagededup PYTHON] [--known PAIRS] [--copied 300] [--quick]

Photos, and copies of some of them as files: at half the size, recompressed, mirrored, cropped, recoloured. All are embedded with the export; what is
found is held against what was copied. A pair is right if both come from one original, or from two of equal content, or from two that a person found to be
copies of one another (`--known`, a CSV file with two columns of FOLDER/NAME). The peer is imagededup's perceptual hash, at the distance that is best
for it in hindsight.

Shape letters: N = images, P = pairs, D = width.
"""

import argparse
import csv
import json
import shutil
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from programs import embed, run
from reporting import Row, lost, short, write

from simclr.classify.copies import KINDS
from simclr.classify.copy_search import find_duplicates
from simclr.embed.store import Store
from simclr.images import decode

PRECISION = 0.99
LISTED = 40
"""Wrong pairs that the report names."""
RIVAL = Path(__file__).with_name("imagededup_rival.py")


@dataclass
class Images:
    """What each file of the folder is, by its name."""

    names: list[str]
    """(N,) sorted."""
    originals_N: np.ndarray
    """A number for each original; equal contents have one."""
    kinds_N: np.ndarray
    """0 an original, else the number of its kind of copy, from 1."""
    sources: dict[str, str]
    """Name -> where it comes from, for people."""

    def right(self, one_P: np.ndarray, other_P: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.originals_N[one_P] == self.originals_N[other_P]
        return found

    def recalls(self, one_P: np.ndarray, other_P: np.ndarray) -> list[float]:
        """Of each kind, the share of the copies in a pair with their original."""
        copy_P = np.where(self.kinds_N[one_P] > 0, one_P, other_P)
        with_original = (np.minimum(self.kinds_N[one_P], self.kinds_N[other_P]) == 0) & self.right(
            one_P, other_P
        )
        found = np.zeros(len(self.names), bool)
        found[copy_P[with_original]] = True
        return [float(found[self.kinds_N == kind].mean()) for kind in range(1, len(KINDS) + 1)]


def known_pairs(path: Path | None) -> list[tuple[str, str]]:
    if path is None:
        return []
    with open(path, newline="") as file:
        return [(one, other) for one, other in csv.reader(file)][1:]


def planted(
    folder: Path, sources: list[Path], known: list[tuple[str, str]], copied: int, seed: int
) -> Images:
    """Fills the folder: each image as it is, and the copies as JPEG of quality 95 (recompressed: 50)."""
    folder.mkdir()
    chosen = np.random.default_rng(seed).choice(len(sources), copied, replace=False)
    contents: dict[bytes, int] = {}
    entries: list[tuple[str, int, int, str]] = []
    for number, path in enumerate(sources):
        original = contents.setdefault(path.read_bytes(), number)
        words = "/".join(path.parts[-2:])
        name = f"{number:05d}{path.suffix}"
        shutil.copy(path, folder / name)
        entries.append((name, original, 0, words))
        if number in chosen:
            image = decode(path.read_bytes()).image
            for kind, (title, change) in enumerate(KINDS.items(), start=1):
                name = f"{number:05d}_{title}.jpg"
                change(image).save(folder / name, quality=50 if title == "recompressed" else 95)
                entries.append((name, original, kind, f"{words}, {title}"))
    names, originals, kinds, words_ = zip(*sorted(entries), strict=True)
    originals_N = np.array(originals)
    of = {words: place for place, words in enumerate(words_)}
    for one, other in known:
        if one in of and other in of:
            originals_N[originals_N == originals_N[of[other]]] = originals_N[of[one]]
    return Images([*names], originals_N, np.array(kinds), dict(zip(names, words_, strict=True)))


def vectors_of(store: Store, images: Images) -> np.ndarray:
    """(N, D) in the order of the names."""
    at = {row.image_path: place for place, row in enumerate(store.rows())}
    vectors_ND = np.concatenate([vectors for _, vectors in store.blocks()])
    return vectors_ND[[at[name] for name in images.names]]


def pairs_above(vectors_ND: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs with at least this cosine, the nearest first: two places and the cosine."""
    parts = []
    for start in range(0, len(vectors_ND), 1000):
        alike = vectors_ND[start : start + 1000] @ vectors_ND.T
        one, other = np.nonzero(alike >= least)
        later = other > one + start
        parts.append((one[later] + start, other[later], alike[one[later], other[later]]))
    one_P, other_P, alike_P = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((other_P, one_P, -alike_P))
    return one_P[order], other_P[order], alike_P[order]


def hindsight(images: Images, one_P: np.ndarray, other_P: np.ndarray, score_P: np.ndarray) -> int:
    """How many of the pairs, the best first, are still right by 99 in 100; equal scores stay together."""
    precision_P = np.cumsum(images.right(one_P, other_P)) / np.arange(1, len(one_P) + 1)
    ends = np.append(score_P[1:] != score_P[:-1], True)
    enough = np.flatnonzero(ends & (precision_P >= PRECISION))
    return int(enough[-1]) + 1 if len(enough) else 0


@dataclass
class Judged:
    """Pairs up to a cut."""

    cut: str
    pairs: int
    wrong: int
    recalls: list[float]
    """Of each kind of copy."""

    @classmethod
    def of(cls, cut: str, images: Images, one_P: np.ndarray, other_P: np.ndarray) -> "Judged":
        right = images.right(one_P, other_P)
        return cls(cut, len(right), int((~right).sum()), images.recalls(one_P, other_P))

    @property
    def precision(self) -> float:
        return 1 - self.wrong / self.pairs if self.pairs else 1.0

    @property
    def recall(self) -> float:
        return float(np.mean(self.recalls))

    def row(self, title: str) -> str:
        precision = f"{self.precision:.4f}" if self.pairs else "no pair"
        recalls = " | ".join(f"{recall:.3f}" for recall in [*self.recalls, self.recall])
        return f"| {title} | {self.cut} | {self.pairs:,} | {self.wrong:,} | {precision} | {recalls} |"


OURS, ALONE = "ours, auto: pairs within groups", "our vectors alone, best in hindsight: pairs"
PHASH, DEFAULT = "imagededup PHash, best in hindsight: pairs", "imagededup PHash, its default: pairs"


def summary(judged: dict[str, Judged], *, copied: int, files: int, model: str) -> list[Row]:
    """None where imagededup was left out."""
    if PHASH not in judged:
        return []
    ours, peer = judged[OURS], judged[PHASH]
    return [
        Row(
            f"copies of {copied} photos in {len(KINDS)} ways among {files:,} files, precision {PRECISION:g} asked, the cut chosen by itself: mean recall of the {len(KINDS)}, precision; encoder of {model}/",
            f"{ours.recall:.3f}, {ours.precision:.4f}"
            + lost(ours.precision < PRECISION, f"below the {PRECISION:g} asked"),
            f"imagededup's PHash, its best in hindsight: {peer.recall:.3f}, {peer.precision:.4f}",
            short(ours.recall / peer.recall) + lost(ours.recall < peer.recall),
            f"our vectors alone, best in hindsight: {judged[ALONE].recall:.3f}",
        )
    ]


def wrong_pairs(images: Images, one_P: np.ndarray, other_P: np.ndarray, score_P: np.ndarray) -> str:
    wrong = np.flatnonzero(~images.right(one_P, other_P))
    lines = [
        f"- {score_P[i]:.4f}: {images.sources[images.names[one_P[i]]]}; {images.sources[images.names[other_P[i]]]}"
        for i in wrong[:LISTED]
    ]
    more = f"\n- and {len(wrong) - LISTED:,} more" if len(wrong) > LISTED else ""
    return "\n".join(lines) + more if lines else "None."


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--caltech", type=Path, required=True, help="another one, of more")
    parser.add_argument("--model", type=Path, required=True, help="export folder")
    parser.add_argument("--imagededup", help="a Python that has imagededup")
    parser.add_argument(
        "--known", type=Path, help="pairs of photos that are copies of one another, as a person sees it"
    )
    parser.add_argument("--copied", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="duplicates", help="of the report")
    parser.add_argument("--quick", action="store_true", help="few images, nothing written")
    options = parser.parse_args()
    sources = [
        path
        for folder in (options.photos, options.caltech)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in (".jpg", ".jpeg")
    ]
    if options.quick:
        sources, options.copied = sources[:: max(1, len(sources) // 60)][:60], 12
    known = known_pairs(options.known)
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        images = planted(work / "images", sources, known, options.copied, options.seed)
        started = time.perf_counter()
        run(embed(work / "images", work / "out.store", options.model))
        embedded = time.perf_counter()
        store = Store.open(work / "out.store")
        found = find_duplicates(
            store,
            threshold=None,
            note=lambda line: print(line, file=sys.stderr),
            show=lambda what: nullcontext(lambda done, total, words: None),
        )
        searched = time.perf_counter()
        at = {row.id: images.names.index(row.image_path) for row in store.rows()}
        ids = found.facts.ids
        groups = [
            [at[int(ids[place])] for place in (group.keeper, *group.copies_C)] for group in found.groups
        ]
        keeping = np.array([(group[0], copy) for group in groups for copy in group[1:]]).reshape(-1, 2).T
        scores = np.concatenate([group.similarities_C for group in found.groups] or [np.empty(0)])
        in_groups = images.right(*keeping)
        together = np.array([pair for group in groups for pair in combinations(group, 2)]).reshape(-1, 2).T
        vectors_ND = vectors_of(store, images)
        best = np.partition(vectors_ND @ vectors_ND.T, -2, axis=1)[:, -2]
        one_P, other_P, alike_P = pairs_above(vectors_ND, float(np.quantile(best, 0.3)))
        most = hindsight(images, one_P, other_P, alike_P)
        judged = {
            OURS: Judged.of(f"likeness {found.threshold:.4f}", images, *together),
            ALONE: Judged.of(f"cosine {alike_P[most - 1]:.6f}" if most else "none", images, one_P[:most], other_P[:most]),
        }  # fmt: skip
        seconds = {"embedding": embedded - started, "searching": searched - embedded}
        took = f"embedding {embedded - started:.1f} s, looking, choosing and comparing {searched - embedded:.1f} s"
        if options.imagededup:
            said = json.loads(run([options.imagededup, RIVAL, work / "images"]).splitlines()[-1])
            number = {name: place for place, name in enumerate(images.names)}
            theirs = sorted((distance, number[one], number[other]) for one, other, distance in said["pairs"])
            distance_P, first_P, second_P = (np.array(part) for part in zip(*theirs, strict=True))
            kept = hindsight(images, first_P, second_P, distance_P)
            judged[PHASH] = Judged.of(f"{distance_P[kept - 1]} bits" if kept else "none", images, first_P[:kept], second_P[:kept])  # fmt: skip
            default = distance_P <= 10
            judged[DEFAULT] = Judged.of("10 bits", images, first_P[default], second_P[default])
            seconds |= {"imagededup, encoding": said["encoding"], "imagededup, comparing": said["comparing"]}
            took += f"; imagededup: hashes {said['encoding']:.1f} s, search {said['comparing']:.1f} s"
    head = f"| | threshold | pairs | wrong | precision | {' | '.join(KINDS)} | mean |\n" + "|---" * (
        6 + len(KINDS)
    )
    body = (
        f"{head}|\n" + "\n".join(each.row(title) for title, each in judged.items()) + f"\n\nRecall: share of the copies of a kind that are in a pair with their original, at the precision shown. {took}.\n\n"
        f"The command reports groups, pairs of a keeper and a copy: {len(in_groups):,}, of which {int((~in_groups).sum()):,} wrong, precision "
        f"{in_groups.mean() if len(in_groups) else 1:.4f}. It foretold a precision of {(found.cut and found.cut.precision) or 0:.3f}, and that it would find "
        + ", ".join(f"{100 * share:.0f} % ({kind})" for kind, share in zip(KINDS, found.cut.found_C if found.cut else [], strict=True))
        + f".\n\n## Wrong pairs of a keeper and a copy, auto\n\n{wrong_pairs(images, *keeping, scores)}\n"
    )  # fmt: skip
    figures: dict[str, Any] = {
        "judged": {title: asdict(each) for title, each in judged.items()},
        "seconds": seconds,
        "keeper and copy": {"pairs": len(in_groups), "wrong": int((~in_groups).sum())},
        "foretold": found.cut
        and {"precision": float(found.cut.precision or 0), "found": [*map(float, found.cut.found_C)]},
    }
    data = f"{len(sources):,} photos of {options.photos.name}/ and {options.caltech.name}/, {options.copied} of them copied in {len(KINDS)} ways (seed {options.seed}): {len(images.names):,} files; {len(known)} pairs of photos known to be copies"
    write(f"{options.name}_cpu", claim="Copies of photos, found by small pictures of the nearest, from a likeness on that is chosen by planted copies", data=data, packages=["onnxruntime", "faiss-cpu", "numpy", "pillow"], body=body, rows=summary(judged, copied=options.copied, files=len(images.names), model=options.model.name), figures=figures, keep=not options.quick)  # fmt: skip


if __name__ == "__main__":
    Image.MAX_IMAGE_PIXELS = None
    main()
