"""Batch 4096 on one card: in chunks that fit, and with all first views in one company, against the largest batch in one piece."""

from collections.abc import Iterator
from functools import partial
from statistics import median

import torch

from gpu_checks.rows import Goal, Place, Row
from gpu_checks.timing import free, peak_bytes, seconds
from gpu_checks.workload import Ours, fits, precision, random_crops
from simclr.pretrain import memory


def check(place: Place) -> Iterator[Row]:
    batch = 32 if place.quick else 4096
    whole: tuple[float, ...] = ()
    for part in (1, 2, 4, 8, 16, 32):
        whole, peak = _milliseconds(place, batch // part, batch // part)
        if whole:
            name = f"batch {batch // part} in one piece"
            yield Row(f"{name}, the largest that fits", whole, "ms an image")
            yield Row(f"{name}: peak", (peak / 1e9,), "GB")
            break
    chunk = 8 if place.quick else _auto_chunk(place, batch)
    goal = Goal("at most", 1.45)
    yield from _rows(place, f"batch {batch}, chunk {chunk}", batch, chunk, whole, goal=goal)
    name = f"batch {batch}, full statistics per view (chunk {batch // 2}, recompute)"
    yield from _rows(place, name, batch, batch // 2, whole, recompute=True)


def _rows(
    place: Place,
    name: str,
    batch: int,
    chunk: int,
    whole: tuple[float, ...],
    *,
    recompute: bool = False,
    goal: Goal | None = None,
) -> Iterator[Row]:
    found, peak = _milliseconds(place, batch, chunk, recompute=recompute)
    if not found:
        yield Row(name, (), "ms an image", goal, note="does not fit into memory")
        return
    yield Row(name, found, "ms an image")
    if whole:
        ratios = tuple(value / median(whole) for value in found)
        yield Row(f"{name}: against one piece", ratios, "x", goal)
    yield Row(f"{name}: peak", (peak / 1e9,), "GB")


def _milliseconds(
    place: Place, batch: int, chunk: int, *, recompute: bool = False
) -> tuple[tuple[float, ...], int]:
    """An image's share of a step, of each round, and the bytes it takes; nothing where it does not fit. As a run: compiled."""
    free()
    encoder, size = _encoder(place)
    ours = Ours(place, encoder, size, batch, compiled=True, recompute=recompute)
    step = partial(ours.whole_step, random_crops(place, batch, size), chunk)
    if not fits(lambda: [step() for _ in range(2)]):
        return (), 0
    peak = peak_bytes(step, place.device)
    times = max(1, 1024 // batch)
    rounds = min(3, place.rounds)
    return tuple(1e3 * seconds(step, place.device, times=times) / batch for _ in range(rounds)), peak


def _auto_chunk(place: Place, batch: int) -> int:
    """As `chunk = auto` finds it."""
    free()
    encoder, size = _encoder(place)
    ours = Ours(place, encoder, size, batch, compiled=False)

    def forward(views: int) -> torch.Tensor:
        noise = torch.rand(views, 3, size, size, device=place.device)
        with precision(place):
            z: torch.Tensor = ours.model(noise.contiguous(memory_format=torch.channels_last))
        return z

    need = memory.measure(ours.model, forward, image_size=size, projection=128)
    return memory.largest_chunk(need, memory.available(torch.device(place.device)), batch_size=batch)


def _encoder(place: Place) -> tuple[str, int]:
    return ("test_resnet", 32) if place.quick else ("resnet50", 224)
