"""How good are the features while training?

Shape letters: B = images in the batch, D = projection or feature width; N = images with a known class, Q = images to be
classified, C = classes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 1024
"""Rows compared at a time: 1024 x B similarities."""
_SIMILARITIES = 1 << 25
"""Of queries with images of known class, held at a time: 128 MiB."""


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


@torch.no_grad()
def knn_accuracy(
    bank_ND: Tensor,
    bank_labels_N: Tensor,
    queries_QD: Tensor | None = None,
    labels_Q: Tensor | None = None,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of queries whose class wins a vote of their k nearest, weighted exp(similarity / temperature).

    Rows have unit length, labels count from 0, all on one device. Without queries each row of the bank is judged by the others.
    Wu et al. 2018 (arXiv:1805.01978). As in `classify/knn.py`, the lowest of equal classes wins, and which of equally near rows at the
    k-th place vote is left open.
    """
    alone = queries_QD is None or labels_Q is None  # the bank asks about itself
    queries_QD, labels_Q = (
        (bank_ND, bank_labels_N) if queries_QD is None or labels_Q is None else (queries_QD, labels_Q)
    )
    k = min(k, len(bank_ND) - alone)
    known_N, right, classes = bank_labels_N.cpu(), 0, int(bank_labels_N.max()) + 1
    block = max(1, min(_BLOCK, _SIMILARITIES // len(bank_ND)))
    with torch.autocast(bank_ND.device.type, enabled=False):
        for start in range(0, len(queries_QD), block):
            similarity = queries_QD[start : start + block] @ bank_ND.T
            if alone:
                similarity.diagonal(start).fill_(-torch.inf)
            top, nearest = similarity.topk(k, dim=1)
            weight = ((top - top[:, :1]) / temperature).exp()
            # on the CPU: the sums of float32 weights are exact in float64 and in one order, so that ties stay ties
            votes = torch.zeros(len(top), classes, dtype=torch.float64)
            votes.scatter_add_(1, known_N[nearest.cpu()], weight.cpu().double())
            right += int((votes.argmax(1) == labels_Q[start : start + block].cpu()).sum())
    return right / len(queries_QD)
