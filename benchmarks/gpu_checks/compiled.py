"""That a compiled model gives the gradients of an eager one, and is compiled once.

The reference is eager float32. Under bf16 both are off by its rounding, which differs between them since fused operations round
less often; so the compiled one may be off by at most twice what the eager one is.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from gpu_checks.rows import Place, Row
from gpu_checks.timing import free
from gpu_checks.workload import Ours, random_crops, weights_of

_FLOOR = 1e-3
"""Relative error that is never held against the compiled one: sums in another order."""


def check(place: Place) -> Iterator[Row]:
    encoder, size, batch = ("test_resnet", 32, 8) if place.quick else ("resnet18", 32, 256)
    crops = random_crops(place, batch, size)
    for chunk in (batch, batch // 4):
        name = f"batch {batch}, chunk {chunk}"
        reference, loss = _exact(place, encoder, size, batch, crops, chunk)
        errors = {}
        for how in ("eager", "compiled"):
            free()
            counters.clear()
            ours = Ours(place, encoder, size, batch, compiled=how == "compiled")
            found, found_loss = _gradients(ours, crops, chunk)
            errors[how] = float((found - reference).norm() / reference.norm())
            yield Row(f"{name}, {how}: gradient against float32", (errors[how],), "relative error")
            off = abs(found_loss - loss) / loss
            yield Row(f"{name}, {how}: loss against float32", (off,), "relative error")
            assert off < 0.02, f"{name}, {how}: loss {found_loss:.5f} where float32 has {loss:.5f}"
        limit = 2 * errors["eager"] + _FLOOR
        assert errors["compiled"] <= limit, (
            f"{name}: the compiled gradient is off by {errors['compiled']:.2e}, the eager one by {errors['eager']:.2e}"
        )
        graphs = [counters["stats"]["unique_graphs"]]
        for _ in range(5):
            ours.whole_step(crops, chunk)
            graphs.append(counters["stats"]["unique_graphs"])
        yield Row(f"{name}: graphs compiled", (graphs[-1],), "graphs")
        assert graphs[0] > 0, f"{name}: nothing was compiled"
        assert graphs[1] == graphs[-1], f"{name}: compiled again after step 2, graphs by step: {graphs}"


def _gradients(ours: Ours, crops: Tensor, chunk: int) -> tuple[Tensor, float]:
    """Of the first step: all weights' in one row, as float64; and the loss."""
    found = ours.gradients(ours.views_of(crops, chunk))
    rows = [w.grad.double().flatten() for w in weights_of(ours.model) if w.grad is not None]
    ours.optimizer.zero_grad(set_to_none=True)
    return torch.cat(rows), found.loss.item()


def _exact(
    place: Place, encoder: str, size: int, batch: int, crops: Tensor, chunk: int
) -> tuple[Tensor, float]:
    """`_gradients` in float32, without TF32."""
    ours = Ours(place, encoder, size, batch, compiled=False)
    ours.precision = contextlib.nullcontext
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        return _gradients(ours, crops, chunk)
    finally:
        torch.backends.cudnn.allow_tf32 = before
