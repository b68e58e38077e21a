"""Claim: a training step of ours takes in 1.15 times the images a second of the same recipe made of lightly's parts, or more,
and no more memory.

    python benchmarks/step_cpu.py [--rounds N] [--steps N] [--batch N] [--encoder NAME] [--threads N]

ResNet-18 with a small stem at 32 px, LARS, T = 0.5, float32; from decoded images in memory to changed weights. Ours is made of the
functions a run calls, in its order. lightly's is the loop of its SimCLR example: its transform in a DataLoader of two workers,
its head, loss and LARS; once as written, with a forward a view, once with both views in one forward, as ours.
"""

import argparse
import contextlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.utils.lars import LARS
from reporting import Row, in_fresh_process, lost, middle, peak_megabytes, ratio, rounds, short, spread, write
from torch import Tensor, nn
from views_cpu import (
    AHEAD,
    IMAGES,
    SMALL,
    WITHOUT_BLUR,
    WORKERS,
    lightly_small,
    our_batch,
    our_crops,
    small_images,
)

from simclr.cpus import available_cpus
from simclr.encoder import build_encoder, feature_width, wants_small_stem
from simclr.pretrain.batch import Batch
from simclr.pretrain.model import SimCLR
from simclr.pretrain.monitor import contrastive_scores
from simclr.pretrain.norm import RunningStatistics
from simclr.pretrain.optimizer import build_optimizer, set_learning_rate
from simclr.pretrain.quality import gradient_norm
from simclr.pretrain.step import accumulate_gradients, contrast

TEMPERATURE, LEARNING_RATE, WEIGHT_DECAY = 0.5, 0.1, 1e-6
WARM_UP = 1
"""Steps of each process that are not counted. Enough where a step takes longer than the views of a batch (the column `views` is
then near 0): workers replace each batch that is taken. Were it faster, lightly would live on batches made beforehand."""
CONTENDERS = ("simclr", "lightly", "lightly, one forward")


