"""Several processes that train one model: start and stop the group, share out rows, gather and add up.

The only file that says `torch.distributed`. Processes are started by `torchrun` or `simclr pretrain --processes`, which
both set RANK, WORLD_SIZE and where to meet. Without them every function here does what one process needs.
Nothing here carries gradients: the loss's gradient is worked out row by row (loss.py), batch norm's in norm.py.
"""

import contextlib
import datetime
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented, but not declared

from simclr.cpus import available_cpus
from simclr.errors import ConfigError, SimclrError, reason
from simclr.pretrain.launch import FAILED_ELSEWHERE

T = TypeVar("T")

TIMEOUT = datetime.timedelta(minutes=10)
"""How long a process waits for the others before it ends."""
_ANSWER = datetime.timedelta(seconds=2)
"""How long one of them may take to answer where it said it is."""
_MEETING = "simclr/meeting"


@contextlib.contextmanager
def group(device: torch.device) -> Iterator[None]:
    """Be one of the processes that the environment names, for as long as the block runs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            dist.init_process_group(
                backend, timeout=TIMEOUT, store=_fresh_store(number), rank=number, world_size=count
            )
        else:
            dist.init_process_group(backend, timeout=TIMEOUT)
    except (RuntimeError, ValueError, OSError) as exc:
        raise SimclrError(
            f"the processes of this run cannot meet ({reason(exc)}). Look at MASTER_ADDR and MASTER_PORT, and whether all "
            "were started."
        ) from exc
    try:
        yield
    except SystemExit:
        raise  # another process is lost: taking leave of it could take forever
    except BaseException:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _fresh_store(number: int) -> TCPStore:
    """Where these processes, and none before them, find one another; `number` is this one's rank.

    torchrun lends its own store and keeps it over restarts, but torch (2.14, rendezvous.py) takes it for new: processes
    started again connect to addresses of those that are gone. So the first one opens another, and says in the lent one
    where; the others ask there until what they read is answered for.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    lent = TCPStore(host, port, is_master=False, timeout=TIMEOUT)
    if number == 0:
        fresh, sign = TCPStore("0.0.0.0", 0, is_master=True, timeout=TIMEOUT), uuid.uuid4().hex
        fresh.set(sign, "")
        lent.set(_MEETING, f"{fresh.port} {sign}")
        return fresh
    until = time.monotonic() + TIMEOUT.total_seconds()
    while time.monotonic() < until:
        there, sign = lent.get(_MEETING).decode().split()
        with contextlib.suppress(OSError, dist.DistError):
            socket.create_connection((host, int(there)), timeout=_ANSWER.total_seconds()).close()
            fresh = TCPStore(host, int(there), is_master=False, timeout=_ANSWER)
            fresh.wait([sign])
            fresh.set_timeout(TIMEOUT)
            return fresh
        time.sleep(0.1)
    raise RuntimeError(f"the first process is not to be reached on {host}")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def on_this_machine() -> int:
    """How many processes of this run share this machine's cores and memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def own_gpu() -> torch.device:
    """The GPU of this process: the one with its number on this machine. Raises ConfigError if there are too few."""
    number = int(os.environ.get("LOCAL_RANK", "0"))
    gpus, wanted = torch.cuda.device_count(), on_this_machine()
    if gpus < wanted:
        if number != 0:
            raise SystemExit(FAILED_ELSEWHERE)  # the first of this machine says it
        found = f"{wanted} processes, but {gpus} GPUs" if gpus else "no GPU that torch can use"
        raise ConfigError(f"{found} on this machine. Start one process a GPU, or give --device cpu.")
    return torch.device("cuda", number)


def own_cpus() -> int:
    """Cores of this machine for this process."""
    return max(1, available_cpus() // on_this_machine())


def share(count: int, process: int | None = None) -> range:
    """The rows that this process (or another) takes of `count`: neighbours, as evenly as whole rows allow."""
    mine = rank() if process is None else process
    return range(mine * count // world(), (mine + 1) * count // world())


def gather_views(local: Tensor, *, batch_size: int) -> Tensor:
    """Each process's views (2b, ...), first views then second, -> all of them (2B, ...) in the same layout.

    Uneven shares are padded on the way. Carries no gradient.
    """
    if world() == 1:
        return local
    shares = [share(batch_size, process) for process in range(world())]
    most = max(map(len, shares))
    views = local.unflatten(0, (2, -1))
    padded = local.new_zeros(2, most, *local.shape[1:])
    padded[:, : views.shape[1]] = views
    parts = [torch.empty_like(padded) for _ in shares]
    dist.all_gather(parts, padded)
    return torch.cat(
        [part[view, : len(rows)] for view in (0, 1) for part, rows in zip(parts, shares, strict=True)]
    )


def stack(row: Tensor) -> Tensor:
    """(M,) of each process -> (processes, M)."""
    if world() == 1:
        return row[None]
    parts = [torch.empty_like(row) for _ in range(world())]
    dist.all_gather(parts, row.contiguous())
    return torch.stack(parts)


def add_up(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place and returned; the same to the last bit on each."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


@torch.no_grad()
def add_up_gradients(model: nn.Module) -> None:
    """Every w.grad becomes the sum over all processes: each holds its own rows' part of the one gradient."""
    grads = [w.grad for w in model.parameters() if w.grad is not None]
    if world() == 1 or not grads:
        return
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    parts = flat.split([grad.numel() for grad in grads])
    torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])


def any_of(*flags: bool) -> list[bool]:
    """Each flag, true if it is on any process. Talks over the CPU and not through a GPU's queue of work."""
    if world() == 1:
        return list(flags)
    votes = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return [bool(vote) for vote in votes]


def least(number: int) -> int:
    """The smallest of all processes' numbers."""
    if world() == 1:
        return number
    smallest = torch.tensor(number)
    dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
    return int(smallest)


def from_first(value: T) -> T:
    """What the first process has."""
    if world() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    first: T = box[0]
    return first


def from_all(value: T) -> list[T]:
    """What each process has, in their order."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def together(work: Callable[[], T]) -> T:
    """Run `work` on each process; where it fails on one it fails on all, and the first process says why."""
    if world() == 1:
        return work()
    result: list[T] = []
    failure = None
    try:
        result.append(work())
    except SimclrError as exc:
        failure = exc
    kinds: list[Any] = [None] * world()
    own = None if failure is None else (isinstance(failure, ConfigError), str(failure))
    dist.all_gather_object(kinds, own)
    first = next((kind for kind in kinds if kind is not None), None)
    if first is None:
        return result[0]
    if rank() != 0:
        raise SystemExit(FAILED_ELSEWHERE)
    raise failure or (ConfigError(first[1]) if first[0] else SimclrError(first[1]))


def is_lost_peer(exc: BaseException) -> bool:
    """Whether an error means that another process is gone or does not answer."""
    words = ("gloo", "nccl", "process group", "processgroup", "connection closed by peer", "connection reset")
    return isinstance(exc, dist.DistError) or (
        isinstance(exc, RuntimeError) and world() > 1 and any(word in str(exc).lower() for word in words)
    )
