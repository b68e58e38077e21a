"""Claim: forward + backward of nt_xent at B 4096, D 128 on CPU takes at most half the time and a fifth of the
extra memory of lightly's NTXentLoss, at the same loss and gradient."""

import subprocess
import sys
import time
from pathlib import Path

import torch
from lightly.loss import NTXentLoss
from reporting import Row, lost, middle, peak_megabytes, ratio, rounds, short, spread, write

from simclr.cpus import available_cpus
from simclr.pretrain import nt_xent

B, D, TEMPERATURE, ROUNDS = 4096, 128, 0.1, 7

LOSSES = {
    "simclr": lambda a, b: nt_xent(a, b, temperature=TEMPERATURE),
    "lightly": NTXentLoss(temperature=TEMPERATURE),
}


def projections(count: int = B) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randn(2, count, D, generator=torch.Generator().manual_seed(0))
    return z[0].clone().requires_grad_(), z[1].clone().requires_grad_()


def seconds(name: str) -> float:
    a, b = projections()
    started = time.perf_counter()
    LOSSES[name](a, b).backward()
    return time.perf_counter() - started


def extra_megabytes(name: str, count: int = B) -> float:
    """Growth of the peak resident set over a small batch, in a fresh process."""
    words = [sys.executable, __file__, name, str(count)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure_memory(name: str, count: int) -> None:
    LOSSES[name](*projections(64)).backward()
    z = projections(count)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = peak_megabytes()
    LOSSES[name](*z).backward()
    print(peak_megabytes() - before)


def main() -> None:
    torch.set_num_threads(available_cpus())
    grads = {}
    for name in LOSSES:
        a, b = projections()
        loss = LOSSES[name](a, b)
        loss.backward()
        grads[name] = (loss.item(), a.grad)
    difference = (grads["simclr"][1] - grads["lightly"][1]).abs().max() / grads["lightly"][1].abs().max()
    time_taken = rounds({name: lambda name=name: seconds(name) for name in LOSSES}, times=ROUNDS)
    memory = rounds({name: lambda name=name: extra_megabytes(name) for name in LOSSES}, times=3)
    time_ratio = ratio(time_taken["simclr"], time_taken["lightly"])
    memory_ratio = ratio(memory["simclr"], memory["lightly"])
    rows = "\n".join(f"| {name} | {spread(time_taken[name])} | {spread(memory[name])} |" for name in LOSSES)
    peaks = {count: extra_megabytes("simclr", count) for count in (4096, 8192, 16384)}
    sizes = {count: f"{peak:.0f}" for count, peak in peaks.items()} | {65536: "not run"}
    larger = "\n".join(
        f"| {count:,} | {peak} | {6 * 2 * count * D * 4 / 1e6:.0f} | {(2 * count) ** 2 * 4 / 1e6:,.0f} |"
        for count, peak in sizes.items()
    )
    write(
        "nt_xent_cpu",
        claim="NT-Xent forward + backward on CPU against lightly",
        data=f"random projections, B {B}, D {D}, float32, temperature {TEMPERATURE}",
        packages=["torch", "lightly"],
        body=(
            f"| | seconds | extra peak memory, MB |\n|---|---|---|\n{rows}\n"
            f"| simclr / lightly | {time_ratio:.2f} | {memory_ratio:.3f} |\n\n"
            f"Median (range) of {ROUNDS} and 3 rounds, taken in turn. Losses {grads['simclr'][0]:.6f} and "
            f"{grads['lightly'][0]:.6f}; largest difference of gradients {difference:.1e} of the largest entry. "
            f"The full matrix would be {(2 * B) ** 2 * 4 / 1e6:.0f} MB.\n\n"
            "## Memory of larger batches\n\n| B | extra peak memory of simclr, MB | six matrices of (2B, D), MB | the full matrix, MB |\n"
            f"|---|---|---|---|\n{larger}\n\nSix matrices are what torch allocates besides blocks that do not grow (tests/pretrain/test_loss.py "
            "counts them)."
        ),
        rows=[
            Row(
                f"NT-Xent forward + backward, B {B}, D {D}, {available_cpus()} cores: time",
                f"{middle(time_taken['simclr'])} s",
                f"lightly {middle(time_taken['lightly'])} s",
                short(time_ratio) + lost(time_ratio > 0.5, "more than the half asked"),
            ),
            Row(
                "the same: extra peak memory",
                f"{middle(memory['simclr'])} MB",
                f"lightly {middle(memory['lightly'])} MB",
                short(memory_ratio) + lost(memory_ratio > 0.2, "more than the fifth asked"),
                f"the matrix itself is {(2 * B) ** 2 * 4 / 1e6:.0f} MB",
            ),
        ],
        figures={
            "seconds": time_taken,
            "extra MB": memory,
            "extra MB of simclr by batch": peaks,
            "losses": {name: loss for name, (loss, _) in grads.items()},
            "largest difference of gradients": difference.item(),
        },
    )


if __name__ == "__main__":
    measure_memory(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else main()
