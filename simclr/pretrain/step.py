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
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr.pretrain import distributed
from simclr.pretrain.batch import Batch
from simclr.pretrain.loss import log_sums, mean_loss, row_gradients, unit_rows
from simclr.pretrain.norm import RunningStatistics


@dataclass(frozen=True)
class Contrast:
    """The loss of a batch, the same on every process, and what it asks of this process's projections."""

    loss: Tensor
    """Mean over all 2B views, a scalar."""
    grad_VD: Tensor
    """Its gradient, times the scale, with respect to the projections of this process."""
    unit_ND: Tensor
    """All 2B projections with unit length: first views, then second."""
    classified: Tensor | None = None
    """(2,): how many views of this process the online classifier had right, and how many have a class."""


def contrast(
    z_VD: Tensor, *, batch_size: int, temperature: float, decoupled: bool = False, scale: float = 1.0
) -> Contrast:
    """NT-Xent over the views of all processes; each works out the rows of its own views only.

    The gradient, not the loss, is multiplied by `scale`.
    """
    settings: dict[str, Any] = {"temperature": temperature, "decoupled": decoupled}
    leaf_VD = z_VD.detach().requires_grad_()
    with torch.enable_grad():
        own_VD = unit_rows(leaf_VD)
    unit_ND = distributed.gather_views(own_VD.detach(), batch_size=batch_size)
    images = distributed.share(batch_size)
    halves = (images, range(batch_size + images.start, batch_size + images.stop))
    own_lse = torch.cat([log_sums(unit_ND, rows, **settings) for rows in halves])
    lse_N = distributed.gather_views(own_lse, batch_size=batch_size)
    grad_own = torch.cat([row_gradients(unit_ND, lse_N, rows, **settings) for rows in halves])
    (grad_VD,) = torch.autograd.grad(own_VD, leaf_VD, grad_own.mul_(scale))
    return Contrast(mean_loss(unit_ND, lse_N, temperature=temperature), grad_VD, unit_ND)


def contrast_and_classify(
    out_VX: Tensor, labels_b: Tensor, *, batch_size: int, width: int, contrast: Callable[[Tensor], Contrast]
) -> Contrast:
    """`contrast` of the first `width` columns; the others are logits, and get the gradient of their mean cross-entropy.

    `labels_b`: int64 class numbers of this process's images, -1 where there is none. Every view of the batch counts
    in the mean, so that processes need not agree on how many have a class.
    """
    asked = contrast(out_VX[:, :width])
    logits_VC = out_VX[:, width:].detach().float().requires_grad_()
    labels_V = labels_b.repeat(2)
    with torch.enable_grad(), torch.autocast(logits_VC.device.type, enabled=False):
        entropy = F.cross_entropy(logits_VC, labels_V, ignore_index=-1, reduction="sum") / (2 * batch_size)
    (grad_VC,) = torch.autograd.grad(entropy, logits_VC)
    right = (logits_VC.argmax(1) == labels_V).sum()
    return replace(
        asked,
        grad_VD=torch.cat([asked.grad_VD, grad_VC.to(asked.grad_VD.dtype)], dim=1),
        classified=torch.stack([right, (labels_V >= 0).sum()]).float(),
    )


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
            with torch.set_grad_enabled(company == last), statistics.counting(batch.shares[company]):
                parts.append(forward(company))
        z_VD = torch.cat([part.detach() for part in parts])
        z_VD[torch.cat(batch.companies)] = z_VD.clone()
        asked = contrast(z_VD)
        parts.pop().backward(asked.grad_VD[batch.companies[last]])
        for company in range(last):  # what is computed again is not counted again
            forward(company).backward(asked.grad_VD[batch.companies[company]])
        distributed.add_up_gradients(model)
    return asked
