"""The contrastive loss of SimCLR, in memory that grows with the batch and not with its square.

Shape letters: B = images in the batch, N = 2B views, D = projection width, R = rows of one block.

Row i of the (N, N) similarities needs only its own logarithm of the sum of exponentials, so both passes walk over blocks of R
rows. The forward pass keeps that logarithm, N numbers; the backward pass makes each block again and, because
the matrix is symmetric, gets the gradient of a row from the row alone:

    dL/dz_i = 1/(N T) * sum_j (p_ij + p_ji - 2 [j is i's positive]) z_j,     p_ij = exp(s_ij - lse_i)
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


def nt_xent(z1_BD: Tensor, z2_BD: Tensor, temperature: float = 0.1) -> Tensor:
    """Mean NT-Xent over all 2B views (Chen et al. 2020, eq. 1; arXiv:2002.05709), a scalar.

    Row i of both arguments comes from image i; rows need not have unit length. Half precision is raised to
    float32, also under autocast; float64 stays float64. Gradients of first order only.
    google-research/simclr, tf2/objective.py, adds both directions and so returns twice this value.
    """
    if z1_BD.shape != z2_BD.shape or z1_BD.ndim != 2:
        shapes = f"{tuple(z1_BD.shape)} and {tuple(z2_BD.shape)}"
        raise ValueError(f"nt_xent needs two matrices of one shape, (batch, width); got {shapes}.")
    with torch.autocast(z1_BD.device.type, enabled=False):
        z_ND = torch.cat([z1_BD, z2_BD])
        z_ND = F.normalize(z_ND if z_ND.dtype == torch.float64 else z_ND.float(), dim=1)
        loss: Tensor = _NTXent.apply(z_ND, temperature)
        return loss


class _NTXent(torch.autograd.Function):
    """Unit rows (N, D) -> scalar; row i and row i + B (mod N) are a pair."""

    @staticmethod
    def forward(ctx: Any, z_ND: Tensor, temperature: float) -> Tensor:
        n = len(z_ND)
        lse_N = z_ND.new_empty(n)
        for start, stop in _blocks(n, z_ND.device):
            logits_RN = _logits(z_ND, start, stop, temperature)
            torch.logsumexp(logits_RN, dim=1, out=lse_N[start:stop])
        positive_N = (z_ND * z_ND.roll(n // 2, 0)).sum(1) / temperature
        ctx.save_for_backward(z_ND, lse_N)
        ctx.temperature = temperature
        return (lse_N - positive_N).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        z_ND, lse_N = ctx.saved_tensors
        n = len(z_ND)
        grad_ND = torch.empty_like(z_ND)
        with torch.autocast(z_ND.device.type, enabled=False):  # a caller may be inside it
            for start, stop in _blocks(n, z_ND.device):
                logits_RN = _logits(z_ND, start, stop, ctx.temperature)
                weights_RN = (logits_RN - lse_N[start:stop, None]).exp_()
                weights_RN += logits_RN.sub_(lse_N).exp_()
                torch.mm(weights_RN, z_ND, out=grad_ND[start:stop])
        grad_ND.sub_(z_ND.roll(n // 2, 0), alpha=2)
        return grad_ND.mul_(grad / (n * ctx.temperature)), None


def _logits(z_ND: Tensor, start: int, stop: int, temperature: float) -> Tensor:
    """Rows start..stop of the similarities over temperature; a view is not its own negative."""
    logits_RN = (z_ND[start:stop] / temperature) @ z_ND.T
    logits_RN.diagonal(start).fill_(-torch.inf)
    return logits_RN


def _blocks(n: int, device: torch.device) -> list[tuple[int, int]]:
    """Row ranges that cover 0..n."""
    rows = max(1, _BLOCK_ELEMENTS.get(device.type, _BLOCK_ELEMENTS_ELSEWHERE) // n)
    return [(start, min(start + rows, n)) for start in range(0, n, rows)]
