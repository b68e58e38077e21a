"""Batch norm over companies: statistics over all processes, and running statistics once a step.

Shape letters: V = views, C = channels, * = places of a feature map (none, or H, W).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from timm.layers.norm_act import SyncBatchNormAct, convert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from simclr.pretrain import distributed

M = TypeVar("M", bound=nn.Module)


def over_all_processes(model: M, device: torch.device) -> M:
    """Every batch norm of the model, made to take its statistics from the views of all processes.

    torch's SyncBatchNorm on a GPU; the same sums through `distributed` elsewhere. Weights, buffers and their
    names stay. One process needs nothing.
    """
    if distributed.world() == 1:
        return model
    converted: M = convert_sync_batchnorm(model)
    if device.type != "cuda":  # torch's refuses to run there
        for module in converted.modules():
            if isinstance(module, SyncBatchNormAct):
                module.__class__ = _GlobalBatchNormAct
            elif isinstance(module, nn.SyncBatchNorm):
                module.__class__ = GlobalBatchNorm
    return converted


class GlobalBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBatchNorm for any device: (V, C, *) -> (V, C, *)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        y, mean_C, var_C, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats and self.running_mean is not None:
            assert self.running_var is not None and self.momentum is not None
            with torch.no_grad():
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), self.momentum)
                unbiased_C = (var_C * (count / (count - 1))).to(self.running_var.dtype)
                self.running_var.lerp_(unbiased_C, self.momentum)
        out: Tensor = y
        return out


class _GlobalBatchNormAct(SyncBatchNormAct, GlobalBatchNorm):
    """timm's batch norm with activation: its forward calls the next class in line, which is ours."""


class _Normalise(torch.autograd.Function):
    """(V, C, *) -> the same, normalised over the views of all processes; also mean, variance and count."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values = x if x.dtype == torch.float64 else x.float()
        places = [d for d in range(x.ndim) if d != 1]
        local = values.new_tensor([x.numel() // x.shape[1]])
        var_C, mean_C = torch.var_mean(values, places, correction=0)
        rows = distributed.stack(torch.cat([mean_C, var_C, local]))  # (processes, 2C + 1)
        mean_PC, var_PC, count_P1 = rows.split([x.shape[1], x.shape[1], 1], dim=1)
        share_P1 = count_P1 / count_P1.sum()
        mean_C = (share_P1 * mean_PC).sum(0)
        var_C = (share_P1 * (var_PC + (mean_PC - mean_C) ** 2)).sum(0)
        scale_C = torch.rsqrt(var_C + eps)
        normal = (values - _spread(mean_C, x)) * _spread(scale_C, x)
        ctx.save_for_backward(normal.to(x.dtype), weight_C, scale_C, count_P1.sum())
        ctx.has_bias = bias_C is not None
        if weight_C is not None:
            normal = normal * _spread(weight_C, x)
        if bias_C is not None:
            normal = normal + _spread(bias_C, x)
        count = count_P1.sum()
        ctx.mark_non_differentiable(mean_C, var_C, count)
        return normal.to(x.dtype), mean_C, var_C, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        normal, weight_C, scale_C, count = ctx.saved_tensors
        wide = grad.to(scale_C.dtype)
        places = [d for d in range(grad.ndim) if d != 1]
        grad_bias_C = wide.sum(places)
        grad_weight_C = (wide * normal).sum(places)
        sums = distributed.add_up(torch.cat([grad_bias_C, grad_weight_C])) / count
        mean_grad_C, mean_product_C = sums.chunk(2)
        if weight_C is not None:
            scale_C = scale_C * weight_C
        grad_x = wide - _spread(mean_grad_C, grad) - normal * _spread(mean_product_C, grad)
        return (
            (grad_x * _spread(scale_C, grad)).to(grad.dtype),
            None if weight_C is None else grad_weight_C.to(weight_C.dtype),
            grad_bias_C if ctx.has_bias else None,
            None,
        )


def _spread(value_C: Tensor, like: Tensor) -> Tensor:
    return value_C.view(1, -1, *[1] * (like.ndim - 2))


class RunningStatistics:
    """What batch norms remember for inference: one update a step, however many companies and passes it takes.

    After a step it is `(1 - momentum) * before + momentum * s` with s the companies' mean and unbiased variance, averaged by
    size. torch alone would update once for each forward: K companies, in both passes, would be 2K updates.

    During a step every norm has momentum 1, so that a forward leaves its own statistics behind to be collected; one constant,
    since a compiled model is compiled again for another.
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        assert all(norm.momentum is not None for norm in self._norms), "timm has no cumulative averages"
        self._buffers = [b for n in self._norms for b in (n.running_mean, n.running_var) if b is not None]
        self._counts = [n.num_batches_tracked for n in self._norms if n.num_batches_tracked is not None]
        self._before = [b.clone() for b in self._buffers]
        self._counts_before = [b.clone() for b in self._counts]
        self._collected: list[Tensor] = []

    @contextmanager
    def one_update(self) -> Iterator[None]:
        """Around a step: counts what is collected in it, once; puts everything back if the step fails."""
        self._remember()
        momenta = [float(norm.momentum or 0) for norm in self._norms]
        for norm in self._norms:
            norm.momentum = 1.0
        collected = self._collected = [torch.zeros_like(b) for b in self._buffers]
        try:
            yield
        except BaseException:
            self._put_back()
            raise
        finally:
            for norm, momentum in zip(self._norms, momenta, strict=True):
                norm.momentum = momentum
        self._put_back()
        if self._buffers:
            weights = [momentum for momentum in momenta for _ in ("mean", "variance")]
            torch._foreach_mul_(self._buffers, [1 - weight for weight in weights])
            torch._foreach_mul_(collected, weights)
            torch._foreach_add_(self._buffers, collected)
            torch._foreach_add_(self._counts, 1)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Around forwards that leave no trace."""
        self._remember()
        try:
            yield
        finally:
            self._put_back()

    @contextmanager
    def counting(self, share: float) -> Iterator[None]:
        """Around the first forward of a company that is this share of the batch."""
        yield
        if self._buffers:
            torch._foreach_add_(self._collected, self._buffers, alpha=share)

    def _remember(self) -> None:
        if self._buffers:
            torch._foreach_copy_(self._before, self._buffers)
            torch._foreach_copy_(self._counts_before, self._counts)

    def _put_back(self) -> None:
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._before)
            torch._foreach_copy_(self._counts, self._counts_before)
