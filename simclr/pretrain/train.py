"""The loop: build, step, record, save. The only place of pretraining with devices, a run folder and time.

Takes a PretrainConfig and gives a run folder: config.toml, metrics.jsonl, TensorBoard events, report.html,
checkpoints/, encoder.safetensors and encoder.json. Reads top to bottom.
"""

import dataclasses
import datetime
import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from simclr.artifacts import EncoderInfo, write_atomically
from simclr.cpus import available_cpus
from simclr.encoder import (
    build_encoder,
    default_recipe,
    feature_width,
    load_weights,
    save_encoder,
    wants_small_stem,
    weights_sha256,
)
from simclr.errors import ConfigError, SimclrError, reason
from simclr.pretrain.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from simclr.pretrain.config import PretrainConfig, from_toml, resolve_batch_size, to_toml
from simclr.pretrain.data import TwoCrops, batches
from simclr.pretrain.lars import LARS, lars_groups
from simclr.pretrain.loss import nt_xent
from simclr.pretrain.model import SimCLR
from simclr.pretrain.monitor import contrastive_top1
from simclr.pretrain.record import Recorder, write_report
from simclr.pretrain.schedule import learning_rate, peak_learning_rate, total_steps, warmup_steps
from simclr.pretrain.views import draw, recolour
from simclr.sources import list_images
from simclr.stopping import stop_requests

CONFIG_FILE = "config.toml"
RUNS = Path("runs")

_RECOLOURED = 512
"""Views recoloured at a time; bounds the temporaries."""
_FREE_TO_CHANGE = frozenset(("data", "device", "workers", "threads", "checkpoint_every"))
"""Settings that a resumed run may change: they decide where and how fast it runs, not what it computes."""

Progress = Callable[[int, int, str], None]
"""Called with images done, images in all, and a few words."""


