"""The contrastive loss of SimCLR, in memory that grows with the batch and not with its square.

Shape letters: B = images in the batch, N = 2B views, D = projection width, R = rows of one block.

Row i of the (N, N) similarities needs only its own logarithm of the sum of exponentials, so both passes walk over blocks of R
rows. The forward pass keeps that logarithm, N numbers; the backward pass makes each block again and, because
the matrix is symmetric, gets the gradient of a row from the row alone:

    dL/dz_i = 1/(N T) * sum_j (p_ij + p_ji - 2 [j is i's positive]) z_j,     p_ij = exp(s_ij - lse_i)

So the work also divides over processes: each needs all views, but takes only its own rows of both passes.

The decoupled loss (Yeh et al. 2021, arXiv:2110.06848, eq. 5) leaves the positive out of the sum, and p is 0 there.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_BLOCK_ELEMENTS = {"cpu": 1 << 20}
"""Similarities in one block: 4 MiB as float32, which a CPU's cache holds. Measured at N = 8192: 2^16 0.65 s,
2^18 0.36 s, 2^20 0.27 s, 2^22 0.34 s."""
_BLOCK_ELEMENTS_ELSEWHERE = 1 << 25
"""128 MiB as float32: an accelerator wants few and large kernels."""


def nt_xent(z1_BD: Tensor, z2_BD: Tensor, temperature: float = 0.1, *, decoupled: bool = False) -> Tensor:
    """Mean NT-Xent over all 2B views (Chen et al. 2020, eq. 1; arXiv:2002.05709), a scalar.

    `decoupled`: without the positive among the rivals (DCL; Yeh et al. 2021); needs B of at least 2.

    Row i of both arguments comes from image i; rows need not have unit length. Half precision is raised to
    float32, also under autocast; float64 stays float64. Gradients of first order only.
    google-research/simclr, tf2/objective.py, adds both directions and so returns twice this value.
    """
    if z1_BD.shape != z2_BD.shape or z1_BD.ndim != 2:
        shapes = f"{tuple(z1_BD.shape)} and {tuple(z2_BD.shape)}"
        raise ValueError(f"nt_xent needs two matrices of one shape, (batch, width); got {shapes}.")
    if decoupled and len(z1_BD) < 2:
        raise ValueError("the decoupled loss of one image has no rivals; give at least 2.")
    loss: Tensor = _NTXent.apply(unit_rows(torch.cat([z1_BD, z2_BD])), temperature, decoupled)
    return loss


def unit_rows(z_ND: Tensor) -> Tensor:
    """Rows of unit length, in float32 or, where they came so, float64."""
    with torch.autocast(z_ND.device.type, enabled=False):
        return F.normalize(z_ND if z_ND.dtype == torch.float64 else z_ND.float(), dim=1)


@torch.no_grad()
def log_sums(z_ND: Tensor, rows: range, *, temperature: float, decoupled: bool = False) -> Tensor:
    """(R,): for each of these rows of all unit views, the logarithm of its sum of exponentials over its 2B - 1 rivals, or
    2B - 2 where its positive is none."""
    with torch.autocast(z_ND.device.type, enabled=False):
        lse_R = z_ND.new_empty(len(rows))
        for start, stop in _blocks(rows, len(z_ND), z_ND.device):
            logits_RN = _logits(z_ND, start, stop, temperature, decoupled)
            torch.logsumexp(logits_RN, dim=1, out=lse_R[start - rows.start : stop - rows.start])
        return lse_R


@torch.no_grad()
def mean_loss(z_ND: Tensor, lse_N: Tensor, *, temperature: float) -> Tensor:
    """The loss, from all unit views and the logarithms of all rows; row i and row i + B (mod 2B) are a pair."""
    positive_N = (z_ND * z_ND.roll(len(z_ND) // 2, 0)).sum(1) / temperature
    return (lse_N - positive_N).mean()


@torch.no_grad()
def row_gradients(
    z_ND: Tensor, lse_N: Tensor, rows: range, *, temperature: float, decoupled: bool = False
) -> Tensor:
    """(R, D): the gradient of the mean loss of all views with respect to these rows of the unit views."""
    with torch.autocast(z_ND.device.type, enabled=False):  # a caller may be inside it
        grad_RD = z_ND.new_empty(len(rows), z_ND.shape[1])
        for start, stop in _blocks(rows, len(z_ND), z_ND.device):
            logits_RN = _logits(z_ND, start, stop, temperature, decoupled)
            weights_RN = (logits_RN - lse_N[start:stop, None]).exp_()
            weights_RN += logits_RN.sub_(lse_N).exp_()
            torch.mm(weights_RN, z_ND, out=grad_RD[start - rows.start : stop - rows.start])
        positive_RD = z_ND.roll(len(z_ND) // 2, 0)[rows.start : rows.stop]
        return grad_RD.sub_(positive_RD, alpha=2).mul_(1 / (len(z_ND) * temperature))


class _NTXent(torch.autograd.Function):
    """Unit rows (N, D) -> scalar."""

    @staticmethod
    def forward(ctx: Any, z_ND: Tensor, temperature: float, decoupled: bool) -> Tensor:
        lse_N = log_sums(z_ND, range(len(z_ND)), temperature=temperature, decoupled=decoupled)
        ctx.save_for_backward(z_ND, lse_N)
        ctx.settings = {"temperature": temperature, "decoupled": decoupled}
        return mean_loss(z_ND, lse_N, temperature=temperature)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        z_ND, lse_N = ctx.saved_tensors
        return row_gradients(z_ND, lse_N, range(len(z_ND)), **ctx.settings).mul_(grad), None, None


def _logits(z_ND: Tensor, start: int, stop: int, temperature: float, decoupled: bool) -> Tensor:
    """Rows start..stop of the similarities over temperature; a view is not its own negative."""
    logits_RN = (z_ND[start:stop] / temperature) @ z_ND.T
    logits_RN.diagonal(start).fill_(-torch.inf)
    if decoupled:
        for away in (-len(z_ND) // 2, len(z_ND) // 2):  # row i and column i + B, or i - B
            logits_RN.diagonal(start + away).fill_(-torch.inf)
    return logits_RN


def _blocks(rows: range, n: int, device: torch.device) -> list[tuple[int, int]]:
    """Ranges that cover `rows`, each with so many that its similarities to all n views are one block."""
    block = max(1, _BLOCK_ELEMENTS.get(device.type, _BLOCK_ELEMENTS_ELSEWHERE) // n)
    return [(start, min(start + block, rows.stop)) for start in range(rows.start, rows.stop, block)]
