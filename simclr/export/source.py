"""What is exported: a run, a timm model or a weights file -> encoder, description, where its export goes by default."""

from pathlib import Path

import torch
from torch import nn

from simclr.artifacts import EncoderInfo
from simclr.encoder import (
    INFO_FILE,
    WEIGHTS_FILE,
    build_encoder,
    default_recipe,
    feature_width,
    load_encoder,
    load_weights,
    wants_small_stem,
    weights_sha256,
)
from simclr.errors import ArtifactError, ConfigError


def open_source(
    source: str, encoder: str | None, image_size: int | None, pretrained: bool
) -> tuple[nn.Module, EncoderInfo, Path]:
    """The encoder in eval mode, its description, and where its export goes by default."""
    path = Path(source)
    if path.is_dir():
        if not (path / INFO_FILE).exists():
            raise ArtifactError(
                f"{path}: holds no encoder. Give a run folder that `simclr pretrain` has written."
            )
        if encoder or image_size:
            raise ConfigError(
                f"{path}: a run knows its encoder and image size. Leave out --encoder and --image-size."
            )
        model, info = load_encoder(path)
        return model, info, path / "export"
    if source.startswith("timm:"):
        name = source.removeprefix("timm:")
        torch.manual_seed(0)  # random weights are the same every time
        small = wants_small_stem(name, image_size or 224)
        if small and pretrained:
            small = False  # pretrained weights fit the stem they were trained with
        model = build_encoder(name, small_stem=small, pretrained=pretrained)
        parents = {"timm": name, "pretrained": pretrained}
        info = _describe(model, name, small, image_size, parents)
        return model.eval(), info, Path("export") / name
    if not path.exists():
        raise ArtifactError(
            f"{source}: no such run folder or weights file. For a timm model write timm:{source}."
        )
    if path.name == WEIGHTS_FILE and (path.parent / INFO_FILE).exists() and not encoder:
        return open_source(str(path.parent), None, image_size, pretrained)
    if not encoder:
        raise ConfigError(
            f"{path}: a weights file does not say what it is for. Name the timm model with --encoder."
        )
    small = wants_small_stem(encoder, image_size or 224)
    model = build_encoder(encoder, small_stem=small)
    load_weights(model, path)
    return (
        model.eval(),
        _describe(model, encoder, small, image_size, {"file": path.name}),
        path.with_suffix("") / "export",
    )


def _describe(
    model: nn.Module, name: str, small_stem: bool, image_size: int | None, parents: dict[str, object]
) -> EncoderInfo:
    recipe = default_recipe(name, image_size=image_size)
    return EncoderInfo(
        name=name,
        small_stem=small_stem,
        width=feature_width(model, recipe.size),
        weights_sha256=weights_sha256(model.state_dict()),
        recipe=recipe,
        parents=dict(parents),
    )
