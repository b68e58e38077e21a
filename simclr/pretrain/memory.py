"""What a training step needs of a device's memory, and the largest chunk that fits.

What a view costs is measured, not guessed: small passes of the model itself, forward and backward.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from simclr.free_memory import free_memory
from simclr.pretrain import distributed
from simclr.pretrain.companies import companies_of_a_kind

USABLE = 0.8
"""Share of the free memory that a plan may take; the rest is for what no measurement of a small pass sees."""
_TRIAL, _LARGEST_TRIAL = 4, 512
"""Views of the smallest and the largest passes measured."""


@dataclass(frozen=True)
class Need:
    """Bytes that a step needs on one process."""

    fixed: int
    """Weights, gradients, momenta and the optimiser's updates."""
    per_image: int
    """Of this process's part of the batch: two crops and two projections."""
    per_view: int
    """Of a company's views on this process, while its graph is kept."""

    def of(self, *, images: int, views: int) -> int:
        return self.fixed + self.per_image * images + self.per_view * views


def measure(model: nn.Module, forward: Callable[[int], Tensor], *, image_size: int, projection: int) -> Need:
    """What `model` needs; `forward` takes so many views of anything through it. Gradients stay as found.

    On the CPU this is what torch allocates; what its libraries use inside comes on top.
    """
    weights = sum(w.numel() * w.element_size() for w in model.parameters())
    views, before, peak = 2 * _TRIAL, _peak(model, forward, _TRIAL), _peak(model, forward, 2 * _TRIAL)
    # as long as the peak is still that of the weights' gradients; all processes alike, since a pass needs all of them
    while any(distributed.any_of(peak < 4 * weights)) and views < _LARGEST_TRIAL:
        views, before, peak = 2 * views, peak, _peak(model, forward, 2 * views)
    per_view = (peak - before) / (views / 2)
    return Need(
        fixed=4 * weights,
        per_image=2 * (3 * image_size**2 + 3 * 4 * projection),
        per_view=max(1, round(per_view)),
    )


def available(device: torch.device) -> int:
    """Bytes that this process may still take; cores' memory is shared with the other processes of the machine."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free_memory() // distributed.on_this_machine()


def largest_chunk(need: Need, available_bytes: int, *, batch_size: int) -> int:
    """The whole batch where it fits into USABLE of the memory, else the chunk of the fewest equal companies that fit; at
    least 2. In images over all processes.
    """
    processes = distributed.world()
    images = -(-batch_size // processes)
    budget = USABLE * available_bytes - need.of(images=images, views=0)
    views = int(budget // need.per_view) * processes
    if views >= 2 * batch_size:
        return batch_size
    if views < 4:
        return min(2, batch_size)
    if views >= batch_size:
        return -(-batch_size // 2)
    return equal_chunk(batch_size, chunk=views // 2)


def equal_chunk(batch_size: int, *, chunk: int) -> int:
    """The smallest chunk, at most `chunk`, with as few companies: none of them is then much smaller than the others."""
    companies = companies_of_a_kind(batch_size, chunk)
    return max(2, -(-batch_size // (2 * companies)))


def is_out_of_memory(exc: BaseException) -> bool:
    """Whether torch could not get memory: a GPU's own error, or the CPU allocator's plain RuntimeError."""
    if isinstance(exc, torch.OutOfMemoryError):
        return True
    return isinstance(exc, RuntimeError) and any(
        words in str(exc) for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def _peak(model: nn.Module, forward: Callable[[int], Tensor], views: int) -> int:
    """Most bytes in use at once during one forward and backward, above what was in use before."""
    weights = [w for w in model.parameters() if w.requires_grad]
    device = weights[0].device

    def there_and_back() -> None:
        torch.autograd.grad(forward(views).float().sum(), weights, allow_unused=True)

    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        there_and_back()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - start
    allocations = _Allocations()
    with allocations:
        there_and_back()
    return allocations.peak


class _Allocations(TorchDispatchMode):
    """Counts the bytes of all storages that operations make and that are still alive."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.now = self.peak = 0
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes()
        self._alive[key] = weakref.finalize(storage, self._freed, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _freed(self, key: int, size: int) -> None:
        if self._alive.pop(key, None) is not None:
            self.now -= size
