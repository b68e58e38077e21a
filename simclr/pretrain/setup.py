"""Everything a run is made of before its first step: settings, data, model, optimiser, where a stopped run goes on.

A record that prepare.py fills; decides nothing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr.preprocess import Recipe
from simclr.pretrain import memory
from simclr.pretrain.cache import CachePlan
from simclr.pretrain.checkpoint import TrainingState
from simclr.pretrain.config import PretrainConfig
from simclr.pretrain.data import TwoCrops
from simclr.pretrain.evaluation import Evaluation
from simclr.pretrain.model import SimCLR
from simclr.pretrain.norm import RunningStatistics


@dataclass(frozen=True)
class Setup:
    config: PretrainConfig
    """With nothing left open."""
    folder: Path
    device: torch.device
    dtype: torch.dtype
    """Of the encoder's arithmetic."""
    dataset: TwoCrops
    data_sha256: str
    """Of the listing of images."""
    batch_size: int
    chunk: int
    """To begin with; memory may halve it."""
    steps: int
    model: SimCLR
    optimizer: torch.optim.Optimizer
    peak: float
    """Highest learning rate."""
    warmup: int
    """Steps."""
    cache: CachePlan | None
    need: memory.Need | None
    """Of memory, by a step; None where the run is finished."""
    free: int
    """Bytes for it on the device."""
    evaluation: Evaluation | None
    """On labelled images, while training."""
    labels: NDArray[np.int64] | None
    """(N,) classes of the images for an online classifier, -1 where unknown; None without one."""
    statistics: RunningStatistics
    width: int
    """Of the encoder's features."""
    recipe: Recipe
    state: TrainingState | None
    """Where a stopped run goes on; None at its start."""

    @property
    def finished(self) -> bool:
        return self.state is not None and self.state.step >= self.steps

    def precision(self) -> AbstractContextManager[object]:
        """Surrounds the encoder's forwards."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def trial(setup: Setup) -> Callable[[int], Tensor]:
    """Takes so many views of anything through the model, as a step would."""
    config = setup.config

    def forward(views: int) -> Tensor:
        noise = torch.rand(views, 3, config.image_size, config.image_size, device=setup.device)
        with setup.precision():
            z: Tensor = setup.model(noise.contiguous(memory_format=torch.channels_last))
        return z

    return forward
