"""Image files -> batches of crops, in an order that (seed, step) alone decides.

Each epoch is a fresh permutation, and batches run on across the ends of epochs: step s takes places
s*B .. (s+1)*B of the endless sequence of permutations. So a resumed run needs only its step.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from simclr.errors import ImageError
from simclr.images import decode
from simclr.pretrain.config import Augmentation
from simclr.pretrain.in_workers import in_workers, slices
from simclr.pretrain.views import crop, crop_boxes, draw
from simclr.sources import Collection

_MARGIN = 1.5
"""A JPEG may be decoded at 1/2, 1/4 or 1/8 while the smaller crop keeps this many times its final pixels a side."""
_SLICE = 64
"""Images that one worker handles at a time: spreads a batch over the workers, and 19 MB of crops at 224 px are
within what containers give to shared memory."""


@dataclass(frozen=True)
class Crops:
    """Two crops of each image of a slice."""

    pixels: Tensor
    """(2, images, size, size, 3) uint8."""
    index: NDArray[np.int64]
    """(images,): the numbers of the images they are of, in the listing."""
    unreadable: list[tuple[str, str]]
    """Path and reason of files that another image stood in for."""


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, 0x0D0E]))).permutation(
        images
    )


def images_at(places: range, *, seed: int, images: int) -> NDArray[np.int64]:
    """Numbers of the images at neighbouring places of the endless sequence."""
    epoch, within = np.divmod(np.arange(places.start, places.stop), images)
    found = np.empty(len(places), np.int64)
    for number in np.unique(epoch).tolist():
        rows = epoch == number
        found[rows] = _permutation(seed, number, images)[within[rows]]
    return found


class TwoCrops(Dataset[Crops | ImageError]):
    """Maps (step, start, stop) to the crops of images start..stop of that step's batch.

    A file that cannot be read is replaced by the next image that can, so that batches keep their size, and is
    reported. Gives an ImageError if no image can be read: raised in a worker, it would reach the training process
    with the worker's traceback as its message.
    """

    def __init__(
        self,
        images: Collection,
        *,
        seed: int,
        batch_size: int,
        size: int,
        augmentation: Augmentation,
    ) -> None:
        self.images = images
        self.seed, self.batch_size, self.size, self.augmentation = seed, batch_size, size, augmentation

    def __getitem__(self, item: tuple[int, int, int]) -> Crops | ImageError:
        step, start, stop = item
        draws = draw(self.seed, step, batch_size=self.batch_size, augmentation=self.augmentation)
        pixels = np.empty((2, stop - start, self.size, self.size, 3), np.uint8)
        index = np.empty(stop - start, np.int64)
        unreadable: list[tuple[str, str]] = []
        first = step * self.batch_size
        wanted = images_at(range(first + start, first + stop), seed=self.seed, images=len(self))
        for place, row in enumerate(range(start, stop)):
            numbers = draws.crop[[row, row + self.batch_size]]
            try:
                index[place] = self._fill(pixels[:, place], int(wanted[place]), numbers, unreadable)
            except ImageError as error:
                return error
        return Crops(torch.from_numpy(pixels), index, unreadable)

    def __len__(self) -> int:
        """Images, whatever the slices."""
        return len(self.images.names)

    def save(self, step: int, path: Path) -> None:
        """The whole batch of a step as an .npz: `pixels` as in Crops, `paths` in the order of its images."""
        crops = self[step, 0, self.batch_size]
        if isinstance(crops, ImageError):
            raise crops
        with open(path, "wb") as file:
            np.savez(
                file,
                pixels=crops.pixels.numpy(),
                paths=np.array([self.images.names[number] for number in crops.index.tolist()]),
            )

    def _fill(
        self,
        views: NDArray[np.uint8],
        first: int,
        numbers: NDArray[np.float32],
        unreadable: list[tuple[str, str]],
    ) -> int:
        """Both crops of this image, or of the first readable one after it in the listing; gives its number."""
        for number in chain(range(first, len(self)), range(first)):
            try:
                views[:] = self._crops(self.images.read(number), numbers)
            except ImageError as exc:
                unreadable.append((self.images.names[number], str(exc)))
                continue
            return number
        raise ImageError(
            f"{self.images.name}: none of its {len(self)} images can be read ({unreadable[0][1]})."
        )

    def _crops(self, data: bytes, numbers: NDArray[np.float32]) -> list[NDArray[np.uint8]]:
        """One decode for both crops, of no more pixels than they can use."""

        def boxes(width: int, height: int) -> NDArray[np.int64]:
            a = self.augmentation
            sizes = np.array([[width, height]] * len(numbers))
            return crop_boxes(sizes, numbers, crop_min=a.crop_min, crop_ratio=a.crop_ratio)

        def enough(width: int, height: int) -> int:
            left, top, right, bottom = boxes(width, height).T
            smallest = int(np.minimum(right - left, bottom - top).min())
            return math.ceil(min(width, height) * _MARGIN * self.size / smallest)

        image, width, height = decode(data, enough=enough)
        scale = np.array([image.width / width, image.height / height] * 2)
        return [crop(image, tuple(box * scale), self.size) for box in boxes(width, height)]


class _Slices(Sequence[tuple[int, int, int]]):
    """(step, start, stop) of every slice of the batches of these steps, in order."""

    def __init__(self, steps: range, images: range) -> None:
        self._steps = steps
        self._parts = [(images.start + a, images.start + b) for a, b in slices(len(images), _SLICE)]

    def __len__(self) -> int:
        return len(self._steps) * len(self._parts)

    def __getitem__(self, number: Any) -> Any:
        step, part = divmod(range(len(self))[number], len(self._parts))
        return self._steps[step], *self._parts[part]


def batches(
    dataset: TwoCrops, *, steps: range, images: range, workers: int, pin: bool
) -> Generator[Crops, None, None]:
    """These rows of the batch of each step, in order; `pixels` is (2, images, size, size, 3). `close` ends the workers.

    Raises ImageError if no image can be read, SimclrError if a worker dies.
    """
    parts: list[Crops] = []
    gathered = 0
    for part in in_workers(dataset, _Slices(steps, images), workers=workers):
        if isinstance(part, ImageError):
            raise part
        parts.append(part)
        gathered += part.pixels.shape[1]
        if gathered == len(images):
            shape = (2, gathered, *part.pixels.shape[2:])
            pixels = torch.empty(
                shape, dtype=torch.uint8, pin_memory=pin
            )  # so that a copy to a GPU need not wait
            torch.cat([p.pixels for p in parts], dim=1, out=pixels)
            index = np.concatenate([p.index for p in parts])
            yield Crops(pixels, index, [entry for p in parts for entry in p.unreadable])
            parts, gathered = [], 0
