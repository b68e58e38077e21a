"""NT-Xent alone, forward and backward, against the form that holds the whole matrix: milliseconds and bytes."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from gpu_checks.rows import Goal, Place, Row
from gpu_checks.timing import free, peak_bytes, seconds
from gpu_checks.workload import TEMPERATURE, fits, matrix_nt_xent
from simclr.pretrain import memory, nt_xent

_MATRICES = 6
"""Of (2B, 2B) float32, that the matrix form holds at once, about: what would not fit is not tried."""


def check(place: Place) -> Iterator[Row]:
    for batch in (64, 256) if place.quick else (4096, 65_536):
        largest = not place.quick and batch == 65_536
        rounds = place.rounds if batch <= 4096 else 3
        yield from _rows(place, batch, "ours", nt_xent, rounds, Goal("at most", 2) if largest else None)
        needed = _MATRICES * (2 * batch) ** 2 * 4
        if needed > memory.available(torch.device(place.device)):
            note = f"would need about {needed / 1e9:.0f} GB"
            yield Row(f"B {batch:,}, matrix form", (), "ms", note=note)
            continue
        yield from _rows(place, batch, "matrix form", matrix_nt_xent, rounds, None)


def _rows(
    place: Place,
    batch: int,
    name: str,
    loss: Callable[..., Tensor],
    rounds: int,
    memory_goal: Goal | None,
) -> Iterator[Row]:
    free()
    torch.manual_seed(place.seed)
    leaves = [torch.randn(batch, 128, device=place.device, requires_grad=True) for _ in range(2)]
    before = sum(leaf.numel() * leaf.element_size() for leaf in leaves)

    def work() -> None:
        torch.autograd.grad(loss(*leaves, temperature=TEMPERATURE), leaves)

    if not fits(work):
        yield Row(f"B {batch:,}, {name}", (), "ms", note="does not fit into memory")
        return
    peak = peak_bytes(work, place.device) - (before if place.device == "cuda" else 0)
    times = 10 if batch <= 4096 and not place.quick else 1
    one = partial(seconds, work, place.device, times=times)
    yield Row(f"B {batch:,}, {name}", tuple(1e3 * one() for _ in range(rounds)), "ms")
    what = "above its input" if place.device == "cuda" else "of the process"
    yield Row(f"B {batch:,}, {name}: peak {what}", (peak / 1e9,), "GB", memory_goal)
