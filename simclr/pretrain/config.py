"""PretrainConfig and its checks. No I/O beyond reading a TOML text; no torch.

Defaults live here and nowhere else. `simclr pretrain --set KEY=VALUE` reaches every field, nested ones with a
dot (`augmentation.blur=0`); the resolved config is saved as `config.toml` in the run folder.
"""

import contextlib
import dataclasses
import difflib
import json
import math
import tomllib
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from simclr.errors import ConfigError

DEFAULT_BATCH_SIZE = 4096
"""The paper's; a smaller set is one batch."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How two views of an image differ (Chen et al. 2020, appendix A; google-research/simclr, data_util.py)."""

    crop_min: float = 0.08
    """Smallest area of a random crop, as a share of the image; the largest is all of it."""
    crop_ratio: float = 4 / 3
    """Widest aspect ratio of a crop; the narrowest is its inverse."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: float = 0.8
    """Probability of colour jitter."""
    strength: float = 1.0
    """Of the jitter: brightness, contrast, saturation 0.8 each and hue 0.2 at 1.0. The reference uses 0.5 for CIFAR-10."""
    grayscale: float = 0.2
    """Probability of losing all colour."""
    blur: float = 0.5
    """Probability of a Gaussian blur. The reference uses 0 for CIFAR-10."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of its standard deviation, in pixels; its kernel is a tenth of the image."""

    def __post_init__(self) -> None:
        for name in ("flip", "jitter", "grayscale", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"augmentation.{name} ({getattr(self, name):g}) is a probability: give 0 to 1."
                )
        if not 0 < self.crop_min <= 1 or not 1 <= self.crop_ratio < math.inf:
            raise ConfigError(
                "augmentation.crop_min must be in (0, 1] and augmentation.crop_ratio at least 1."
            )
        if not 0 <= self.strength <= 1.25:  # above, a factor of 1 - 0.8 * strength would be negative
            raise ConfigError(f"augmentation.strength ({self.strength:g}) must be 0 to 1.25.")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1] < math.inf:
            raise ConfigError("augmentation.blur_sigma must be two rising positive numbers.")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides a pretraining run. Saved with the run, so that it can be repeated."""

    data: str
    """Folder searched recursively, list of files, tar shards, zip or Parquet files, here or behind a URL (docs/sources.md); class
    folders mean nothing here."""
    encoder: str = "resnet50"
    """timm model name."""
    weights: str | None = None
    """Encoder weights to start from: a run folder, a file, or `timm:NAME` for a pretrained timm model; random ones otherwise."""
    image_size: int = 224
    """Side of a view, in pixels."""
    small_stem: bool | None = None
    """3x3 first convolution and no max-pool. Unset: for ResNets at 64 pixels and below."""
    head_layers: int = 2
    """Of the projection head: 2 in the paper, 3 in the reference's README."""
    head_out: int = 128
    """Width of a projection."""
    batch_size: int | None = None
    """Images per optimiser step, over all processes; each gives two views. Unset: 4096, or the whole set where it is smaller."""
    chunk: int | Literal["auto"] = "auto"
    """Images that go through the encoder at a time, over all processes; the loss sees the whole batch all the same. Below the
    batch size it also decides which views share batch-norm statistics (docs/pretraining.md). auto: the largest that fits
    in memory."""
    recompute: bool = False
    """Keep only what enters each block of the encoder, and compute the rest again for its gradient: less memory, more time,
    the same numbers."""
    epochs: int = 100
    loss: Literal["nt_xent", "dcl"] = "nt_xent"
    """dcl leaves the positive pair out of the sum it is compared with (Yeh et al. 2021), which helps small batches."""
    loss_scale: float = 1.0
    """The gradient's factor. The reference adds both directions, 2 times the paper's mean; the loss recorded is the mean."""
    temperature: float = 0.1
    optimizer: Literal["lars", "sgd", "adamw"] = "lars"
    """lars for large batches; sgd and adamw for small ones. None decays biases and norm scales."""
    base_lr: float = 0.3
    """See `lr_scaling` (google-research/simclr, run.py)."""
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    """Peak learning rate: linear base_lr * B / 256, sqrt base_lr * sqrt(B), none base_lr."""
    warmup_fraction: float = 0.1
    """Share of the run; the paper's 10 of 100 epochs."""
    momentum: float = 0.9
    """Of lars and sgd; adamw has its usual 0.9 and 0.999."""
    weight_decay: float = 1e-6
    """The paper's; the reference's README uses 1e-4."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    """Decides initial weights, order of images and all random views."""
    device: str = "auto"
    """`auto` takes a GPU if there is one; else a torch device."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the encoder's arithmetic; loss, optimiser and weights are float32. auto: bf16 on a GPU that has it."""
    compile: bool | Literal["auto"] = "auto"
    """Let torch.compile fuse the encoder's operations. auto: on a GPU; where that fails, the run goes on without and says so."""
    cache: Literal["auto", "none", "ram", "gpu"] = "auto"
    """Where to keep decoded images, so that none is decoded twice. auto: on the device, or else in memory, where all have one size
    and need at most a quarter of it."""
    cache_size: int | None = None
    """Side in pixels that images of several sizes are stretched to in a cache asked for. Unset: twice `image_size`."""
    workers: int | None = None
    """Processes that decode and crop. Unset: one a core, at most 16. 0: in the training process."""
    unreadable_limit: float = 0.5
    """Share of the images that may turn out unreadable before the run ends; fewer are skipped and listed in skipped.csv."""
    eval: str | None = None
    """Folder with labels (class sub-folders or labels.csv) to measure the encoder on while it trains, by its nearest neighbours."""
    eval_every: int | str | None = None
    """Steps between such measurements, or minutes as "10min". Unset: ten a run."""
    online_probe: bool = False
    """Also train a linear classifier on the features, cut off from the encoder, by the labels that `data` has in its class
    folders or labels.csv."""
    threads: int | None = None
    """Cores torch may use. Unset: all that this process may use."""
    checkpoint_every: int | str = 500
    """Steps between checkpoints, or minutes as "10min"; one is also written at the end and on Ctrl-C."""
    checkpoint_keep: int = 2
    """Newest checkpoints that are kept; 2, in case the newest gets damaged."""
    checkpoint_keep_every: int | None = None
    """Also keep, for good, the first checkpoint at or after each multiple of so many steps."""

    def __post_init__(self) -> None:
        positive = ("image_size", "head_layers", "head_out", "epochs", "checkpoint_keep")
        for name in (*positive, "temperature", "base_lr", "loss_scale"):
            if not getattr(self, name) > 0 or not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name} ({getattr(self, name):g}) must be above 0.")
        if self.batch_size is not None and self.batch_size < 2:
            raise ConfigError(
                f"batch_size ({self.batch_size}) must be at least 2: an image needs others to differ from."
            )
        if self.chunk != "auto" and self.chunk < 2:
            raise ConfigError(f"chunk ({self.chunk}) must be auto, or at least 2: batch norm compares views.")
        interval("checkpoint_every", self.checkpoint_every)
        if self.eval_every is not None:
            interval("eval_every", self.eval_every)
        if self.cache_size is not None and self.cache_size < 1:
            raise ConfigError(f"cache_size ({self.cache_size}) must be at least 1.")
        if not 0 <= self.unreadable_limit <= 1:
            raise ConfigError(f"unreadable_limit ({self.unreadable_limit:g}) is a share: give 0 to 1.")
        if self.checkpoint_keep_every is not None and self.checkpoint_keep_every < 1:
            raise ConfigError(f"checkpoint_keep_every ({self.checkpoint_keep_every}) must be at least 1.")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(
                f"warmup_fraction ({self.warmup_fraction:g}) must be at least 0 and less than 1."
            )
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < math.inf:
            raise ConfigError("momentum must be at least 0 and less than 1, weight_decay at least 0.")
        if (self.workers or 0) < 0 or (self.threads is not None and self.threads < 1) or self.seed < 0:
            raise ConfigError("workers and seed must be at least 0, threads at least 1.")


