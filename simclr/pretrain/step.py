"""The gradient of one step, for a batch that may be larger than memory and spread over processes.

Shape letters: B = images of the batch, b = this process's part of them, V = 2b views here (first views, then second),
D = projection width.

Two passes (gradient caching; Gao et al. 2021, arXiv:2101.06983). The first takes each company of views through the model
without keeping a graph; the loss and its gradient with respect to all projections are then known, with all 2B - 1 rivals
of each view in place; the second takes each company through the model again and sends its rows of that gradient back. The
last company of the first pass keeps its graph and is not repeated, so a batch that fits is one plain pass.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simclr.pretrain import distributed
from simclr.pretrain.batch import Batch
from simclr.pretrain.loss import log_sums, mean_loss, row_gradients, unit_rows
from simclr.pretrain.norm import RunningStatistics


@dataclass(frozen=True)
class Contrast:
    """The loss of a batch, the same on every process, and what it asks of this process's projections."""

    loss: Tensor
    """Mean NT-Xent over all 2B views, a scalar."""
    grad_VD: Tensor
    """Its gradient with respect to the projections of this process."""
    unit_ND: Tensor
    """All 2B projections with unit length: first views, then second."""


def contrast(z_VD: Tensor, *, batch_size: int, temperature: float) -> Contrast:
    """NT-Xent over the views of all processes; each works out the rows of its own views only."""
    leaf_VD = z_VD.detach().requires_grad_()
    with torch.enable_grad():
        own_VD = unit_rows(leaf_VD)
    unit_ND = distributed.gather_views(own_VD.detach(), batch_size=batch_size)
    images = distributed.share(batch_size)
    halves = (images, range(batch_size + images.start, batch_size + images.stop))
    own_lse = torch.cat([log_sums(unit_ND, rows, temperature=temperature) for rows in halves])
    lse_N = distributed.gather_views(own_lse, batch_size=batch_size)
    grad_own = torch.cat([row_gradients(unit_ND, lse_N, rows, temperature=temperature) for rows in halves])
    (grad_VD,) = torch.autograd.grad(own_VD, leaf_VD, grad_own)
    return Contrast(mean_loss(unit_ND, lse_N, temperature=temperature), grad_VD, unit_ND)


def accumulate_gradients(
    model: nn.Module,
    batch: Batch,
    *,
    contrast: Callable[[Tensor], Contrast],
    statistics: RunningStatistics,
    precision: Callable[[], AbstractContextManager[object]],
    seed: int,
) -> Contrast:
    """Add the gradient of the batch's loss to every `w.grad`, summed over all processes.

    `seed` decides the encoder's own random numbers (dropout), which the second pass repeats; `precision` surrounds its
    forwards. Running statistics move once; an error leaves them as they were.
    """
    last = len(batch.companies) - 1

    def forward(company: int) -> Tensor:
        torch.manual_seed(seed + company)
        views = batch.views(company)
        with precision():
            z: Tensor = model(views)
        return z

    with statistics.one_update():
        parts: list[Tensor] = []
        for company in range(len(batch.companies)):
            with torch.set_grad_enabled(company == last), statistics.counting(batch.shares, company):
                parts.append(forward(company))
        z_VD = torch.cat([part.detach() for part in parts])
        z_VD[torch.cat(batch.companies)] = z_VD.clone()
        asked = contrast(z_VD)
        with statistics.paused():  # what is computed again must not be counted again
            parts.pop().backward(asked.grad_VD[batch.companies[last]])
            for company in range(last):
                forward(company).backward(asked.grad_VD[batch.companies[company]])
        distributed.add_up_gradients(model)
    return asked
