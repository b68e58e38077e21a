"""Image files -> batches of crops, in an order that (seed, step) alone decides.

Each epoch is a fresh permutation, and batches run on across the ends of epochs: step s takes places
s*B .. (s+1)*B of the endless sequence of permutations. So a resumed run needs only its step.
"""

import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from simclr.errors import ImageError, SimclrError, reason
from simclr.images import decode
from simclr.pretrain.config import Augmentation
from simclr.pretrain.views import crop, crop_box, draw
from simclr.sources import Collection

_SLICE = 64
"""Images that one worker handles at a time: spreads a batch over the workers, and 19 MB of crops at 224 px are
within what containers give to shared memory."""


@dataclass(frozen=True)
class Crops:
    """Two crops of each image of a slice."""

    pixels: Tensor
    """(2, images, size, size, 3) uint8."""
    unreadable: list[tuple[str, str]]
    """Path and reason of files that another image stood in for."""


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, 0x0D0E]))).permutation(
        images
    )


def image_at(place: int, *, seed: int, images: int) -> int:
    """Index of the image at a place of the endless sequence."""
    epoch, within = divmod(place, images)
    return int(_permutation(seed, epoch, images)[within])


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
        unreadable: list[tuple[str, str]] = []
        for row in range(start, stop):
            place = step * self.batch_size + row
            numbers = draws.crop[[row, row + self.batch_size]]
            try:
                self._fill(pixels[:, row - start], place, numbers, unreadable)
            except ImageError as error:
                return error
        return Crops(torch.from_numpy(pixels), unreadable)

    def save(self, step: int, path: Path) -> None:
        """The whole batch of a step as an .npz: `pixels` as in Crops, `paths` in the order of its images."""
        crops = self[step, 0, self.batch_size]
        if isinstance(crops, ImageError):
            raise crops
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        names = self.images.names
        chosen = [names[image_at(place, seed=self.seed, images=len(names))] for place in places]
        with open(path, "wb") as file:
            np.savez(file, pixels=crops.pixels.numpy(), paths=np.array(chosen))

    def _fill(
        self,
        views: NDArray[np.uint8],
        place: int,
        numbers: NDArray[np.float32],
        unreadable: list[tuple[str, str]],
    ) -> None:
        """Both crops of the image at `place`, or of the first readable one after it in the listing."""
        count = len(self.images.names)
        first = image_at(place, seed=self.seed, images=count)
        for number in chain(range(first, count), range(first)):
            try:
                image = decode(self.images.read(number)).image
            except ImageError as exc:
                unreadable.append((self.images.names[number], str(exc)))
                continue
            a = self.augmentation
            for view, u in zip(views, numbers, strict=True):
                box = crop_box(*image.size, u, crop_min=a.crop_min, crop_ratio=a.crop_ratio)
                view[:] = crop(image, box, self.size)
            return
        raise ImageError(f"{self.images.name}: none of its {count} images can be read ({unreadable[0][1]}).")


class _Slices(Sampler[tuple[int, int, int]]):
    def __init__(self, steps: range, images: range) -> None:
        self.steps, self.images = steps, images

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        for step in self.steps:
            for start in range(self.images.start, self.images.stop, _SLICE):
                yield step, start, min(start + _SLICE, self.images.stop)


def _told_of_dead_workers(loader: DataLoader[Crops | ImageError]) -> Iterator[Crops | ImageError]:
    try:
        yield from loader
    except RuntimeError as exc:
        if "DataLoader worker" not in str(exc):
            raise
        raise SimclrError(
            f"a process that decodes images died ({reason(exc)}). If memory ran out, use fewer with --set workers=1; "
            "then go on with --resume."
        ) from exc


def _leave_signals_to_training(_: int) -> None:
    """Terminals and schedulers signal workers, too; the training process alone decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def batches(
    dataset: TwoCrops, *, steps: range, images: range, workers: int, pin: bool
) -> Generator[Crops, None, None]:
    """These rows of the batch of each step, in order; `pixels` is (2, images, size, size, 3). `close` ends the workers.

    Raises ImageError if no image can be read, SimclrError if a worker dies.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=_Slices(steps, images),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_leave_signals_to_training,
    )
    parts: list[Crops] = []
    gathered = 0
    for part in _told_of_dead_workers(loader):
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
            yield Crops(pixels, [entry for p in parts for entry in p.unreadable])
            parts, gathered = [], 0