def resolve_batch_size(batch_size: int | None, images: int) -> int:
    """The batch that a set of so many images gets. Raises ConfigError if an explicit one does not fit."""
    if images < 2:
        raise ConfigError(f"{images} image is too few: a batch needs at least 2.")
    if batch_size is None:
        return min(DEFAULT_BATCH_SIZE, images)
    if batch_size > images:
        raise ConfigError(
            f"batch_size ({batch_size}) is more than the {images} images found. Give at most {images}."
        )
    return batch_size


def interval(name: str, every: int | str) -> tuple[int | None, float]:
    """`checkpoint_every` or `eval_every` as steps (None: no matter) and seconds (infinite: no matter)."""
    if isinstance(every, int):
        if every < 1:
            raise ConfigError(f"{name} ({every}) must be above 0.")
        return every, math.inf
    try:
        minutes = float(every.removesuffix("min"))
    except ValueError:
        minutes = 0.0
    if not every.endswith("min") or not 0 < minutes < math.inf:
        raise ConfigError(f'{name} ({every}) must be a number of steps, or of minutes as in "10min".')
    return None, 60 * minutes


def with_settings(config: PretrainConfig, settings: list[str]) -> PretrainConfig:
    """Apply `KEY=VALUE` texts; VALUE is read as TOML, or as plain text. Raises ConfigError for an unknown key."""
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write it as KEY=VALUE.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        config = _replace(config, key.strip().split("."), value, key)
    return config


