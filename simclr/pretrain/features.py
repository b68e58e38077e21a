"""Labelled images -> features of an encoder, by its evaluation recipe. Trains nothing, and leaves no trace of itself.

Shape letters: N = images, H, W, C = pixels and channels, F = encoder width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from simclr.errors import ImageError
from simclr.images import decode
from simclr.preprocess import Recipe
from simclr.pretrain.in_workers import in_workers, slices
from simclr.pretrain.labels import Labelled
from simclr.sources import read

KEPT_BYTES = 1 << 29
"""Pixels of a set that are kept between evaluations: all 50,000 images of CIFAR-10 are 154 MB, 3,500 of ImageNet 527."""

_PIXELS = 1 << 22
"""Pixels that go through the encoder at a time: 256 images at 128 pixels, 83 at 224."""


@dataclass(frozen=True)
class _Block:
    pixels_NHWC: Tensor
    """uint8."""
    rows: list[int]
    """Which images these are."""
    unreadable: list[tuple[str, str]]
    """Path and reason."""


class _Evaluated(Dataset[_Block]):
    """Maps (start, stop) to the pixels of those images."""

    def __init__(self, images: Labelled, recipe: Recipe) -> None:
        self.images, self.recipe = images, recipe

    def __getitem__(self, item: tuple[int, int]) -> _Block:
        pixels, rows, unreadable = [], [], []
        for row in range(*item):
            path = str(self.images.paths[row])
            try:
                picture = decode(read(self.images.root, path), enough=self.recipe.enough)
            except ImageError as exc:
                unreadable.append((path, str(exc)))
                continue
            pixels.append(self.recipe.apply(picture.image))
            rows.append(row)
        size = self.recipe.size
        block = np.stack(pixels) if pixels else np.empty((0, size, size, 3), np.uint8)
        return _Block(torch.from_numpy(block), rows, unreadable)


class EvaluationPixels:
    """The pixels of labelled images as the encoder's recipe makes them, kept after the first time if they are few."""

    def __init__(self, images: Labelled, recipe: Recipe, *, workers: int) -> None:
        self.images, self.recipe, self.workers = images, recipe, workers
        self.unreadable: dict[str, str] = {}
        """Path and reason of images that are left out; complete after the first time."""
        self._kept: tuple[Tensor, Tensor] | None = None

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pixels (n, size, size, 3) uint8 and labels (n,) int64, in order, at most `_PIXELS` pixels at a time.

        Raises ImageError if none of the images can be read.
        """
        most = max(1, _PIXELS // self.recipe.size**2)
        if self._kept is None:
            yield from self._decoded(most)
            return
        for start, stop in slices(len(self._kept[1]), most):
            yield self._kept[0][start:stop], self._kept[1][start:stop]

    def _decoded(self, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        keep = len(self.images) * 3 * self.recipe.size**2 <= KEPT_BYTES
        labels_N = torch.from_numpy(self.images.labels)
        kept: list[tuple[Tensor, Tensor]] = []
        seen = 0
        loader = in_workers(
            _Evaluated(self.images, self.recipe), slices(len(self.images)), workers=self.workers
        )
        try:
            for block in loader:
                self.unreadable.update(block.unreadable)
                labels = labels_N[block.rows]
                seen += len(labels)
                if keep:
                    kept.append((block.pixels_NHWC, labels))
                for start, stop in slices(len(labels), most):
                    yield block.pixels_NHWC[start:stop], labels[start:stop]
        finally:
            loader.close()
        if not seen:
            path, why = next(iter(self.unreadable.items()))
            raise ImageError(
                f"{self.images.root}: none of its {len(self.images)} images can be read ({path}: {why})."
            )
        if keep:
            self._kept = torch.cat([pixels for pixels, _ in kept]), torch.cat([labels for _, labels in kept])


def to_views(pixels_NHWC: Tensor, recipe: Recipe) -> Tensor:
    """uint8 pixels -> (N, C, H, W) float32 as the encoder wants them, on the device of the pixels."""
    mean, std = (
        torch.tensor(c, device=pixels_NHWC.device).view(1, 3, 1, 1) for c in (recipe.mean, recipe.std)
    )
    views = pixels_NHWC.permute(0, 3, 1, 2).float().div_(255)
    return ((views - mean) / std).contiguous(memory_format=torch.channels_last)


@contextmanager
def evaluating(encoder: nn.Module) -> Iterator[None]:
    """The encoder and all its parts in eval mode; afterwards each part in the mode it was found in."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def encode(encoder: nn.Module, views_NCHW: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Features (N, F) float32, without a gradient; `dtype` is that of the encoder's arithmetic."""
    with torch.autocast(views_NCHW.device.type, dtype, enabled=dtype != torch.float32):
        features: Tensor = encoder(views_NCHW)
    return features.detach().float()


def unit_features(
    encoder: nn.Module, pixels: EvaluationPixels, *, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Features (N, F) float32 of unit length and labels (N,), on `device`; of the N images that can be read, in order.

    Raises ImageError if none can be read.
    """
    features, labels = [], []
    with evaluating(encoder):
        for block_NHWC, own in pixels.blocks():
            views = to_views(block_NHWC.to(device), pixels.recipe)
            features.append(F.normalize(encode(encoder, views, dtype=dtype), dim=1))
            labels.append(own)
    return torch.cat(features), torch.cat(labels).to(device)
