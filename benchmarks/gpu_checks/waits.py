"""That the host never waits for the GPU within a step: torch raises an error where it would."""

from collections.abc import Iterator

import torch

from gpu_checks.cifar import SIZE, cached_batches
from gpu_checks.rows import Place, Row, Skipped
from gpu_checks.timing import free
from gpu_checks.workload import Ours

_STEPS = 11
"""One of them looks at rank and spread, as every tenth does."""


def check(place: Place) -> Iterator[Row]:
    if place.device != "cuda":
        raise Skipped("a CPU does its work at once: there is nothing to wait for")
    batch = 32 if place.quick else 512
    encoder = "test_resnet" if place.quick else "resnet18"
    for compiled in (False, True):
        for chunk in (batch, batch // 4):
            free()
            ours = Ours(place, encoder, SIZE, batch, compiled=compiled)
            loader = cached_batches(place, batch, images=10 * batch)
            for _ in range(3):  # the first ones may set things up
                ours.whole_step(next(loader).pixels, chunk)
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                for _ in range(_STEPS):
                    ours.whole_step(next(loader).pixels, chunk)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            how = "compiled" if compiled else "eager"
            yield Row(f"batch {batch}, chunk {chunk}, {how}: steps without a wait", (_STEPS,), "steps")
