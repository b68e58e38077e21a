"""One batch on its device: this process's crops become the views of one company after the other."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr.pretrain import distributed
from simclr.pretrain.companies import companies, views_here
from simclr.pretrain.config import Augmentation
from simclr.pretrain.views import draw, recolour

_RECOLOURED = 512
"""Views recoloured at a time; bounds the temporaries."""


class Batch:
    """The views of step `step` that belong to this process, by company.

    Everything random in them follows from (seed, step) for the batch of all processes.
    """

    def __init__(
        self,
        pixels: Tensor,
        *,
        seed: int,
        step: int,
        batch_size: int,
        chunk: int,
        augmentation: Augmentation,
        mean: Tensor,
        std: Tensor,
    ) -> None:
        """`pixels`: (2, b, H, W, 3) uint8 on the device, the crops of this process's b images; `mean` and `std`: (1, 3, 1, 1),
        whose dtype the views get."""
        images = distributed.share(batch_size)
        drawn = companies(seed, step, batch_size=batch_size, chunk=chunk)
        self._pixels = pixels.flatten(0, 1)
        self._draws = draw(seed, step, batch_size=batch_size, augmentation=augmentation)
        self._here = [views_here(company, images=images, batch_size=batch_size) for company in drawn]
        self._first, self._batch_size, self._mean, self._std = images.start, batch_size, mean, std
        self.companies = [on_device(rows, pixels.device) for rows in self._here]
        """For each company, the numbers of its views among the 2b here."""
        self.shares = [len(company) / (2 * batch_size) for company in drawn]
        """Each company's part of the whole batch."""

    def views(self, company: int) -> Tensor:
        """(V, 3, H, W), normalised, channels last; the same each time."""
        here = self._here[company]
        crops = self._pixels if len(self.companies) == 1 else self._pixels[self.companies[company]]
        view, image = np.divmod(here, len(self._pixels) // 2)
        draws = self._draws.at(view * self._batch_size + self._first + image)
        made = [
            recolour(crops[rows], draws.at(rows), dtype=self._mean.dtype)
            for rows in (slice(i, i + _RECOLOURED) for i in range(0, len(here), _RECOLOURED))
        ]
        return ((torch.cat(made) - self._mean) / self._std).contiguous(memory_format=torch.channels_last)


def on_device(rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Copied without waiting for the device."""
    tensor = torch.from_numpy(rows)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