def run(
    config: PretrainConfig,
    *,
    out: Path | None = None,
    resume: bool = False,
    progress: Progress = lambda done, total, words: None,
    note: Callable[[str], None] = lambda line: None,
) -> Path:
    """Pretrain an encoder; returns the run folder, `out` or a new one below `runs/`.

    Raises ConfigError (settings, or a run that exists already), ImageError (no images), ArtifactError (damaged
    checkpoint), SimclrError (the loss is no longer a number). Ctrl-C or SIGTERM ends the current step, writes a
    checkpoint and raises KeyboardInterrupt.
    """
    # ---- settings and data
    data = Path(config.data)
    if (data / "train").is_dir():
        data = data / "train"
        note(f"reading {data}")
    paths = list_images(data)
    config = _resolved(config, images=len(paths), note=note)
    device, dtype = _device_and_dtype(config)
    torch.set_num_threads(config.threads or available_cpus())
    folder = out or RUNS / f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}-{config.encoder}"
    _check_folder(folder, config, resume=resume)

    # ---- model, optimiser, schedule
    torch.manual_seed(config.seed)
    encoder = build_encoder(config.encoder, small_stem=bool(config.small_stem))
    if config.weights:
        load_weights(encoder, Path(config.weights))
    width = feature_width(encoder, config.image_size)
    model = SimCLR(encoder, width=width, layers=config.head_layers, out=config.head_out)
    model.to(device).to(memory_format=torch.channels_last).train()
    optimizer = LARS(lars_groups(model, weight_decay=config.weight_decay), lr=0.0, momentum=config.momentum)

    assert config.batch_size is not None
    batch = config.batch_size
    steps = total_steps(len(paths), batch_size=batch, epochs=config.epochs)
    warmup = warmup_steps(len(paths), batch_size=batch, epochs=config.epochs * config.warmup_fraction)
    peak = peak_learning_rate(config.base_lr, batch_size=batch, scaling=config.lr_scaling)

    # ---- where a stopped run goes on
    data_sha256 = hashlib.sha256("\n".join(paths).encode()).hexdigest()
    first = 0
    if resume and (newest := latest_checkpoint(folder / "checkpoints")):
        state = load_checkpoint(newest)
        if state.data_sha256 != data_sha256:
            raise ConfigError(
                f"{data}: its images are not those that {folder} was started on. Restore them, or use a new --out."
            )
        model.load_state_dict(state.model)
        optimizer.load_state_dict(state.optimizer)
        first = state.step
        if first >= steps:
            note(f"{folder} is finished: {steps} of {steps} steps done")
            return folder
        note(f"resuming at step {first}")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(
        folder / CONFIG_FILE, lambda temporary: temporary.write_text(to_toml(config), encoding="utf-8")
    )

    recipe = default_recipe(config.encoder, image_size=config.image_size)
    mean = torch.tensor(recipe.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(recipe.std, device=device).view(1, 3, 1, 1)
    parents = {"run": folder.name, "data": data.name, "images": len(paths), "steps": steps}
    recorder = Recorder(folder, first_step=first, note=note)
    pending: list[tuple[int, float, Tensor, Tensor, float]] = []
    unreadable: dict[str, str] = {}

    def record() -> None:
        """Read back what the device has finished: the one place where the loop waits for it."""
        for step, lr, loss, top1, seconds in pending:
            metrics = {"step": step, "loss": loss.item(), "top1": top1.item(), "lr": lr, "seconds": seconds}
            if not math.isfinite(metrics["loss"]):
                raise SimclrError(
                    f"{folder}: the loss is {metrics['loss']} at step {step}. Start a new run with base_lr below "
                    f"{config.base_lr:g}, or a longer warmup_fraction."
                )
            recorder.write(metrics)
            words = f"loss {metrics['loss']:.3f}  top-1 {metrics['top1']:.1%}"
            progress((step + 1) * batch, steps * batch, words)
        pending.clear()

    def save(step: int) -> None:
        """The checkpoint comes last: a kill in between means doing these steps again, not an old encoder."""
        record()
        info = EncoderInfo(
            name=config.encoder,
            small_stem=bool(config.small_stem),
            width=width,
            weights_sha256=weights_sha256(encoder.state_dict()),
            recipe=recipe,
            parents=parents | {"step": step},
        )
        save_encoder(folder, encoder, info)
        settings = to_toml(config)
        write_report(folder, title=f"{folder.name}: step {step} of {steps}", settings=settings, note=note)
        save_checkpoint(
            folder / "checkpoints", step=step, data_sha256=data_sha256, model=model, optimizer=optimizer
        )

    # ---- the loop
    dataset = TwoCrops(
        data,
        paths,
        seed=config.seed,
        batch_size=batch,
        size=config.image_size,
        augmentation=config.augmentation,
    )
    workers = min(16, available_cpus()) if config.workers is None else config.workers
    loader = batches(dataset, steps=range(first, steps), workers=workers, pin=device.type == "cuda")
    step = saved = first
    try:
        with stop_requests() as stop:
            started = time.perf_counter()
            for step in range(first, steps):
                crops = next(loader)
                for path, why in crops.unreadable:
                    if path not in unreadable:
                        unreadable[path] = why
                        note(f"skipped {path}: {why}")
                lr = learning_rate(step, peak=peak, warmup_steps=warmup, total_steps=steps)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                torch.manual_seed(_step_seed(config.seed, step))  # for dropout, where an encoder has it
                views = _views(crops.pixels, config, step, device)
                views = ((views - mean) / std).contiguous(memory_format=torch.channels_last)
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    z1, z2 = model(views).chunk(2)
                loss = nt_xent(z1, z2, temperature=config.temperature)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimizer.step()
                now = time.perf_counter()
                pending.append((step, lr, loss.detach(), contrastive_top1(z1, z2), now - started))
                started = now
                if device.type == "cpu" or len(pending) >= 10:
                    record()
                if (step + 1) % config.checkpoint_every == 0:
                    save(saved := step + 1)
                if stop.is_set():
                    if saved != step + 1:
                        save(step + 1)
                    note(
                        f"stopped after step {step + 1} of {steps}. Go on with: simclr pretrain --resume --out {folder}"
                    )
                    raise KeyboardInterrupt
            if saved != steps:
                save(steps)
    except torch.OutOfMemoryError as exc:
        raise SimclrError(
            f"{device}: out of memory at batch size {batch}, {config.image_size} pixels. Use a smaller --batch-size."
        ) from exc
    finally:
        loader.close()
        recorder.close()
    return folder


def _views(pixels: Tensor, config: PretrainConfig, step: int, device: torch.device) -> Tensor:
    """uint8 crops (2, B, H, W, C) of the loader -> views (2B, C, H, W) float32 in 0..1 on the device."""
    assert config.batch_size is not None
    draws = draw(config.seed, step, batch_size=config.batch_size, augmentation=config.augmentation)
    crops = pixels.to(device, non_blocking=True).flatten(0, 1)
    starts = range(0, len(crops), _RECOLOURED)
    return torch.cat([recolour(crops[i : i + _RECOLOURED], draws.rows(i, i + _RECOLOURED)) for i in starts])


def _resolved(config: PretrainConfig, *, images: int, note: Callable[[str], None]) -> PretrainConfig:
    """Every setting that was left open gets the value this run uses."""
    batch_size = resolve_batch_size(config.batch_size, images)
    if config.batch_size is None and batch_size == images:
        note(f"batch size {batch_size}: all images of this set")
    small_stem = config.small_stem
    if small_stem is None:
        small_stem = wants_small_stem(config.encoder, config.image_size)
    return dataclasses.replace(config, batch_size=batch_size, small_stem=small_stem)


def _device_and_dtype(config: PretrainConfig) -> tuple[torch.device, torch.dtype]:
    """Where and in which precision to run. Raises ConfigError for a device that is not there."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as exc:
        raise ConfigError(
            f"device {config.device!r} cannot be used ({reason(exc)}). Use --device cpu."
        ) from exc
    bf16 = config.precision == "bf16" or (
        config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    return device, torch.bfloat16 if bf16 else torch.float32


def _check_folder(folder: Path, config: PretrainConfig, *, resume: bool) -> None:
    """Raises ConfigError unless the folder is new, or holds this run and is to be resumed."""
    saved = folder / CONFIG_FILE
    if not saved.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder}: exists and is no run. Use another --out.")
        return
    if not resume:
        raise ConfigError(f"{folder}: a run exists there. Continue it with --resume, or use another --out.")
    before = from_toml(saved.read_text(encoding="utf-8"), where=saved)
    changed = [
        f"{f.name} {getattr(before, f.name)!r} -> {getattr(config, f.name)!r}"
        for f in dataclasses.fields(config)
        if f.name not in _FREE_TO_CHANGE and getattr(before, f.name) != getattr(config, f.name)
    ]
    if changed:
        raise ConfigError(
            f"{folder}: was started with other settings ({'; '.join(changed)}). Resume without them, or use another --out."
        )


def saved_config(folder: Path) -> PretrainConfig | None:
    """The settings of the run in this folder, None where there is no run."""
    path = folder / CONFIG_FILE
    return from_toml(path.read_text(encoding="utf-8"), where=path) if path.exists() else None


def newest_run(runs: Path = RUNS) -> Path | None:
    """The run below `runs` that was started or saved last, None where there is none."""
    candidates = [path.parent for path in runs.glob(f"*/{CONFIG_FILE}")]
    return max(candidates, key=lambda folder: folder.stat().st_mtime, default=None)


def _step_seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {step}".encode()).digest()[:7])
