"""The images of a store -> their pixels as vectors: the baseline that an encoder must beat to be worth anything."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from simclr.classify.examples import Examples, Split
from simclr.cpus import available_cpus
from simclr.embed.store import Store
from simclr.errors import ImageError, SimclrError
from simclr.images import decode
from simclr.preprocess import Recipe
from simclr.sources import locate, openable, read_place

SIDE = 32
"""Pixels of a side: CIFAR-10's. Larger ones see finer, and are told apart by shifts of a pixel."""
_RECIPE = Recipe(size=SIDE, crop=1.0)

Progress = Callable[[int, int, str], None]


def pixel_examples(
    store: Store, split: Split, *, progress: Progress = lambda done, total, words: None
) -> Examples:
    """The images of a split, read again, as 32 x 32 x 3 numbers less the mean training image, of unit length.

    Raises ImageError, with the path, if one cannot be read any more.
    """
    table = store.table(["source", "image_path"])
    sources, names = table["source"], table["image_path"]

    def pixels(row: int) -> NDArray[np.uint8]:
        source, name = store.info.sources[sources[row].as_py()], names[row].as_py()
        try:
            data = read_place(locate(source.kind, source.root, name))
            return _RECIPE.apply(decode(data, enough=_RECIPE.enough).image).ravel()
        except SimclrError as exc:
            raise ImageError(
                f"{openable(source.kind, source.root, name)}: {exc}, and raw pixels need every image. Bring the store in step with `simclr embed`."
            ) from exc

    rows = np.concatenate([split.train_N, split.test_Q]).tolist()
    read = np.empty((len(rows), SIDE * SIDE * 3), np.uint8)
    with ThreadPoolExecutor(available_cpus()) as pool:
        for place, found in enumerate(pool.map(pixels, rows)):
            read[place] = found
            progress(place + 1, len(rows), "")
    count = len(split.train_N)
    mean = read[:count].mean(0, dtype=np.float64).astype(np.float32)
    return Examples(
        split.classes,
        _unit(read[:count] - mean),
        split.train_labels_N,
        _unit(read[count:] - mean),
        split.test_labels_Q,
    )


def _unit(vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    found: NDArray[np.float32] = vectors_ND / np.maximum(lengths_N1, 1e-12)
    return found
