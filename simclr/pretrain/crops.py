"""Labelled images -> batches of random crops to train a classifier on: area 0.08 to 1 and a flip, no colours.

Order and crops follow from (seed, step) alone, whatever the number of workers. Decoded images are kept where all of them fit in
a bounded memory. Flips are drawn here and applied on the device, by `flipped`.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from simclr.errors import ImageError
from simclr.free_memory import free_memory
from simclr.images import decode
from simclr.pretrain.config import Augmentation
from simclr.pretrain.data import images_at
from simclr.pretrain.in_workers import SLICE, in_workers, slices
from simclr.pretrain.labels import Labelled
from simclr.pretrain.views import crop, crop_boxes
from simclr.sources import read

DECODED_BYTES = 1 << 30
"""Decoded images that are kept, at most; and no more than a quarter of the free memory."""

_ATTEMPTS = 10
"""Random crops tried before the centre one, as in `views`."""
_SAMPLE = 16
"""Images decoded to estimate what all of them need."""
_SLICE_BYTES = 1 << 23
"""Decoded images that a worker hands over at a time."""
_CROPS = Augmentation()


@dataclass(frozen=True)
class LabelledCrops:
    """One crop of each image that could be read."""

    pixels_NHWC: Tensor
    """uint8, not flipped yet."""
    flip_N: Tensor
    """bool."""
    labels_N: Tensor
    unreadable: list[tuple[str, str]]
    """Path and reason."""


def flipped(crops: LabelledCrops, rows: Tensor, device: torch.device) -> Tensor:
    """Some of the pixels (n, H, W, 3) uint8 on the device, mirrored where that was drawn."""
    pixels = crops.pixels_NHWC[rows].to(device)
    return torch.where(crops.flip_N[rows].to(device)[:, None, None, None], pixels.flip(2), pixels)


class Decoded:
    """All images of a set in one array, which forked workers share; those that cannot be read are absent."""

    def __init__(self, images: Sequence[NDArray[np.uint8] | str]) -> None:
        """(H, W, 3) pixels, or the reason why not."""
        self.reasons = {i: image for i, image in enumerate(images) if isinstance(image, str)}
        arrays = [np.empty((0, 0, 3), np.uint8) if isinstance(image, str) else image for image in images]
        self._shapes = np.array([array.shape for array in arrays])
        self._ends = np.cumsum([array.size for array in arrays])
        self._flat = np.concatenate([array.reshape(-1) for array in arrays])

    def image(self, row: int) -> Image.Image:
        """Raises ImageError as `decode` does."""
        if row in self.reasons:
            raise ImageError(self.reasons[row])
        end, shape = self._ends[row], self._shapes[row]
        return Image.fromarray(self._flat[end - shape.prod() : end].reshape(shape))


class _Whole(Dataset[list[NDArray[np.uint8] | str]]):
    """Maps (start, stop) to the pixels of those images, or the reason why not."""

    def __init__(self, images: Labelled) -> None:
        self.images = images

    def __getitem__(self, item: tuple[int, int]) -> list[NDArray[np.uint8] | str]:
        return [self.one(row) for row in range(*item)]

    def one(self, row: int) -> NDArray[np.uint8] | str:
        try:
            return np.asarray(decode(read(self.images.root, str(self.images.paths[row]))).image)
        except ImageError as exc:
            return str(exc)


def decode_all(images: Labelled, *, workers: int) -> Decoded | None:
    """Decode a set once, or None where it needs more than DECODED_BYTES. Raises SimclrError if a worker dies."""
    limit = min(DECODED_BYTES, free_memory() // 4)
    whole = _Whole(images)
    sample = [whole.one(row) for row in np.linspace(0, len(images) - 1, _SAMPLE).astype(int).tolist()]
    mean = max(1, sum(0 if isinstance(one, str) else one.size for one in sample) // _SAMPLE)
    if mean * len(images) > limit:
        return None
    kept: list[NDArray[np.uint8] | str] = []
    total = 0
    size = max(1, min(SLICE, _SLICE_BYTES // mean))
    loader = in_workers(whole, slices(len(images), size), workers=workers)
    try:
        for part in loader:
            kept += part
            total += sum(0 if isinstance(one, str) else one.size for one in part)
            if total > limit:  # the sample was not like the rest
                return None
    finally:
        loader.close()
    return Decoded(kept)


class _Crops(Dataset[LabelledCrops]):
    """Maps a number to crops of a slice of a batch; each batch has `len(slices(batch_size))` of them."""

    def __init__(
        self, images: Labelled, decoded: Decoded | None, *, seed: int, batch_size: int, size: int
    ) -> None:
        self.images, self.decoded = images, decoded
        self.seed, self.batch_size, self.size = seed, batch_size, size

    def __getitem__(self, number: int) -> LabelledCrops:
        parts = slices(self.batch_size)
        step, part = divmod(number, len(parts))
        start, stop = parts[part]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, step, start, 0xC209])))
        numbers = rng.random((stop - start, _ATTEMPTS, 4), dtype=np.float32)
        flips = rng.random(stop - start) < _CROPS.flip
        pixels, good, rows = [], [], []
        unreadable: list[tuple[str, str]] = []
        first = step * self.batch_size
        wanted = images_at(range(first + start, first + stop), seed=self.seed, images=len(self.images))
        for i, row in enumerate(wanted.tolist()):
            path = str(self.images.paths[row])
            try:
                if self.decoded is None:
                    image = decode(read(self.images.root, path)).image
                else:
                    image = self.decoded.image(row)
            except ImageError as exc:
                unreadable.append((path, str(exc)))
                continue
            (box,) = crop_boxes(
                np.array([image.size]),
                numbers[i : i + 1],
                crop_min=_CROPS.crop_min,
                crop_ratio=_CROPS.crop_ratio,
            )
            pixels.append(crop(image, tuple(box), self.size))
            good.append(i)
            rows.append(row)
        block = np.stack(pixels) if pixels else np.empty((0, self.size, self.size, 3), np.uint8)
        return LabelledCrops(
            torch.from_numpy(block),
            torch.from_numpy(flips[good]),
            torch.from_numpy(self.images.labels[rows]),
            unreadable,
        )


def crop_batches(
    images: Labelled, *, steps: int, batch_size: int, size: int, seed: int, workers: int
) -> Generator[LabelledCrops, None, None]:
    """The batch of each step, smaller by images that cannot be read; `close` ends the workers.

    Batches run on over the ends of epochs, as in pretraining. Raises ImageError if a whole batch cannot be read.
    """
    decoded = decode_all(images, workers=workers)
    parts_of_a_batch = len(slices(batch_size))
    loader = in_workers(
        _Crops(images, decoded, seed=seed, batch_size=batch_size, size=size),
        range(steps * parts_of_a_batch),
        workers=workers,
    )
    parts: list[LabelledCrops] = []
    try:
        for part in loader:
            parts.append(part)
            if len(parts) < parts_of_a_batch:
                continue
            unreadable = [entry for own in parts for entry in own.unreadable]
            if len(unreadable) == batch_size:
                path, why = unreadable[0]
                raise ImageError(
                    f"{images.root}: none of the {batch_size} images of a batch can be read ({path}: {why})."
                )
            yield LabelledCrops(
                torch.cat([own.pixels_NHWC for own in parts]),
                torch.cat([own.flip_N for own in parts]),
                torch.cat([own.labels_N for own in parts]),
                unreadable,
            )
            parts = []
    finally:
        loader.close()
