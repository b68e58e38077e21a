"""Start several processes of one run on this machine: `--processes N`, and the gradient proof.

What torchrun does for many machines, for one, without its banners: signals are passed on, the first failure ends all.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from simclr.errors import SimclrError

FAILED_ELSEWHERE = 99
"""Exit code of a process that ends because another failed, which then says why."""
_LAUNCHER = "SIMCLR_LAUNCHER"
_LAST_WORDS = 30.0
"""Seconds the other processes get to end by themselves after one failed."""


def is_one_of_several() -> bool:
    """Whether `run_processes` or torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_watched() -> bool:
    """Whether `run_processes` started this process, and says what becomes of the others."""
    return _LAUNCHER in os.environ


def is_first() -> bool:
    """Whether this process is the one that speaks."""
    return os.environ.get("RANK", "0") == "0"


def launcher_is_gone() -> bool:
    """Whether the launcher of this process has died, so that nobody passes signals on any more."""
    return os.environ.get(_LAUNCHER, str(os.getppid())) != str(os.getppid())


def go_on(folder: Path) -> str:
    """How to continue a run that has stopped, as it was started."""
    if is_one_of_several() and not is_watched():
        return f"Go on by starting it again as before, with --resume --out {folder}"
    processes = f" --processes {os.environ['WORLD_SIZE']}" if is_watched() else ""
    return f"Go on with: simclr pretrain --resume --out {folder}{processes}"


def run_processes(count: int, arguments: Sequence[str], *, folder: Path) -> int:
    """Run `simclr ARGUMENTS` as `count` processes that train together; returns the exit code.

    Ctrl-C and SIGTERM go to all of them. Raises SimclrError if one is killed; `folder` is the run's.
    """
    environment = os.environ | meeting_place(count) | {_LAUNCHER: str(os.getpid())}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "simclr", *arguments],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            start_new_session=True,  # a terminal's Ctrl-C then reaches them once, through us
        )
        for rank in range(count)
    ]

    def pass_on(number: int, frame: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        failed = _watch(processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed is None:
        return 0
    code = processes[failed].returncode
    if code < 0 or code == FAILED_ELSEWHERE:
        fate = f"was killed ({signal.Signals(-code).name})" if code < 0 else "lost the others"
        raise SimclrError(
            f"{folder}: process {failed} of {count} {fate}. "
            f"Go on with: simclr pretrain --resume --out {folder} --processes {count}"
        )
    return code


def _watch(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Wait until all have ended, or one failed and the others had time to end, too; the number of the one to blame."""
    deadline: float | None = None
    while any(process.poll() is None for process in processes):
        if deadline is None and _worst(processes) is not None:
            deadline = time.monotonic() + _LAST_WORDS
        if deadline is not None and time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return _worst(processes)


def _worst(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Which of the ended processes to blame: a killed one, else one that failed by itself, else any that failed."""
    codes = [(process.returncode, number) for number, process in enumerate(processes) if process.poll()]
    for blamed in (lambda c: c < 0, lambda c: c != FAILED_ELSEWHERE, lambda c: True):
        for code, number in codes:
            if blamed(code):
                return number
    return None


def start_together(count: int, work: Callable[[], None]) -> list[BaseProcess]:
    """Start `work`, a function that can be pickled, in `count` fresh processes that can form a group.

    They are forked from a server that has only loaded torch and timm, which takes seconds, so starting takes none.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["simclr.pretrain.train"])
    environment = meeting_place(count)
    processes: list[BaseProcess] = [
        context.Process(target=_as_rank, args=(rank, environment, work)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def _as_rank(rank: int, environment: dict[str, str], work: Callable[[], None]) -> None:
    os.environ |= environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    work()


def meeting_place(count: int) -> dict[str, str]:
    """The environment by which `count` processes of this machine find one another, as torchrun would set it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