class Stopwatch:
    """Seconds by part of a step."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - began


def encoder_of(options: argparse.Namespace) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    encoder = build_encoder(options.encoder, small_stem=wants_small_stem(options.encoder, SMALL))
    return encoder, feature_width(encoder, SMALL)


# ---- the contenders: each gives a function that does one step


def ours(options: argparse.Namespace, watch: Stopwatch) -> Callable[[int], None]:
    encoder, width = encoder_of(options)
    model = SimCLR(encoder, width=width).to(memory_format=torch.channels_last).train()
    batch_size = options.batch
    optimizer = build_optimizer(
        model, "lars", momentum=0.9, weight_decay=WEIGHT_DECAY, peak=LEARNING_RATE, batch_size=batch_size
    )
    statistics = RunningStatistics(model)
    loader = our_crops(small_images(), batch_size, WARM_UP + options.steps)

    class Watched(Batch):
        def views(self, company: int) -> Tensor:
            with watch.part("views"):
                return super().views(company)

    def step(number: int) -> None:
        with watch.part("views"):
            crops = next(loader)
        set_learning_rate(optimizer, LEARNING_RATE)
        began, views = time.perf_counter(), watch.parts["views"]
        batch = our_batch(crops, number, WITHOUT_BLUR, Watched)
        result = accumulate_gradients(
            model, batch, contrast=partial(contrast, batch_size=batch_size, temperature=TEMPERATURE),
            statistics=statistics, precision=contextlib.nullcontext, seed=number,
        )  # fmt: skip
        taken = time.perf_counter() - began - (watch.parts["views"] - views)
        watch.parts["forward, loss, backward"] = watch.parts.get("forward, loss, backward", 0.0) + taken
        with watch.part("optimiser, scores"):
            gradient_norm(model.parameters()).item()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            z1, z2 = result.unit_ND.chunk(2)
            contrastive_scores(z1, z2, temperature=TEMPERATURE).tolist()
            result.loss.item()

    return step


def lightly(options: argparse.Namespace, watch: Stopwatch, *, one_forward: bool) -> Callable[[int], None]:
    encoder, width = encoder_of(options)
    model = nn.Sequential(encoder, SimCLRProjectionHead(width, width, 128)).train()
    criterion = NTXentLoss(temperature=TEMPERATURE)
    optimizer = LARS(model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY)
    loader = iter(lightly_small(small_images(), options.batch, WARM_UP + options.steps + AHEAD))

    def step(number: int) -> None:
        with watch.part("views"):
            view0, view1 = next(loader)
        with watch.part("forward, loss, backward"):
            if one_forward:
                z0, z1 = model(torch.cat([view0, view1])).chunk(2)
            else:
                z0, z1 = model(view0), model(view1)
            loss = criterion(z0, z1)
            loss.backward()
        with watch.part("optimiser, scores"):
            optimizer.step()
            optimizer.zero_grad()
            loss.item()

    return step


def workers_megabytes() -> float:
    """What the loader's processes hold, pages shared by several counted in parts."""
    total = 0
    for child in multiprocessing.active_children():
        lines = Path(f"/proc/{child.pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / 1e6


def measure_here(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    watch = Stopwatch()
    if options.one == "simclr":
        step = ours(options, watch)
    else:
        step = lightly(options, watch, one_forward=options.one != "lightly")
    for number in range(WARM_UP):
        step(number)
    watch.parts.clear()
    began = time.perf_counter()
    for number in range(WARM_UP, WARM_UP + options.steps):
        step(number)
    seconds = (time.perf_counter() - began) / options.steps
    return {
        "seconds": seconds,
        "peak": peak_megabytes(),
        "workers": workers_megabytes(),
        "parts": {name: spent / options.steps for name, spent in watch.parts.items()},
    }


def all_of_them(options: argparse.Namespace) -> None:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}

    def one(contender: str) -> float:
        words = ["--one", contender]
        for name in ("steps", "batch", "encoder", "threads"):
            words += [f"--{name}", str(getattr(options, name))]
        result = in_fresh_process(words, huge_pages=contender == "simclr")
        found[contender].append(result)
        return options.batch / float(result["seconds"])

    rates = rounds({name: partial(one, name) for name in CONTENDERS}, times=options.rounds + 1)
    rates = {name: values[1:] for name, values in rates.items()}  # the first one warms up
    found = {name: results[1:] for name, results in found.items()}

    rows = [
        f"| {name} | {spread(rates[name])} | {ratio(rates['simclr'], rates[name]):.2f} | {middle_of(found[name], 'peak'):,.0f} | "
        f"{middle_of(found[name], 'workers'):,.0f} |"
        for name in CONTENDERS
    ]
    parts = list(found["simclr"][0]["parts"])
    spent = [
        f"| {name} | " + " | ".join(f"{median(r['parts'][p] for r in found[name]):.3f}" for p in parts) + " |"
        for name in CONTENDERS
    ]
    write(
        "step_cpu",
        claim="A SimCLR training step on the CPU against lightly's",
        data=f"{IMAGES} drawn images of 32x32, decoded, in memory",
        packages=["torch", "torchvision", "timm", "lightly"],
        body=(
            f"{options.encoder} at {SMALL} px, batch {options.batch}, float32, LARS, {options.threads} threads.\n\n"
            "| | images/s | simclr is | peak of the process, MB | its workers, MB |\n|---|---|---|---|---|\n"
            + "\n".join(rows)
            + f"\n\nSeconds of a step:\n\n| | {' | '.join(parts)} |\n|---|{'---|' * len(parts)}\n"
            + "\n".join(spent)
            + f"\n\nMedian (range) of {options.rounds} rounds in turn; each contender in a fresh process, {options.steps} steps after "
            f"{WARM_UP}. Only ours asks for huge pages, as its runs do, and keeps the contrastive scores and the gradient's length. "
            f"lightly's {WORKERS} workers make views on the same cores while its step computes, so `views` is the wait alone and the "
            "other columns hold their share of the cores; workers' memory is proportional (PSS). Ours makes views in the step itself."
        ),
        rows=summary(rates, found, options),
        figures=found,
    )


def middle_of(results: list[dict[str, Any]], key: str) -> float:
    return median(result[key] for result in results)


def summary(
    rates: dict[str, list[float]], found: dict[str, list[dict[str, Any]]], options: argparse.Namespace
) -> list[Row]:
    ours, *peers = CONTENDERS
    faster = [ratio(rates[ours], rates[peer]) for peer in peers]
    parts = [result["parts"] for result in found[ours]]
    computing = median(each["forward, loss, backward"] / sum(each.values()) for each in parts)
    peak, workers = (
        {name: middle_of(found[name], key) for name in CONTENDERS} for key in ("peak", "workers")
    )
    memory = {name: f"{short(peak[name])} + {short(workers[name])} MB" for name in CONTENDERS}
    two, one = (middle(rates[peer]) for peer in peers)
    return [
        Row(
            f"a whole training step, {options.encoder} at {SMALL} px, B {options.batch}, {options.threads} cores: images/s",
            middle(rates[ours]),
            f"lightly's transform, loss, LARS {two} (a forward a view); {one} (one forward, as ours)",
            "; ".join(f"{short(each)}{lost(each < 1.15, 'below the 1.15 asked')}" for each in faster),
            f"a forward and backward is {100 * computing:.0f} % of it",
        ),
        Row(
            "the same: peak memory of the process, and of its workers",
            memory[ours],
            "; ".join(memory[peer] for peer in peers),
            "; ".join(f"{short(peak[ours] / peak[peer])}{lost(peak[ours] > peak[peer])}" for peer in peers)
            + " without workers",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="counted ones; one more warms up")
    parser.add_argument("--steps", type=int, default=4, help="counted ones of each process")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--encoder", default="resnet18", help="timm name")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="of torch")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_here(options)), flush=True)
    else:
        all_of_them(options)


if __name__ == "__main__":
    main()
