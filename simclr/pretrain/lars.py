"""LARS as google-research/simclr computes it (lars_optimizer.py, classic momentum), and its parameter groups.

Popular PyTorch versions divide by norm(g) + wd * norm(w), keep the learning rate outside the momentum, or switch
adaptation off where decay is 0. Here decay joins the gradient before its norm is taken, the learning rate goes
into the momentum, and `adapt` alone decides adaptation. No value is read back to the host.
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

TRUST = 0.001
"""Trust coefficient (`eeta` in the reference)."""


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, arXiv:1708.03888).

    Takes parameter groups with the keys `weight_decay` and `adapt` (False: plain momentum), as `lars_groups`
    makes them. Gradients are left as found; parameters without one are left alone.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = TRUST,
        adapt: bool = True,
    ) -> None:
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, trust=trust, adapt=adapt)
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if not weights:
                continue
            for w in weights:
                if not self.state[w]:
                    self.state[w]["velocity"] = torch.zeros_like(w)
            velocities = [self.state[w]["velocity"] for w in weights]
            # a new list of tensors: the decayed gradient, never p.grad itself
            updates = torch._foreach_add([w.grad for w in weights], weights, alpha=group["weight_decay"])
            if group["adapt"]:
                torch._foreach_mul_(updates, _trust_ratios(weights, list(updates), group["trust"]))
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, updates, alpha=group["lr"])
            torch._foreach_sub_(weights, velocities)
        return loss


def _trust_ratios(weights: list[Tensor], updates: list[Tensor], trust: float) -> list[Tensor]:
    """A scalar tensor each; 1 where either norm is zero, so that a fresh or frozen tensor moves plainly."""
    w_norm = torch.stack(torch._foreach_norm(weights))
    update_norm = torch.stack(torch._foreach_norm(updates))
    ratio = torch.where((w_norm > 0) & (update_norm > 0), trust * w_norm / update_norm, 1.0)
    return list(ratio.unbind())


def lars_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay and adapt; biases and norm scales (tensors of one dimension) do neither, as in the reference."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        dict(params=[p for p in trained if p.ndim > 1], weight_decay=weight_decay, adapt=True),
        dict(params=[p for p in trained if p.ndim <= 1], weight_decay=0.0, adapt=False),
    ]
