"""Copies that were found -> lines of text, objects for programs, rows of a CSV file. Searches nothing.

A file that goes into a CSV keeps its name, whatever is in it; where it is not Unicode, its bytes.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import unwritable, write_atomically
from simclr.classify.copies import KINDS
from simclr.classify.copy_search import Duplicates, Leaks
from simclr.classify.cut import PRECISION, Cut
from simclr.classify.duplicates import Facts
from simclr.embed.lookup import Lookup
from simclr.embed.store import Store

GROUP_COLUMNS = ("group", "role", "kind", "similarity", "id", "path", "width", "height", "bytes")
LEAK_COLUMNS = ("id", "path", "kind", "similarity", "copy_id", "copy_path")
_TOGETHER = 1000
"""Groups whose paths are looked up at once."""


def objects(store: Store, found: Duplicates) -> Iterator[dict[str, Any]]:
    """One for each group: its number, the keeper, the copies."""
    lookup = Lookup(store)
    for start in range(0, len(found.groups), _TOGETHER):
        part = found.groups[start : start + _TOGETHER]
        places = np.concatenate([np.append(group.keeper, group.copies_C) for group in part])
        images = iter(_images(found.facts, lookup, places))
        for number, group in enumerate(part, start=start + 1):
            keeper = next(images)
            copies = [
                next(images) | {"similarity": similarity, "kind": kind_words(exact)}
                for similarity, exact in zip(
                    group.similarities_C.tolist(), group.exact_C.tolist(), strict=True
                )
            ]
            yield {"group": number, "keeper": keeper, "copies": copies}


def line(group: dict[str, Any]) -> str:
    """A group's object as one line."""
    copies = (f"{each['path']} ({each['similarity']:.4f} {each['kind']})" for each in group["copies"])
    return "  ".join([group["keeper"]["path"], *copies])


def counts(found: Duplicates) -> str:
    """What there is in all."""
    many = f"{len(found.facts.ids):,} images"
    if not found.groups:
        return f"no copies among {many}"
    copies = found.exact + found.near
    groups = f"{len(found.groups):,} group{'s' if len(found.groups) > 1 else ''}"
    return (
        f"{groups} of copies among {many}; {copies:,} image{'s' if copies > 1 else ''} could go "
        f"({found.exact:,} exact, {found.near:,} near), {size_words(found.bytes)}"
    )


def leak_objects(store: Store, other: Store, found: Leaks) -> Iterator[dict[str, Any]]:
    """One for each image of the other store that has a copy."""
    theirs, ours = Lookup(other), Lookup(store)
    for start in range(0, len(found.others), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        rows = zip(
            found.others[part].tolist(),
            theirs.paths(found.others[part]),
            found.exact[part].tolist(),
            found.similarities[part].tolist(),
            found.ids[part].tolist(),
            ours.paths(found.ids[part]),
            strict=True,
        )
        for id, path, exact, similarity, copy, copy_path in rows:
            yield {
                "id": id,
                "path": path,
                "kind": kind_words(exact),
                "similarity": similarity,
                "copy_id": copy,
                "copy_path": copy_path,
            }


def leak_line(leak: dict[str, Any]) -> str:
    return f"{leak['path']}  {leak['copy_path']} ({leak['similarity']:.4f} {leak['kind']})"


def leak_counts(store: Store, other: Store, found: Leaks) -> str:
    """How much of the other store leaks."""
    exact = int(found.exact.sum())
    return (
        f"{len(found.others):,} of the {found.images:,} images of {other.folder.name} ({100 * found.share:.2f} %) have a copy in {store.folder.name} "
        f"({exact:,} exact, {len(found.others) - exact:,} near)"
    )


def cut_lines(threshold: float, cut: Cut | None) -> list[str]:
    """Where the threshold lies, and what it finds of planted copies."""
    if cut is None:
        return [f"threshold: a cosine of {threshold:g}, as given"]
    made = f"{len(cut.planted_SC):,} images of the store"
    lines = [f"threshold: a likeness of {threshold:.4f}, chosen by copies made of {made}; of these it finds:"]
    lines += [f"  {kind:<13}{100 * share:5.1f} %" for kind, share in zip(KINDS, cut.found_C, strict=True)]
    if cut.precision is None:
        lines.append("  a usual one, since so few images do not tell how alike others look")
    elif cut.precision < PRECISION:
        lines.append(
            f"  but about {100 * (1 - cut.precision):.0f} % of what it finds may be other images: so alike do images look here"
        )
    return lines


def write_groups(path: Path, groups: Iterable[dict[str, Any]]) -> None:
    """A row for each keeper and each copy. Raises ArtifactError if the file cannot be written."""
    _write(path, GROUP_COLUMNS, (row for group in groups for row in _group_rows(group)))


def write_leaks(path: Path, leaks: Iterable[dict[str, Any]]) -> None:
    """A row for each image with a copy. Raises ArtifactError if the file cannot be written."""
    _write(path, LEAK_COLUMNS, ([leak[column] for column in LEAK_COLUMNS] for leak in leaks))


def kind_words(exact: bool) -> str:
    return "exact" if exact else "near"


def size_words(count: int) -> str:
    """Bytes, for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _images(facts: Facts, lookup: Lookup, places: NDArray[np.int64]) -> list[dict[str, Any]]:
    columns = (facts.ids, facts.widths, facts.heights, facts.bytes)
    id, width, height, size = (column[places].tolist() for column in columns)
    rows = zip(id, lookup.paths(facts.ids[places]), width, height, size, strict=True)
    return [dict(zip(("id", "path", "width", "height", "bytes"), row, strict=True)) for row in rows]


def _group_rows(group: dict[str, Any]) -> Iterator[list[Any]]:
    keeper = group["keeper"] | {"similarity": 1.0, "kind": ""}
    for role, each in [("keeper", keeper), *(("copy", copy) for copy in group["copies"])]:
        values = {"group": group["group"], "role": role} | each
        yield [values[column] for column in GROUP_COLUMNS]


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(rows)

    try:
        write_atomically(path, write)
    except OSError as exc:
        raise unwritable(path, "--csv", exc) from exc
