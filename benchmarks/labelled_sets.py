"""Labelled images to learn on without labels and to measure with them: CIFAR-10 and forty classes of Caltech-101. Not part of the package."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simclr.preprocess import Recipe


@dataclass(frozen=True)
class LabelledSet:
    name: str
    size: int
    """Side in pixels that encoders see."""
    pixels: dict[str, NDArray[np.uint8]]
    """(N, size, size, 3) of `train` and `test`, as they are measured."""
    labels: dict[str, NDArray[np.int64]]
    image: Callable[[int], Image.Image]
    """A training image as its file has it."""
    write: Callable[[Path], Path]
    """Makes what `simclr pretrain --data` takes in this folder, and says what that is."""


def open_set(name: str, place: Path) -> LabelledSet:
    """`cifar`: an .npz of packed JPEGs, or a folder to which torchvision fetches the original; `caltech`: a folder with labels.csv."""
    if name == "caltech":
        return _caltech(place)
    return _cifar(packed_cifar(place) if place.suffix == ".npz" else original_cifar(place))


def packed_cifar(path: Path) -> dict[str, Any]:
    """Pixels (N, 32, 32, 3) uint8 and labels (N,) of both splits, from packed JPEGs."""
    packed = np.load(path)
    found: dict[str, Any] = {}
    for split in ("train", "test"):
        data, ends = packed[f"jpeg_{split}"], packed[f"offsets_{split}"]
        found[split] = np.stack(
            [np.asarray(Image.open(BytesIO(data[a:b].tobytes())).convert("RGB")) for a, b in pairwise(ends)]
        )
        found[f"y_{split}"] = packed[f"y_{split}"].astype(np.int64)
    return found


def original_cifar(folder: Path) -> dict[str, Any]:
    """The same from the original files; fetched into `folder` if they are not there."""
    from torchvision.datasets import CIFAR10

    found: dict[str, Any] = {}
    for split in ("train", "test"):
        data = CIFAR10(folder, train=split == "train", download=True)
        found[split], found[f"y_{split}"] = data.data, np.array(data.targets, np.int64)
    return found


def _cifar(data: dict[str, Any]) -> LabelledSet:
    def write(folder: Path) -> Path:
        images = folder / "images"
        for number, pixels in enumerate(data["train"]):
            path = images / str(data["y_train"][number]) / f"{number:05}.png"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
        return images

    return LabelledSet(
        "CIFAR-10",
        32,
        {split: data[split] for split in ("train", "test")},
        {split: data[f"y_{split}"] for split in ("train", "test")},
        lambda number: Image.fromarray(data["train"][number]),
        write,
    )


def _caltech(folder: Path, *, size: int = 64) -> LabelledSet:
    with open(folder / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})
    parts = {split: [row for row in rows if row["split"] == split] for split in ("train", "test")}
    files = {
        split: [(folder / "images" / row["path"]).resolve() for row in part] for split, part in parts.items()
    }

    def image(path: Path) -> Image.Image:
        with Image.open(path) as opened:
            return opened.convert("RGB")

    def write(target: Path) -> Path:
        target.mkdir(parents=True, exist_ok=True)
        (target / "train.txt").write_text("".join(f"{path}\n" for path in files["train"]))
        return target / "train.txt"

    recipe = Recipe(size=size)
    return LabelledSet(
        "Caltech-40",
        size,
        {split: np.stack([recipe.apply(image(path)) for path in paths]) for split, paths in files.items()},
        {split: np.array([names.index(row["label"]) for row in part]) for split, part in parts.items()},
        lambda number: image(files["train"][number]),
        write,
    )
