"""A small set of images, decoded once and kept as pixels: batches then cost no decoding, and on a GPU no work of the CPU.

Takes the images of a run and gives the same batches as `data.batches`, crops within one level of 255. Where images are not all of
one size, each is stretched to a common one, and crops are drawn as on the image it came from.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from simclr.errors import ConfigError, ImageError
from simclr.images import decode
from simclr.pretrain.data import Crops, TwoCrops, images_at
from simclr.pretrain.in_workers import in_workers, slices
from simclr.pretrain.views import crop_batch, crop_boxes, draw

AUTO_SHARE = 0.25
"""Of the free memory that a cache may take unasked."""
_SAMPLE = 64
"""Images looked at to find out whether all have one size."""
_SLICE = 256
"""Images decoded, or cropped, at a time."""


@dataclass(frozen=True)
class CachePlan:
    """Where decoded images are to be kept, and in which size."""

    home: torch.device
    height: int
    width: int
    bytes: int
    stretched: bool
    """Whether images are brought to that size; else they have it."""

    @property
    def mode(self) -> Literal["ram", "gpu"]:
        return "gpu" if self.home.type == "cuda" else "ram"

    @property
    def words(self) -> str:
        where = "on the GPU" if self.home.type == "cuda" else "in memory"
        how = f"stretched to {self.width}x{self.height}" if self.stretched else f"{self.width}x{self.height}"
        return f"cache: all images {where}, {how}, {self.bytes / 1e9:.2f} GB"


def plan_cache(
    dataset: TwoCrops,
    mode: Literal["auto", "none", "ram", "gpu"],
    *,
    device: torch.device,
    free: Callable[[torch.device], int],
    size: int | None = None,
) -> CachePlan | None:
    """What `cache=MODE` means for this set and device; None: images are decoded anew for each batch.

    `auto` keeps images that are all of one size and small next to what is `free`. `size`: side that images of several sizes are
    stretched to. Raises ConfigError where an explicit mode cannot be had.
    """
    if mode == "none":
        return None
    if mode == "gpu" and device.type != "cuda":
        raise ConfigError("cache gpu: this run is on the CPU. Use --cache ram.")
    images = len(dataset)
    found = _sizes(dataset, np.unique(np.linspace(0, images - 1, _SAMPLE).astype(int)))
    one_size = len(found) == 1
    if not one_size and mode == "auto":
        return None
    width, height = found.pop() if one_size else (size or 2 * dataset.size,) * 2
    needed = images * height * width * 3
    cpu = torch.device("cpu")
    homes = {"auto": [device, cpu], "gpu": [device], "ram": [cpu]}[mode]
    for home in homes:
        if needed <= (AUTO_SHARE if mode == "auto" else 0.8) * free(home):
            return CachePlan(home, height, width, needed, stretched=not one_size)
    if mode == "auto":
        return None
    raise ConfigError(
        f"cache {mode}: {images:,} images of {width}x{height} need {needed / 1e9:.1f} GB, and {free(homes[0]) / 1e9:.1f} GB are "
        "free. Use --cache none, or a smaller --set cache_size."
    )


@dataclass(frozen=True)
class ImageCache:
    """Decoded images, and what to know about the files they came from."""

    pixels: Tensor
    """(N, H, W, 3) uint8, where the plan says."""
    sizes: NDArray[np.int64]
    """(N, 2): width and height of the upright images."""
    index: NDArray[np.int64]
    """(N,): the image whose pixels a row has: its own, or the next readable one's."""
    unreadable: list[tuple[str, str]]
    """Path and reason."""

    def batches(
        self, dataset: TwoCrops, *, steps: range, images: range, device: torch.device
    ) -> Generator[Crops, None, None]:
        """As `data.batches`, with the crops made on `device`."""
        unreadable = self.unreadable
        for step in steps:
            first = step * dataset.batch_size
            places = range(first + images.start, first + images.stop)
            rows = self.index[images_at(places, seed=dataset.seed, images=len(self.index))]
            yield Crops(self._crops(dataset, step, images, rows, device), rows, unreadable)
            unreadable = []

    def _crops(
        self, dataset: TwoCrops, step: int, images: range, rows: NDArray[np.int64], device: torch.device
    ) -> Tensor:
        a, size = dataset.augmentation, dataset.size
        numbers = draw(dataset.seed, step, batch_size=dataset.batch_size, augmentation=a).crop
        height, width = self.pixels.shape[1:3]
        scale = np.array([width, height] * 2) / self.sizes[rows][:, [0, 1, 0, 1]]
        made = torch.empty(2, len(rows), size, size, 3, dtype=torch.uint8, device=device)
        for view in (0, 1):
            drawn = numbers[view * dataset.batch_size :][images.start : images.stop]
            boxes = crop_boxes(self.sizes[rows], drawn, crop_min=a.crop_min, crop_ratio=a.crop_ratio)
            boxes_V4 = _there(torch.from_numpy((boxes * scale).astype(np.float32)), device)
            for start in range(0, len(rows), _SLICE):
                part = slice(start, start + _SLICE)
                chosen = self.pixels[_there(torch.from_numpy(rows[part]), self.pixels.device)]
                made[view, part] = crop_batch(_there(chosen, device), boxes_V4[part], size)
        return made


