"""What a run is going to do, before it does anything: `simclr pretrain --dry-run`. Writes nothing."""

import time
from pathlib import Path

import torch
from torch import Tensor

from simclr.pretrain import distributed
from simclr.pretrain.companies import companies_of_a_kind
from simclr.pretrain.config import PretrainConfig, interval, to_toml
from simclr.pretrain.device import device_and_dtype
from simclr.pretrain.prepare import prepare
from simclr.pretrain.setup import Setup, trial

_TRIAL_VIEWS = 64
"""Most views of the passes that the estimate of time rests on."""


def dry_run(config: PretrainConfig, folder: Path, *, resume: bool) -> tuple[str, list[str]]:
    """The resolved settings as TOML, and sentences about steps, batches, memory and time.

    Raises what a run would raise before its first step.
    """
    device, dtype = device_and_dtype(config)
    lines: list[str] = []
    setup = prepare(config, folder, device, dtype, resume=resume, say=lines.append)
    if setup.finished:
        lines.append(f"{folder} is finished: {setup.steps} of {setup.steps} steps done")
    else:
        lines += [_steps(setup), _rate(setup), _batch(setup), _when(setup)]
    return to_toml(setup.config), lines


def _steps(setup: Setup) -> str:
    images = len(setup.dataset)
    left = f"; {setup.state.step:,} are done" if setup.state else ""
    return (
        f"steps: {setup.steps:,} of {setup.batch_size:,} images: {setup.config.epochs} epochs of {images:,} images, "
        f"{2 * setup.steps * setup.batch_size:,} views{left}"
    )


def _rate(setup: Setup) -> str:
    config = setup.config
    scaled = {
        "linear": f"{config.base_lr:g} x B/256",
        "sqrt": f"{config.base_lr:g} x sqrt(B)",
        "none": "as given",
    }
    return (
        f"learning rate: rises to {setup.peak:.4g} ({scaled[config.lr_scaling]}) over {setup.warmup:,} steps, then falls to 0 along "
        f"a cosine; {config.optimizer}"
    )


def _batch(setup: Setup) -> str:
    batch, companies = setup.batch_size, companies_of_a_kind(setup.batch_size, setup.chunk)
    rivals = 2 * batch - (2 if setup.config.loss == "dcl" else 1)
    through = (
        "all go through the encoder together"
        if setup.chunk >= batch
        else f"they go through the encoder as {2 * companies} companies of about {batch // companies:,} first or second views, "
        f"and all but the last one twice"
    )
    return f"batch: {2 * batch:,} views, each compared with {rivals:,} others; {through}"


def _when(setup: Setup) -> str:
    """From a forward and backward of a few views on this device; decoding and the other processes are not in it."""
    views = min(_TRIAL_VIEWS, 2 * setup.chunk)
    forward = trial(setup)
    weights = [w for w in setup.model.parameters() if w.requires_grad]

    def once() -> float:
        started = time.perf_counter()
        loss: Tensor = forward(views).float().sum()
        torch.autograd.grad(loss, weights, allow_unused=True)
        if setup.device.type == "cuda":
            torch.cuda.synchronize(setup.device)
        return time.perf_counter() - started

    with setup.statistics.untouched():
        seconds = min(once() for _ in range(3)) / views
    repeated = 1.33 if setup.chunk < setup.batch_size else 1.0  # one more forward of all chunks but the last
    left = setup.steps - (setup.state.step if setup.state else 0)
    total = seconds * repeated * 2 * setup.batch_size * left / distributed.world()
    every, apart = interval("checkpoint_every", setup.config.checkpoint_every)
    saved = f"{every:,} steps" if every else f"{apart / 60:g} minutes"
    return (
        f"time: about {_duration(total)} by a trial of {views} views ({1 / seconds:,.0f} views/s), where decoding keeps up; a checkpoint "
        f"every {saved} in {setup.folder}"
    )


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"
