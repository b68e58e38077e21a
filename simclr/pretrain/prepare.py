"""A config -> the Setup of its run: images opened, model and optimiser built, a stopped run's state found. Writes nothing.

Finds out what is wrong before anything is written, and says what memory the steps will need. On several processes, each
does this for itself, and all fail together if one does.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from simclr.encoder import build_encoder, default_recipe, feature_width, wants_small_stem
from simclr.errors import ConfigError
from simclr.preprocess import Recipe
from simclr.pretrain import distributed, memory
from simclr.pretrain.cache import plan_cache
from simclr.pretrain.checkpoint import TrainingState, newest_whole_checkpoint
from simclr.pretrain.chunk import choose_chunk, measure_need
from simclr.pretrain.config import PretrainConfig, resolve_batch_size, to_toml
from simclr.pretrain.data import TwoCrops
from simclr.pretrain.evaluation import Evaluation
from simclr.pretrain.labels import labels_of, read_labelled
from simclr.pretrain.model import SimCLR, recompute_blocks
from simclr.pretrain.norm import RunningStatistics, over_all_processes
from simclr.pretrain.optimizer import build_optimizer
from simclr.pretrain.run_folder import check_folder, saved_config
from simclr.pretrain.schedule import peak_learning_rate, total_steps, warmup_steps
from simclr.pretrain.setup import Setup
from simclr.sources import Collection, open_collection
from simclr.weights import start_from

Say = Callable[[str], None]


def prepare(
    config: PretrainConfig, folder: Path, device: torch.device, dtype: torch.dtype, *, resume: bool, say: Say
) -> Setup:
    """Build a run, or find out how one goes on. Writes nothing.

    Raises ConfigError (settings, or a run that exists already), ImageError (no images), ArtifactError (checkpoints or
    weights).
    """
    # ---- settings, images and encoder
    source = config.data
    if (Path(source) / "train").is_dir():
        source = str(Path(source) / "train")
        say(f"reading {source}")
    images, config, encoder = distributed.together(
        lambda: _settings_and_encoder(config, source, folder, resume=resume, say=say)
    )
    data_sha256 = images.sha256
    width = distributed.together(
        partial(
            _check_group,
            config,
            encoder,
            same_data=distributed.from_first(data_sha256) == data_sha256,
            same_settings=distributed.from_first(_what_decides(config)) == _what_decides(config),
        )
    )

    # ---- where a stopped run goes on; its checkpoint holds all weights, so that those it began with may be gone
    state = distributed.from_first(
        distributed.together(lambda: _newest(folder, source, data_sha256, say) if resume else None)
    )
    if state is None and config.weights:
        distributed.together(partial(_start_from, encoder, config.weights, say))

    # ---- labels
    recipe = default_recipe(config.encoder, image_size=config.image_size)
    evaluation, (labels, classes) = distributed.together(
        lambda: (_evaluation(config, recipe, say), _labels(config, source, images, say))
    )

    # ---- model and optimiser
    encoder.to(device)
    plain = SimCLR(encoder, width=width, layers=config.head_layers, out=config.head_out, classes=len(classes))
    model = over_all_processes(plain, device).to(device).to(memory_format=torch.channels_last).train()
    batch_size, count = config.batch_size, len(images.names)
    assert batch_size is not None
    peak = peak_learning_rate(config.base_lr, batch_size=batch_size, scaling=config.lr_scaling)
    dataset = TwoCrops(
        images,
        seed=config.seed,
        batch_size=batch_size,
        size=config.image_size,
        augmentation=config.augmentation,
    )
    setup = Setup(
        config=config,
        folder=folder,
        device=device,
        dtype=dtype,
        dataset=dataset,
        data_sha256=data_sha256,
        batch_size=batch_size,
        chunk=batch_size,
        steps=total_steps(count, batch_size=batch_size, epochs=config.epochs),
        model=model,
        optimizer=build_optimizer(
            model,
            config.optimizer,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            peak=peak,
            batch_size=batch_size,
        ),
        peak=peak,
        warmup=warmup_steps(count, batch_size=batch_size, epochs=config.epochs * config.warmup_fraction),
        cache=None,
        need=None,
        free=0,
        evaluation=evaluation,
        labels=labels,
        statistics=RunningStatistics(model),
        width=width,
        recipe=recipe,
        state=state,
    )
    if setup.finished:
        return setup

    # ---- memory
    cache = distributed.together(
        lambda: plan_cache(
            dataset, config.cache, device=device, free=memory.available, size=config.cache_size
        )
    )
    free = memory.available(device) - (cache.bytes if cache and cache.home == device else 0)
    setup = dataclasses.replace(setup, cache=cache, need=measure_need(setup), free=free)
    before = saved_config(folder)
    chunk = choose_chunk(setup, before=before, say=say)
    if cache is not None:
        say(cache.words)
    # a chunk that memory has halved is the checkpoint's; config.toml keeps what was asked for
    kept = before is not None and state is not None and state.chunk == chunk
    config = dataclasses.replace(
        config, chunk=before.chunk if before and kept else chunk, cache=cache.mode if cache else "none"
    )
    return dataclasses.replace(setup, config=config, chunk=chunk)


def _settings_and_encoder(
    config: PretrainConfig, source: str, folder: Path, *, resume: bool, say: Say
) -> tuple[Collection, PretrainConfig, nn.Module]:
    """The images, the settings with all but `chunk` resolved, and the encoder with its first weights."""
    images = open_collection(source, note=say)
    batch_size = resolve_batch_size(config.batch_size, len(images.names))
    if config.batch_size is None and batch_size == len(images.names):
        say(f"batch size {batch_size}: all images of this set")
    small_stem = config.small_stem
    if small_stem is None:
        small_stem = wants_small_stem(config.encoder, config.image_size)
    config = dataclasses.replace(config, batch_size=batch_size, small_stem=small_stem)
    check_folder(folder, config, resume=resume)
    torch.manual_seed(config.seed)
    encoder = build_encoder(config.encoder, small_stem=small_stem)
    if config.recompute:
        recompute_blocks(encoder, config.encoder)
    return images, config, encoder


def _evaluation(config: PretrainConfig, recipe: Recipe, say: Say) -> Evaluation | None:
    """Only the first process evaluates."""
    if config.eval is None or distributed.rank() != 0:
        return None
    return Evaluation(Path(config.eval), recipe, workers=config.workers, note=say)


def _labels(
    config: PretrainConfig, source: str, images: Collection, say: Say
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """The classes that the images' folders, or a labels.csv, give them; nothing without an online probe."""
    if not config.online_probe:
        return None, ()
    if not Path(source).is_dir():
        raise ConfigError(
            f"online_probe: {source} is no folder, and only a folder's images have classes here. Use --set online_probe=false."
        )
    labelled, _ = read_labelled(Path(config.data))
    labels = labels_of(Path(source), list(images.names), labelled)
    known = int((labels >= 0).sum())
    say(f"online probe: {known:,} of {len(labels):,} images have one of {len(labelled.classes)} classes")
    return labels, labelled.classes


