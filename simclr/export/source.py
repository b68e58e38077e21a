"""What is exported: a run, a timm model or a weights file -> the encoder, its description, the default folder.

Builds and fills the encoder; writes nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simclr.artifacts import EncoderInfo
from simclr.encoder import (
    INFO_FILE,
    SMALL_IMAGE,
    WEIGHTS_FILE,
    build_encoder,
    default_recipe,
    feature_width,
    has_resnet_stem,
    load_encoder,
    wants_small_stem,
    weights_sha256,
)
from simclr.errors import ArtifactError, ConfigError
from simclr.weights import TIMM, find_encoder, load_whole
from simclr.weights_file import read_weights

Channels = tuple[float, float, float]


def open_source(
    source: str,
    *,
    encoder: str | None,
    image_size: int | None,
    pretrained: bool,
    mean: Channels | None,
    std: Channels | None,
    note: Callable[[str], None],
) -> tuple[nn.Module, EncoderInfo, Path]:
    """The encoder in eval mode, its description, and where its export goes by default.

    A run knows all of it; `image_size`, `mean` and `std` are for timm models and weights files, `encoder` for weights files.
    `note` gets what was taken from a weights file and what was not. Raises ArtifactError and ConfigError.
    """
    path = Path(source)
    if path.name == WEIGHTS_FILE and (path.parent / INFO_FILE).exists() and not encoder:
        path = path.parent
    if path.is_dir():
        given = {"--encoder": encoder, "--image-size": image_size, "--mean": mean, "--std": std}
        return _open_run(path, [option for option, value in given.items() if value])
    name = source.removeprefix(TIMM)
    is_timm = name != source
    if not is_timm and not path.exists():
        raise ArtifactError(
            f"{source}: no such run folder or weights file. For a timm model write timm:{source}."
        )
    if not is_timm:
        if not encoder:
            raise ConfigError(
                f"{path}: a weights file does not say what it is for. Name the timm model with --encoder."
            )
        name = encoder
    recipe = default_recipe(name, image_size=image_size)
    recipe = replace(recipe, mean=mean or recipe.mean, std=std or recipe.std)
    if is_timm:
        model, small = _build(name, image_size, pretrained)
        parents: dict[str, Any] = {"timm": name, "pretrained": pretrained}
        out = Path("export") / name
    else:
        model, small, parents = _open_file(path, name, recipe.size, note)
        out = path.with_suffix("") / "export"
        if mean is None or std is None:
            note(
                f"preprocessing: {recipe.size} pixels, mean {_words(recipe.mean)}, std {_words(recipe.std)}; the file does not "
                "say. Others with --image-size, --mean and --std."
            )
    info = EncoderInfo(
        name=name,
        small_stem=small,
        width=feature_width(model, recipe.size),
        weights_sha256=weights_sha256(model.state_dict()),
        recipe=recipe,
        parents=parents,
    )
    return model.eval(), info, out


def parse_channels(option: str, text: str) -> Channels:
    """`0.5,0.4,0.3` -> three numbers; their range is the recipe's to check. Raises ConfigError."""
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"{option} {text}: give three numbers in 0..1, such as 0.485,0.456,0.406."
        ) from None
    return red, green, blue


def _open_run(folder: Path, given: list[str]) -> tuple[nn.Module, EncoderInfo, Path]:
    if not (folder / INFO_FILE).exists():
        raise ArtifactError(
            f"{folder}: holds no encoder. Give a run folder that `simclr pretrain` has written."
        )
    if given:
        raise ConfigError(
            f"{folder}: a run knows its encoder and its preprocessing. Leave out {' and '.join(given)}."
        )
    model, info = load_encoder(folder)
    return model, info, folder / "export"


def _build(name: str, image_size: int | None, pretrained: bool) -> tuple[nn.Module, bool]:
    """A timm model, and whether its stem is small: pretrained weights fit the stem they were trained with."""
    torch.manual_seed(0)  # random weights are the same every time
    small = not pretrained and wants_small_stem(name, image_size or 224)
    return build_encoder(name, small_stem=small, pretrained=pretrained), small


def _open_file(
    path: Path, name: str, size: int, note: Callable[[str], None]
) -> tuple[nn.Module, bool, dict[str, Any]]:
    """The encoder with the file's weights, whether its stem is small, and where in the file they were.

    The first convolution in the file decides the stem, whatever the image size.
    """
    contents = read_weights(path)
    model, small = build_encoder(name), False
    fit = find_encoder(model, contents)
    if "conv1.weight" in fit.misshapen and has_resnet_stem(model):
        other = build_encoder(name, small_stem=True)
        fit_other = find_encoder(other, contents)
        if "conv1.weight" in fit_other.tensors:
            model, small, fit = other, True, fit_other
    load_whole(model, fit, str(path))
    for line in fit.lines(path.name):
        note(line)
    if small:
        note("stem: small, 3x3 with stride 1 and no max-pool, as its conv1 in the file")
    elif has_resnet_stem(model) and size <= SMALL_IMAGE:
        note("stem: 7x7 with stride 2 and max-pool, as its conv1 in the file, though the images are small")
    place = {"wrapper": fit.wrapper, "prefix": fit.prefix, "naming": fit.naming}
    return model, small, {"file": path.name} | {key: words for key, words in place.items() if words}


def _words(values: Channels) -> str:
    return ",".join(f"{value:g}" for value in values)