def fill_cache(plan: CachePlan, dataset: TwoCrops, *, workers: int) -> ImageCache:
    """Decode every image. Raises ImageError if none can be read."""
    images = len(dataset)
    pixels = torch.empty(images, plan.height, plan.width, 3, dtype=torch.uint8, device=plan.home)
    sizes, unreadable = np.zeros((images, 2), np.int64), []
    decoded = in_workers(
        _Decoded(dataset, plan),
        slices(images, _SLICE),
        workers=workers if images > 4 * _SLICE else 0,
    )
    for number, (part, part_sizes, part_unreadable) in enumerate(decoded):
        rows = slice(number * _SLICE, number * _SLICE + len(part))
        pixels[rows], sizes[rows] = part, part_sizes
        unreadable += part_unreadable
    readable = np.flatnonzero(sizes[:, 0])
    if not len(readable):
        raise ImageError(
            f"{dataset.images.name}: none of its {images} images can be read ({unreadable[0][1]})."
        )
    following = np.searchsorted(readable, np.arange(images)) % len(readable)
    return ImageCache(pixels, sizes, readable[following], unreadable)


class _Decoded(Dataset[tuple[Tensor, NDArray[np.int64], list[tuple[str, str]]]]):
    """Maps (start, stop) to those images of the listing: pixels (n, H, W, 3), sizes (n, 2; 0 where unreadable), and what is unreadable."""

    def __init__(self, dataset: TwoCrops, plan: CachePlan) -> None:
        self.dataset, self.plan = dataset, plan

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, NDArray[np.int64], list[tuple[str, str]]]:
        rows = range(*item)
        pixels = np.zeros((len(rows), self.plan.height, self.plan.width, 3), np.uint8)
        sizes, unreadable = np.zeros((len(rows), 2), np.int64), []
        shape = self.plan.width, self.plan.height
        for place, row in enumerate(rows):
            try:
                image = decode(self.dataset.images.read(row)).image
            except ImageError as exc:
                unreadable.append((self.dataset.images.names[row], str(exc)))
                continue
            sizes[place] = image.size
            if image.size != shape:
                image = image.resize(shape, Image.Resampling.BICUBIC)
            pixels[place] = np.asarray(image)
        return torch.from_numpy(pixels), sizes, unreadable


def _sizes(dataset: TwoCrops, rows: NDArray[np.int64]) -> set[tuple[int, int]]:
    """Widths and heights of some images; unreadable ones do not count."""
    found = set()
    for row in rows:
        try:
            found.add(decode(dataset.images.read(int(row))).image.size)
        except ImageError:
            continue  # named when its turn comes
    return found


def _there(tensor: Tensor, device: torch.device) -> Tensor:
    """Copied without waiting for the device."""
    if tensor.device == device or device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
