"""A folder of labelled images -> which image has which class, and which ones test. Decodes nothing.

Labels come in one of two forms:

    DIR/labels.csv             columns path and label, perhaps split (train; test, val or validation). Paths count from
                               DIR, or from DIR/images where they are there.
    DIR/CLASS/...              a folder a class; everything below it belongs to it
    DIR/train/CLASS/...        the same, with the test images in test/, val/ or validation/ beside train/

Of several test splits the first of test, val, validation is taken. labels.csv goes before folders.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr.errors import ConfigError, ImageError
from simclr.sources import list_images
from simclr.sources.label_table import TESTS, TRAIN, read_label_table

LABELS_FILE = "labels.csv"
_FORMS = f"Give class folders (DIR/CLASS/1.jpg) or a {LABELS_FILE} with the columns path and label"


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images of which the class is known; `classes` is the same for training and test images."""

    root: Path
    paths: NDArray[np.str_]
    """(N,) relative to the root, with forward slashes."""
    labels: NDArray[np.int64]
    """(N,) places in `classes`."""
    classes: tuple[str, ...]
    """Names in code-point order."""

    def __len__(self) -> int:
        return len(self.paths)

    def at(self, rows: NDArray[np.int64]) -> "Labelled":
        """Some of the images."""
        return Labelled(self.root, self.paths[rows], self.labels[rows], self.classes)


def read_labelled(folder: Path) -> tuple[Labelled, Labelled | None]:
    """The images to train on, and those to test on: None where the folder has no such split.

    Raises ConfigError if the labels make no sense, ImageError if there are no images or named ones are missing.
    """
    if (folder / LABELS_FILE).is_file():
        return _from_table(folder)
    beside = [folder / name for name in TESTS if _has_folders(folder / name)]
    # a class may be called train: its images lie in it, and no test split is beside it
    if _has_folders(folder / TRAIN) or (beside and (folder / TRAIN).is_dir()):
        train = _from_folders(folder / TRAIN, None)
        test = _from_folders(beside[0], train.classes) if beside else None
    elif beside:
        raise ConfigError(
            f"{folder}: has {beside[0].name}/ but no {TRAIN}/ beside it. Name the folder that has both."
        )
    else:
        train, test = _from_folders(folder, None), None
    if len(train.classes) < 2:
        raise ConfigError(
            f"{train.root}: one class only ({train.classes[0]}). {_FORMS}, of two classes or more."
        )
    return train, test


def labels_of(root: Path, paths: list[str], labelled: Labelled) -> NDArray[np.int64]:
    """The class of each of these images, such as those of a pretraining set; -1 where `labelled` does not have the file.

    Files are the same if their paths are, with links in both roots resolved.
    """
    base = labelled.root.resolve()
    known = {
        os.path.join(base, path): label
        for path, label in zip(labelled.paths.tolist(), labelled.labels.tolist(), strict=True)
    }
    here = root.resolve()
    return np.array([known.get(os.path.join(here, path), -1) for path in paths], np.int64)


def hold_out(images: Labelled, *, seed: int) -> tuple[Labelled, Labelled]:
    """A fifth of each class, at least one image, becomes the test; a class of one image stays for training.

    Raises ConfigError if that leaves nothing to test on.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x7E57])))
    test = _drawn(images, rng, {n: 0 if n == 1 else max(1, round(n / 5)) for n in _sizes(images)})
    if not len(test):
        raise ConfigError(
            f"{images.root}: no class has a second image, so that nothing can be held out to test on. Add images, or a "
            "test split."
        )
    return images.at(np.setdiff1d(np.arange(len(images)), test)), images.at(test)


def share_of_labels(images: Labelled, percent: float, *, seed: int) -> Labelled:
    """So many percent of each class, at least one image, in the order of `images`."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x1ABE])))
    return images.at(_drawn(images, rng, {n: max(1, round(n * percent / 100)) for n in _sizes(images)}))


def at_most(images: Labelled, limit: int, *, seed: int = 0) -> Labelled:
    """All images, or about `limit` of them with each class's share kept."""
    return images if len(images) <= limit else share_of_labels(images, 100 * limit / len(images), seed=seed)


def _sizes(images: Labelled) -> set[int]:
    return {int(n) for n in np.bincount(images.labels)}


def _drawn(images: Labelled, rng: np.random.Generator, take: dict[int, int]) -> NDArray[np.int64]:
    """Rows, rising: of a class of n images, `take[n]` drawn ones."""
    by_class = np.split(np.argsort(images.labels, kind="stable"), np.cumsum(np.bincount(images.labels))[:-1])
    return np.sort(np.concatenate([rng.permutation(rows)[: take[len(rows)]] for rows in by_class]))


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() for entry in folder.iterdir() if entry.name[0] != ".")


def _from_folders(root: Path, classes: tuple[str, ...] | None) -> Labelled:
    """Class folders below `root`; `classes`: those that training has."""
    paths = list_images(root)
    flat = [path for path in paths if "/" not in path]
    if flat:
        raise ConfigError(
            f"{root}: {len(flat)} of its images lie directly in it ({flat[0]}), so that their class is unknown. {_FORMS}."
        )
    names = [path.split("/", 1)[0] for path in paths]
    return _numbered(root, paths, names, classes)


def _numbered(root: Path, paths: list[str], names: list[str], classes: tuple[str, ...] | None) -> Labelled:
    classes = classes or tuple(sorted(set(names)))
    if foreign := sorted(set(names) - set(classes)):
        raise ConfigError(
            f"{root}: {len(foreign)} classes of the test images are not among those to train on ({foreign[0]}). "
            "Use the same names in both."
        )
    number = {name: i for i, name in enumerate(classes)}
    return Labelled(root, np.array(paths), np.array([number[name] for name in names], np.int64), classes)


def _from_table(folder: Path) -> tuple[Labelled, Labelled | None]:
    table = folder / LABELS_FILE
    read = read_label_table(table)
    paths = read.paths
    root = next((at for at in (folder, folder / "images") if (at / paths[0]).is_file()), folder)
    missing = [path for path in paths if not (root / path).is_file()]
    if missing:
        raise ImageError(
            f"{table}: {len(missing)} of the {len(paths)} images it names are not in {root} ({missing[0]}). Mend the paths, "
            "or restore the images."
        )

    def rows_of(split: str | None, classes: tuple[str, ...] | None) -> Labelled:
        rows = [i for i in range(len(paths)) if read.splits is None or read.splits[i] == split]
        return _numbered(root, [paths[i] for i in rows], [read.labels[i] for i in rows], classes)

    train = rows_of(TRAIN, None)
    test = rows_of(read.tests, train.classes) if read.tests else None
    if len(train.classes) < 2:
        raise ConfigError(f"{table}: one class only to train on ({train.classes[0]}). Give two or more.")
    return train, test
