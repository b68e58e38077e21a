"""Claim: a step in chunks takes at most 1.45 times as long per image as one in one piece, and memory falls with the chunk.

Contenders are one training step each (views, both passes, LARS), by the functions a run uses.
"""

import contextlib
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from reporting import Row, lost, middle, peak_megabytes, ratio, rounds, short, spread, write

from simclr.cpus import available_cpus
from simclr.encoder import build_encoder, feature_width
from simclr.pretrain.batch import Batch
from simclr.pretrain.config import Augmentation
from simclr.pretrain.lars import LARS, lars_groups
from simclr.pretrain.memory import measure
from simclr.pretrain.model import SimCLR
from simclr.pretrain.norm import RunningStatistics
from simclr.pretrain.step import accumulate_gradients, contrast

CASES = {"resnet18 at 32 px": ("resnet18", 32, 256), "resnet50 at 224 px": ("resnet50", 224, 16)}
"""Encoder, pixels, batch."""
ROUNDS = 3


class Step:
    """One training step of a case, with its batch in memory."""

    def __init__(self, case: str, *, recompute: bool = False) -> None:
        name, self.size, self.batch = CASES[case]
        torch.manual_seed(0)
        encoder = build_encoder(name, small_stem=self.size <= 64)
        encoder.set_grad_checkpointing(recompute)
        self.model = SimCLR(encoder, width=feature_width(encoder, self.size))
        self.model.to(memory_format=torch.channels_last).train()
        self.optimizer = LARS(lars_groups(self.model, weight_decay=1e-6), lr=0.1)
        self.statistics = RunningStatistics(self.model)
        shape = (2, self.batch, self.size, self.size, 3)
        self.crops = torch.randint(
            0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8
        )

    def __call__(self, chunk: int) -> None:
        batch = Batch(
            self.crops, seed=0, step=0, batch_size=self.batch, chunk=chunk, augmentation=Augmentation(),
            mean=torch.full((1, 3, 1, 1), 0.45), std=torch.full((1, 3, 1, 1), 0.25),
        )  # fmt: skip
        accumulate_gradients(
            self.model, batch, contrast=partial(contrast, batch_size=self.batch, temperature=0.1),
            statistics=self.statistics, precision=contextlib.nullcontext, seed=0,
        )  # fmt: skip
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def estimate(self, chunk: int) -> float:
        """What the run would say that it needs, in MB."""
        noise = partial(torch.rand, 3, self.size, self.size)
        with self.statistics.untouched():
            need = measure(
                self.model,
                lambda views: self.model(torch.stack([noise()] * views)),
                image_size=self.size,
                projection=128,
            )
        views = 2 * self.batch if chunk == self.batch else min(self.batch, 2 * chunk)
        return need.of(images=self.batch, views=views) / 1e6


def measure_here(case: str, chunk: int, recompute: bool) -> None:
    """In a fresh process: the peak of its first step above what was there before, and the estimate."""
    torch.set_num_threads(available_cpus())
    step = Step(case, recompute=recompute)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = peak_megabytes()
    step(chunk)
    print(json.dumps([peak_megabytes() - before, step.estimate(chunk)]))


def memory(case: str, chunk: int, recompute: bool) -> tuple[float, float]:
    words = [sys.executable, __file__, case, str(chunk), str(int(recompute))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    peak, estimate = json.loads(done.stdout)
    return peak, estimate


def main() -> None:
    torch.set_num_threads(available_cpus())
    tables, figures = [], {}
    for case, (_, _, batch) in CASES.items():
        plain, recomputing = Step(case), Step(case, recompute=True)
        contenders = {(batch // part, False): plain for part in (1, 2, 4, 8)} | {(batch, True): recomputing}

        def seconds(chunk: int, step: Step) -> float:
            started = time.perf_counter()
            step(chunk)
            return time.perf_counter() - started

        taken = rounds(
            {key: partial(seconds, key[0], step) for key, step in contenders.items()}, times=ROUNDS + 1
        )
        taken = {key: values[1:] for key, values in taken.items()}  # the first one warms up
        whole = taken[batch, False]
        rows, figures[case] = [], {}
        for (chunk, recompute), values in taken.items():
            peak, estimate = memory(case, chunk, recompute)
            name = f"{'recompute' if recompute else f'chunk {chunk}'}"
            rows.append(
                f"| {name} | {spread(values)} | {ratio(values, whole):.2f} | {peak:,.0f} | {estimate:,.0f} |"
            )
            figures[case][name] = {"seconds": values, "extra MB": peak, "estimate, MB": estimate}
        tables.append(
            f"## {case}, batch {batch}\n\n| | seconds a step | time / one piece | extra peak, MB | estimate, MB |\n"
            "|---|---|---|---|---|\n" + "\n".join(rows)
        )
    write(
        "chunked_cpu",
        claim="A training step in chunks against one in one piece, on CPU",
        data="random crops, float32, random weights; views are made anew for each pass",
        packages=["torch", "timm"],
        body="\n\n".join(tables)
        + f"\n\nMedian (range) of {ROUNDS} rounds, taken in turn in one process. Peak: growth of the resident set over the first step of a "
        "fresh process, which has the weights and crops already; the estimate is what a run prints before its first step and counts "
        "weights, gradients, momenta and crops, too. A step repeats the forward of all chunks but the last: 1/2, 3/4 and 7/8 of "
        "a third of a step where a forward is a third of one.",
        rows=summary(figures),
        figures=figures,
    )


def summary(figures: dict[str, dict[str, Any]]) -> list[Row]:
    rows = []
    for case, found in figures.items():
        batch = CASES[case][2]
        whole, *parts = (found[f"chunk {batch // part}"] for part in (1, 2, 4, 8))
        longer = [ratio(part["seconds"], whole["seconds"]) for part in parts]
        step = "the same" if rows else "a training step in chunks of 1/2, 1/4, 1/8 of the batch"
        rows += [
            Row(
                f"{step}, {case}, B {batch}, {available_cpus()} cores: time against one piece",
                f"{', '.join(middle(part['seconds']) for part in parts)} s",
                f"in one piece {middle(whole['seconds'])} s",
                ", ".join(map(short, longer)) + lost(max(longer) > 1.45, "more than the 1.45 asked"),
            ),
            Row(
                "the same: extra peak memory",
                f"{', '.join(short(part['extra MB']) for part in parts)} MB",
                f"in one piece {short(whole['extra MB'])} MB",
                ", ".join(short(part["extra MB"] / whole["extra MB"]) for part in parts),
            ),
        ]
    return rows


if __name__ == "__main__":
    measure_here(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1") if len(sys.argv) > 1 else main()
