"""Numbers of a step that say how it learns: alignment, uniformity, the size of the gradient. Pure.

All are scalars on the device of what they are worked out from; nothing here waits for a GPU.

Shape letters: B = images of the batch, N = rows, n = rows looked at, D = projection width.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from simclr.pretrain.loss import unit_rows

_BLOCK = 1024
"""Rows compared at a time: 1024 x n distances."""


@torch.no_grad()
def alignment(z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
    """Mean squared distance of the two views of an image on the unit sphere, 0 (the same) to 4; unrelated views have 2.

    Wang and Isola 2020 (arXiv:2005.10242) with alpha = 2. Rows need not have unit length.
    """
    with torch.autocast(z1_BD.device.type, enabled=False):
        return (unit_rows(z1_BD) - unit_rows(z2_BD)).square().sum(1).mean()


@torch.no_grad()
def uniformity(z_ND: Tensor, *, rows: int = 2048) -> Tensor:
    """log of the mean over pairs of rows of exp(-2 |zi - zj|²): 0 if all are alike, about 8/D - 4 if evenly scattered.

    Wang and Isola 2020 (arXiv:2005.10242) with t = 2; without pairs of a row and itself. Pass views of one kind, as they
    do: the other view of an image is no independent draw. Of more than `rows` rows every n-th is taken. At least 2.
    """
    assert len(z_ND) > 1
    with torch.autocast(z_ND.device.type, enabled=False):
        z_nD = unit_rows(z_ND[:: -(-len(z_ND) // rows)])
        sums = []
        for start in range(0, len(z_nD), _BLOCK):
            block = z_nD[start : start + _BLOCK]
            nearness = (4 * (block @ z_nD.T - 1)).exp()  # |zi - zj|² = 2 - 2 zi·zj
            nearness[:, start : start + len(block)].fill_diagonal_(0)
            sums.append(nearness.sum())
        return (torch.stack(sums).sum() / (len(z_nD) * (len(z_nD) - 1))).log()


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """2-norm over all gradients together, as if they were one vector; 0 if there is none."""
    return torch.nn.utils.get_total_norm([w.grad for w in parameters if w.grad is not None])
