"""Run one exported file over images: its vectors, what the batch size changes, how fast it is."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Embed = Callable[[NDArray[np.uint8]], Vectors]
"""(N, size, size, 3) uint8 -> (N, width) float32 of unit length."""

BATCHES = (1, 2, 7, 8, 32)
"""And the largest. 2 and 7 find graphs that were made for one size."""
_IMAGES = 16
"""At least so many for each batch size."""
_SECONDS = 0.25


@dataclass(frozen=True)
class Batched:
    """One file at several batch sizes."""

    batches: tuple[int, ...]
    cosine: float
    """Smallest between vectors of one image at different sizes; nan where a vector is no number."""
    speed: dict[int, float]
    """Batch size -> images a second, waiting for each batch."""


def embed_all(
    run: Embed, images: NDArray[np.uint8], *, batch: int, step: Callable[[int], None] = lambda count: None
) -> Vectors:
    """All vectors, in batches; `step` is told of each batch how many images it had."""

    def parts() -> Iterator[Vectors]:
        for i in range(0, len(images), batch):
            pixels = images[i : i + batch]
            yield run(pixels)
            step(len(pixels))

    return np.concatenate(list(parts()))


def over_batch_sizes(run: Embed, images: NDArray[np.uint8], *, max_batch: int) -> Batched:
    """Images repeat where a batch needs more than there are."""
    images = images[:_IMAGES]
    sizes = sorted({size for size in BATCHES if size < max_batch} | {max_batch})
    one_by_one = np.concatenate([run(images[i : i + 1]) for i in range(len(images))])
    lowest, speed = 1.0, {}
    for size in sizes:
        count = -(-max(size, len(images)) // size)
        rows = (np.arange(count * size) % len(images)).reshape(count, size)
        found = np.stack([run(images[part]) for part in rows])
        lowest = float(np.minimum(lowest, (found * one_by_one[rows]).sum(2).min()))  # nan stays nan
        speed[size] = size / _seconds(run, images[rows[0]])
    return Batched(tuple(sizes), lowest, speed)


def _seconds(run: Embed, batch: NDArray[np.uint8]) -> float:
    """Median of as many calls as a quarter of a second holds, and at least one. The first of a shape was before."""
    taken: list[float] = []
    while sum(taken) < _SECONDS:
        started = time.perf_counter()
        run(batch)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
