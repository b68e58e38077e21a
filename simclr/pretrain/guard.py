"""When a run should not go on as it is: a loss that is no number or explodes, projections that collapse. Pure."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PATIENCE = 5
"""Looks in a row that must agree before collapse is reported."""
_RANK = 2.0
"""Effective dimensions of the projections below which they carry next to nothing. A fresh ResNet starts at 3 to 15 of 128."""
_SPREAD = 0.05
"""Share of the spread that evenly scattered projections have."""
_ENTROPY = 0.995
"""Share of log B, the entropy of views that cannot tell one image from another."""


class WentWrong(Exception):
    """The loss of a step cannot be trusted."""

    def __init__(self, step: int, words: str) -> None:
        super().__init__(words)
        self.step = step


def what_is_wrong(loss: float, *, batch_size: int, temperature: float) -> str | None:
    """A few words if a loss cannot be trusted, None if it can.

    Views told apart no better than by chance have a loss of about log(2B - 1). Above it by half the range
    that similarities over temperature have, pairs are driven apart: training has diverged.
    """
    if not math.isfinite(loss):
        return f"is {loss}"
    chance = math.log(2 * batch_size - 1)
    if loss > chance + 1 / temperature:
        return f"is {loss:.3g}, far above the {chance:.3g} of chance"
    return None


def covariance(unit_ND: Tensor) -> Tensor:
    """(D, D) of unit projections around their mean."""
    centred_ND = unit_ND - unit_ND.mean(0)
    return centred_ND.T @ centred_ND / len(unit_ND)


def effective_rank(covariance_DD: Tensor) -> float:
    """How many dimensions projections use: exp of the entropy of the covariance's eigenvalues (Roy and Vetterli 2007).

    1 if they lie on a line, D if they fill all dimensions alike; 0 if they are one point.
    """
    eigenvalues = torch.linalg.eigvalsh(covariance_DD.double().cpu()).clamp(min=0)
    total = eigenvalues.sum()
    if total <= 1e-12:
        return 0.0
    share = eigenvalues / total
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def spread(covariance_DD: Tensor) -> float:
    """Mean standard deviation of a dimension, times sqrt(D): 1 if scattered evenly over the sphere, 0 if one point."""
    variance_D = covariance_DD.diagonal().double().cpu().clamp(min=0)
    return float(variance_D.sqrt().mean() * math.sqrt(len(variance_D)))


@dataclass
class CollapseWatch:
    """Looks at a run now and then; speaks once when projections have collapsed for PATIENCE looks in a row."""

    batch_size: int
    looks: int = 0
    said: bool = False

    def look(self, *, rank: float, spread: float, entropy: float) -> str | None:
        """A sentence the first time that collapse is certain, else None.

        entropy: contrastive entropy in nats, at most log(batch_size).
        """
        reasons = [
            words
            for bad, words in (
                (rank < _RANK, f"they use {rank:.1f} dimensions"),
                (spread < _SPREAD, f"their spread is {spread:.3f} of an even one"),
                (
                    self.batch_size > 2 and entropy > _ENTROPY * math.log(self.batch_size),
                    f"their contrastive entropy is {entropy:.2f} of {math.log(self.batch_size):.2f}",
                ),
            )
            if bad
        ]
        self.looks = self.looks + 1 if reasons else 0
        if self.looks < PATIENCE or self.said:
            return None
        self.said = True
        return (
            f"the projections have collapsed: {' and '.join(reasons)}. "
            "Stop, and start again with a lower base_lr, a longer warmup_fraction or another temperature."
        )
