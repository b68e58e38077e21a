"""How good are the features while training?

Shape letters: B = images in the batch, D = projection width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 1024
"""Rows compared at a time: 1024 x B similarities."""


@torch.no_grad()
def contrastive_top1(z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
    """Share of first views whose most similar second view is their own, a scalar in 0..1.

    The reference's contrastive accuracy (google-research/simclr, tf2/metrics.py); chance is 1/B.
    """
    with torch.autocast(z1_BD.device.type, enabled=False):
        a_BD, b_BD = F.normalize(z1_BD.float(), dim=1), F.normalize(z2_BD.float(), dim=1)
        own_B = torch.arange(len(a_BD), device=a_BD.device)
        right = [
            (a_BD[start : start + _BLOCK] @ b_BD.T).argmax(1) == own_B[start : start + _BLOCK]
            for start in range(0, len(a_BD), _BLOCK)
        ]
        return torch.cat(right).float().mean()
