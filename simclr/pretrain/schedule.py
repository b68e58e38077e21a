"""Learning rate and lengths of a run: plain functions of numbers (google-research/simclr, model.py and run.py)."""

import math


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Linear from 0 to `peak` over the warm-up, then half a cosine down to 0 at `total_steps`.

    `step` counts from 0, so the first step of a run with warm-up has learning rate 0, as in the reference.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def total_steps(images: int, *, batch_size: int, epochs: int) -> int:
    """Optimiser steps of a run; batches run on across the ends of epochs."""
    return images * epochs // batch_size + 1


def warmup_steps(images: int, *, batch_size: int, epochs: float) -> int:
    """Optimiser steps of a warm-up of so many epochs."""
    return int(round(images * epochs, 6) // batch_size)


def peak_learning_rate(base: float, *, batch_size: int, scaling: str) -> float:
    """`linear`: base * B / 256; `sqrt`: base * sqrt(B); `none`: base."""
    return base * {"linear": batch_size / 256, "sqrt": math.sqrt(batch_size), "none": 1.0}[scaling]
