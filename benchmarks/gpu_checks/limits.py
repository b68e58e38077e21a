"""What the device can do at most: bytes copied a second, and multiply-adds of a large matrix product."""

from collections.abc import Callable, Iterator

import torch

from gpu_checks.rows import Place, Row
from gpu_checks.timing import seconds


def check(place: Place) -> Iterator[Row]:
    yield Row("copy on the device, read + written", copies(place), "GB/s")
    name = "bf16" if place.device == "cuda" else "fp32"
    yield Row(f"{name} matrix product, {_side(place)} a side", matmul_tflops(place), "TFLOP/s")


def copies(place: Place) -> tuple[float, ...]:
    """GB/s of each round."""
    size = 2**24 if place.quick else 2**32
    source = torch.empty(size, dtype=torch.uint8, device=place.device).fill_(1)
    target = torch.empty_like(source)
    return _rates(lambda: target.copy_(source), 2 * size / 1e9, place)


def matmul_tflops(place: Place) -> tuple[float, ...]:
    """TFLOP/s of each round, on random numbers: zeros let a card clock higher."""
    dtype = torch.bfloat16 if place.device == "cuda" else torch.float32
    side = _side(place)
    a, b = torch.randn(2, side, side, device=place.device, dtype=dtype)
    out = torch.empty_like(a)
    return _rates(lambda: torch.mm(a, b, out=out), 2 * side**3 / 1e12, place)


def _side(place: Place) -> int:
    return 256 if place.quick else 8192 if place.device == "cuda" else 2048


def _rates(work: Callable[[], object], amount: float, place: Place) -> tuple[float, ...]:
    seconds(work, place.device, times=3)
    return tuple(amount / seconds(work, place.device, times=10) for _ in range(place.rounds))
