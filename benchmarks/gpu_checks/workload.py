"""One training step, as a run takes it and as the baseline does.

Shape letters: B = images, V = 2B views, D = projection width.
"""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpu_checks.rows import Place
from simclr.encoder import build_encoder, feature_width
from simclr.pretrain import memory
from simclr.pretrain.batch import Batch
from simclr.pretrain.config import Augmentation
from simclr.pretrain.guard import covariance
from simclr.pretrain.lars import LARS, lars_groups
from simclr.pretrain.model import SimCLR, recompute_blocks
from simclr.pretrain.monitor import contrastive_scores
from simclr.pretrain.norm import RunningStatistics
from simclr.pretrain.quality import alignment, gradient_norm, uniformity
from simclr.pretrain.step import Contrast, accumulate_gradients, contrast

TEMPERATURE = 0.1


def precision(place: Place) -> AbstractContextManager[object]:
    """bf16 on a GPU; a CPU without fast bf16 would only be slow."""
    return torch.autocast("cuda", torch.bfloat16) if place.device == "cuda" else contextlib.nullcontext()


def build(place: Place, encoder: str, size: int, *, recompute: bool = False) -> SimCLR:
    """With weights from the seed, in training mode, in torch's plain layout."""
    torch.manual_seed(place.seed)
    made = build_encoder(encoder, small_stem=size <= 64 and encoder.startswith("resnet"))
    if recompute:
        recompute_blocks(made, encoder)
    return SimCLR(made, width=feature_width(made, size)).to(place.device).train()


def random_crops(place: Place, batch: int, size: int) -> Tensor:
    """(2, B, size, size, 3) uint8 on the device."""
    torch.manual_seed(place.seed)
    return torch.randint(0, 256, (2, batch, size, size, 3), dtype=torch.uint8, device=place.device)


class ReadyViews:
    """A batch whose views lie on the device already: the part of `Batch` that a step asks for."""

    def __init__(self, views: Tensor) -> None:
        self._views = views
        self.companies = [torch.arange(len(views), device=views.device)]
        self.shares = [1.0]

    def views(self, company: int) -> Tensor:
        return self._views


class Baseline:
    """Eager, plain layout, views ready on the device, the matrix loss, torch's own SGD."""

    def __init__(self, place: Place, encoder: str, size: int, batch: int) -> None:
        self.place, self.model = place, build(place, encoder, size)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-6)
        self.views = torch.randn(2 * batch, 3, size, size, device=place.device)

    def step(self) -> None:
        with precision(self.place):
            z_VD = self.model(self.views)
            loss = matrix_nt_xent(*z_VD.chunk(2), temperature=TEMPERATURE)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Ours:
    """The functions that a run's step is made of."""

    def __init__(
        self, place: Place, encoder: str, size: int, batch: int, *, compiled: bool, recompute: bool = False
    ) -> None:
        self.place, self.batch = place, batch
        self.precision: Callable[[], AbstractContextManager[object]] = partial(precision, place)
        self.model = build(place, encoder, size, recompute=recompute).to(memory_format=torch.channels_last)
        self.statistics = RunningStatistics(self.model)
        self.optimizer = LARS(lars_groups(self.model, weight_decay=1e-6), lr=0.1)
        self.mean = torch.full((1, 3, 1, 1), 0.45, device=place.device)
        self.std = torch.full((1, 3, 1, 1), 0.25, device=place.device)
        self.augmentation = Augmentation()
        self.number = 0
        if compiled:
            self.model.compile(backend=place.backend)

    def gradients(self, batch: Batch | ReadyViews) -> Contrast:
        return accumulate_gradients(
            self.model,
            batch,  # type: ignore[arg-type]
            contrast=partial(contrast, batch_size=self.batch, temperature=TEMPERATURE),
            statistics=self.statistics,
            precision=self.precision,
            seed=self.number,
        )

    def views_of(self, crops: Tensor, chunk: int) -> Batch:
        """The next step's, from uint8 crops on the device."""
        return Batch(
            crops,
            seed=self.place.seed,
            step=self.number,
            batch_size=self.batch,
            chunk=chunk,
            augmentation=self.augmentation,
            mean=self.mean,
            std=self.std,
        )

    def step(self, batch: Batch | ReadyViews) -> None:
        """Gradients and LARS, and nothing else."""
        self.gradients(batch)
        self._update()

    def whole_step(self, crops: Tensor, chunk: int) -> None:
        """All that a run does between two images: views, gradients, LARS, every number it reports."""
        found = self.gradients(self.views_of(crops, chunk))
        gradient_norm(self.model.parameters())
        self._update()
        z1, z2 = found.unit_ND.chunk(2)
        contrastive_scores(z1, z2, temperature=TEMPERATURE)
        if self.number % 10 == 0:
            covariance(found.unit_ND), alignment(z1, z2), uniformity(z1)
        self.number += 1

    def _update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def matrix_nt_xent(z1_BD: Tensor, z2_BD: Tensor, *, temperature: float) -> Tensor:
    """The loss as lightly describes its NTXentLoss: for the first views the similarities with the first and with the second,
    likewise for the second, each without its own; cross-entropy over the rows laid one above the other."""
    a, b = F.normalize(z1_BD.float(), dim=1), F.normalize(z2_BD.float(), dim=1)
    with torch.autocast(a.device.type, enabled=False):
        n = len(a)
        others = ~torch.eye(n, dtype=torch.bool, device=a.device)
        aa = (a @ a.T / temperature)[others].view(n, n - 1)
        bb = (b @ b.T / temperature)[others].view(n, n - 1)
        ab, ba = a @ b.T / temperature, b @ a.T / temperature
        rows = torch.cat([torch.cat([ab, aa], dim=1), torch.cat([ba, bb], dim=1)])
        return F.cross_entropy(rows, torch.arange(n, device=a.device).repeat(2))


def fits(work: Callable[[], object]) -> bool:
    """Whether `work` gets the memory it needs; what it took is given back where not."""
    try:
        work()
        return True
    except RuntimeError as exc:
        if not memory.is_out_of_memory(exc):
            raise
    if torch.cuda.is_initialized():  # here, where the exception does not hold the tensors of the try any more
        torch.cuda.empty_cache()
    return False


def weights_of(model: nn.Module) -> list[Tensor]:
    return [w for w in model.parameters() if w.requires_grad]
