"""Seconds and bytes of work on a device. Waits for the device before and after, never within."""

import gc
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from simclr.pretrain.clock import peak_memory


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str, *, times: int) -> float:
    """Of one call, over `times` in a row. By the host's clock, so that time in which the device has nothing to do counts."""
    synchronise(device)
    started = time.perf_counter()
    for _ in range(times):
        work()
    synchronise(device)
    return (time.perf_counter() - started) / times


def peak_bytes(work: Callable[[], object], device: str) -> int:
    """Most bytes that this process holds during `work`: tensors on a GPU, elsewhere its resident set."""
    synchronise(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    work()
    synchronise(device)
    return peak_memory(torch.device(device))


def free() -> None:
    """What nothing holds any more: tensors, and compiled code with its guards."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def training_flops(model: nn.Module, size: int) -> int:
    """Of one view: forward as torch counts it (a multiply-add is 2), and twice that for backward."""
    weight = next(model.parameters())
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(2, 3, size, size, device=weight.device))
    return 3 * counter.get_total_flops() // 2
