"""How good are the features while training?

Shape letters: B = images in the batch, b = images of this process, D = projection width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 1024
"""Rows compared at a time: 1024 x B similarities."""


@torch.no_grad()
def contrastive_scores(
    z1_BD: Tensor, z2_BD: Tensor, *, temperature: float, images: range | None = None
) -> Tensor:
    """(2,): sums over first views of (its most similar second view is its own), and of its entropy over second views.

    Divided by B they are the reference's contrastive accuracy (chance 1/B) and contrastive entropy in nats (at most log B;
    google-research/simclr, tf2/metrics.py). `images`: only these rows, so that processes can share the work.
    """
    images = range(len(z1_BD)) if images is None else images
    with torch.autocast(z1_BD.device.type, enabled=False):
        a_BD, b_BD = F.normalize(z1_BD.float(), dim=1), F.normalize(z2_BD.float(), dim=1)
        own_B = torch.arange(len(a_BD), device=a_BD.device)
        sums = a_BD.new_zeros(2)
        for start in range(images.start, images.stop, _BLOCK):
            rows = slice(start, min(start + _BLOCK, images.stop))
            logits = a_BD[rows] @ b_BD.T
            right = logits.argmax(1) == own_B[rows]
            log_share = (logits / temperature).log_softmax(1)
            entropy = -(log_share.exp() * log_share).sum(1)
            sums += torch.stack([right.float().sum(), entropy.sum()])
        return sums