def to_toml(config: PretrainConfig) -> str:
    """Every field that is set."""
    plain, tables = [], []
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            tables.append(f"\n[{name}]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in value.items()))
        elif value is not None:
            plain.append(f"{name} = {_toml(value)}\n")
    return "".join(plain + tables)


def from_toml(text: str, *, where: Path) -> PretrainConfig:
    """Read what `to_toml` wrote. Raises ConfigError naming the file."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{where}: is no TOML ({exc}).") from exc
    return with_values(PretrainConfig(data=""), values, where=str(where))


def with_values(config: PretrainConfig, values: dict[str, Any], *, where: str) -> PretrainConfig:
    """Apply settings as TOML gives them, tables nested. Raises ConfigError naming `where`."""
    try:
        for key, value in values.items():
            for name, inner in value.items() if isinstance(value, dict) else [(None, value)]:
                path = [key] if name is None else [key, name]
                config = _replace(config, path, inner, ".".join(path))
    except ConfigError as exc:
        raise ConfigError(f"{where}: {exc}") from exc
    return config


def _toml(value: Any) -> str:
    """A JSON scalar or list is also a TOML one, but for surrogate pairs and a bare DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _replace(config: Any, path: list[str], value: Any, key: str) -> Any:
    """A copy of a dataclass with one field, perhaps in a nested one, set to a checked value."""
    hints = get_type_hints(type(config))
    name = path[0]
    if name not in hints:
        known = [*hints, *(f"augmentation.{f.name}" for f in dataclasses.fields(Augmentation))]
        near = difflib.get_close_matches(key, known, n=1) or [k for k in known if k.endswith(f".{key}")]
        hint = f" Did you mean {near[0]}?" if near else f" Known: {', '.join(hints)}."
        raise ConfigError(f"{key}: no such setting.{hint}")
    if dataclasses.is_dataclass(hints[name]):
        if len(path) == 1:
            raise ConfigError(
                f"{key}: set one of its parts, such as {key}.{next(iter(get_type_hints(hints[name])))}."
            )
        return dataclasses.replace(config, **{name: _replace(getattr(config, name), path[1:], value, key)})
    if len(path) > 1:
        raise ConfigError(f"{key}: {name} has no parts.")
    return dataclasses.replace(config, **{name: _checked(hints[name], value, key)})


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text; put it in quotes"}


def _checked(kind: Any, value: Any, key: str) -> Any:
    """`value` as the annotated type, or ConfigError."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{key}: {value!r} is not one of {', '.join(get_args(kind))}.")
        return value
    if get_origin(kind) in (Union, types.UnionType):
        options = [option for option in get_args(kind) if option is not type(None)]
        for option in options[:-1]:
            with contextlib.suppress(ConfigError):
                return _checked(option, value, key)
        if len(options) > 1 and get_origin(options[-1]) is Literal and value not in get_args(options[-1]):
            kinds = " nor ".join(_NAMES[option] for option in options[:-1])
            raise ConfigError(f"{key}: {value!r} is neither {kinds} nor {get_args(options[-1])[0]}.")
        return _checked(options[-1], value, key)
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != len(get_args(kind)):
            raise ConfigError(f"{key}: {value!r} is not a list of {len(get_args(kind))} numbers.")
        return tuple(_checked(part, item, key) for part, item in zip(get_args(kind), value, strict=True))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{key}: {value!r} is not {_NAMES.get(kind, kind.__name__)}.")
    return value
