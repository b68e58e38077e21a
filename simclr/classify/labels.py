"""Which class each image of a store has, and which ones test: from its folders, or from a table. Reads no vector.

    folders       SOURCE/CLASS/...               a folder a class; everything below it belongs to it
                  SOURCE/train/CLASS/...         the same, with the test images in test/, val/ or validation/ beside train/
    labels.csv    columns path and label, perhaps split. Paths count from the table, from images/ beside it, or from a source

Of several test splits the first of test, val, validation is taken; the others are left out.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr.embed.store import Store
from simclr.errors import ConfigError
from simclr.sources import openable
from simclr.sources.label_table import TESTS, TRAIN, LabelTable, read_label_table

FOLDERS = "folders"
"""What to say in place of a table."""

_FORMS = (
    "Give --labels folders for class folders (SOURCE/CLASS/1.jpg), or a CSV with the columns path and label"
)

Note = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Labels:
    """The images of a store whose class is known, in the store's order."""

    classes: tuple[str, ...]
    """Names in code-point order."""
    rows_N: NDArray[np.int64]
    """Which rows of the store, rising."""
    labels_N: NDArray[np.int64]
    """Places in `classes`."""
    contents_N: NDArray[np.str_]
    """Content hashes: copies of an image have the same."""
    tests_N: NDArray[np.bool_] | None
    """Which ones are to test on; None where nothing says so."""

    def __len__(self) -> int:
        return len(self.rows_N)


@dataclass(frozen=True)
class _Images:
    """What the metadata of a store say, of each row."""

    sources: list[int]
    names: list[str]
    contents: list[str]


def read_labels(store: Store, where: str | Path, *, note: Note = lambda line: None) -> Labels:
    """`where`: FOLDERS, or the path of a table. `note` is told how many images have no class, and are left out.

    Raises ConfigError where the labels make no sense, or name images that are not in the store.
    """
    table = store.table(["source", "image_path", "content_hash"])
    images = _Images(*(table[name].to_pylist() for name in ("source", "image_path", "content_hash")))
    if str(where) == FOLDERS:
        names, splits = _of_folders(store, images)
        origin = str(store.folder)
    else:
        names, splits = _of_table(store, images, Path(where))
        origin = str(where)
    tested = next((split for split in TESTS if split in splits), None)
    used = {TRAIN, tested} if tested else {TRAIN, ""}
    rows = [i for i, name in enumerate(names) if name and splits[i] in used]
    trained = {names[i] for i in rows if splits[i] != tested}
    if foreign := sorted({names[i] for i in rows} - trained):
        raise ConfigError(
            f"{origin}: {len(foreign)} classes of the test images are not among those to train on ({foreign[0]}). Use the same names in both."
        )
    classes = tuple(sorted(trained))
    if len(classes) < 2:
        only = f"one class only ({classes[0]})" if classes else "no image has a class"
        raise ConfigError(f"{origin}: {only}. {_FORMS}, of two classes or more.")
    if len(rows) < len(names):
        note(
            f"{len(names) - len(rows):,} of the {len(names):,} images of {store.folder} have no class, and are left out"
        )
    number = {name: i for i, name in enumerate(classes)}
    return Labels(
        classes,
        np.array(rows, np.int64),
        np.array([number[names[i]] for i in rows], np.int64),
        np.array([images.contents[i] for i in rows]),
        np.array([splits[i] == tested for i in rows]) if tested else None,
    )


def _of_folders(store: Store, images: _Images) -> tuple[list[str], list[str]]:
    """Class and split of each row, "" where it has none."""
    parts = [name.split("/") for name in images.names]
    first = {row[0] for row in parts}
    split = first <= {TRAIN, *TESTS} and TRAIN in first and any(len(row) > 2 for row in parts)
    depth = 1 if split else 0
    if flat := [row[-1] for row in parts if len(row) < depth + 2]:
        roots = {store.info.sources[i].root for i in images.sources}
        if len(flat) == len(parts) and len(roots) > 1:  # each source is the folder of a class
            return [os.path.basename(store.info.sources[i].root) for i in images.sources], [""] * len(parts)
        raise ConfigError(
            f"{store.folder}: {len(flat):,} of its images lie directly in their source ({flat[0]}), so that their class is unknown. {_FORMS}."
        )
    return [row[depth] for row in parts], [row[0] if split else "" for row in parts]


def _of_table(store: Store, images: _Images, path: Path) -> tuple[list[str], list[str]]:
    """The same. Of the ways to read the paths of the table that one counts by which most of them are in the store."""
    table = read_label_table(path)
    sources = store.info.sources
    openables = [
        os.path.normpath(openable(sources[i].kind, sources[i].root, name))
        for i, name in zip(images.sources, images.names, strict=True)
    ]
    ways = [
        _places(openables, [os.path.abspath(base / name) for name in table.paths])
        for base in (path.parent, path.parent / "images")
    ]
    ways.append(_places(images.names, table.paths))
    places = max(ways, key=lambda way: sum(len(found) for found in way))
    if unknown := [name for name, found in zip(table.paths, places, strict=True) if not found]:
        raise ConfigError(
            f"{path}: {len(unknown):,} of the {len(places):,} images it names are not in {store.folder} ({unknown[0]}). "
            "Embed them, see its skipped.csv, or take them out of the table."
        )
    if twice := [name for name, found in zip(table.paths, places, strict=True) if len(found) > 1]:
        raise ConfigError(
            f"{path}: {twice[0]} is in several sources of {store.folder}. Give paths that count from the table, or absolute ones."
        )
    return _spread(table, [found[0] for found in places], len(images.names))


def _places(names: list[str], wanted: list[str]) -> list[list[int]]:
    """For each wanted name the rows that have it."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return [rows.get(name, []) for name in wanted]


def _spread(table: LabelTable, rows: list[int], count: int) -> tuple[list[str], list[str]]:
    names, splits = [""] * count, [""] * count
    for at, row in enumerate(rows):
        names[row] = table.labels[at]
        splits[row] = table.splits[at] if table.splits else ""
    return names, splits