def _what_decides(config: PretrainConfig) -> str:
    """The settings that must be alike on all processes."""
    return to_toml(dataclasses.replace(config, data="", device="", workers=None, threads=None, eval=None))


def _check_group(config: PretrainConfig, encoder: nn.Module, *, same_data: bool, same_settings: bool) -> int:
    """The width of the encoder's features; raises ConfigError where the processes do not suit the run."""
    assert config.batch_size is not None
    if not same_settings:
        raise ConfigError(
            f"process {distributed.rank()} has other settings than process 0. Start all with the same command, and --out "
            "where all can read it."
        )
    if not same_data:
        raise ConfigError(
            f"{config.data}: process {distributed.rank()} finds other images there than process 0. Give all the same files."
        )
    if distributed.world() > config.batch_size:
        raise ConfigError(
            f"{distributed.world()} processes are more than the {config.batch_size} images of a batch."
        )
    return feature_width(encoder, config.image_size)


def _start_from(encoder: nn.Module, weights: str, say: Say) -> None:
    for line in start_from(encoder, weights).lines(weights):
        say(line)


def _newest(folder: Path, source: str, data_sha256: str, say: Say) -> TrainingState | None:
    """The state to go on from, on the first process; None where there is none, and on the others."""
    if distributed.rank() != 0:
        return None
    state = newest_whole_checkpoint(folder / "checkpoints", note=say)
    if state is not None and state.data_sha256 != data_sha256:
        raise ConfigError(
            f"{source}: its images are not those that {folder} was started on. Restore them, or use a new --out."
        )
    return state
