"""Build a timm encoder by name, say what it expects, save, load and digest its weights. No head, no training.

An encoder takes (B, 3, size, size) float images, normalised, and gives (B, width) pooled features.
"""

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from simclr.artifacts import EncoderInfo, write_atomically
from simclr.errors import ArtifactError, ConfigError, reason
from simclr.preprocess import Recipe

SMALL_IMAGE = 64
"""Up to this many pixels a side a ResNet gets the small stem (SimCLR, appendix B.9)."""

WEIGHTS_FILE = "encoder.safetensors"
INFO_FILE = "encoder.json"


def build_encoder(name: str, *, small_stem: bool = False, pretrained: bool = False) -> nn.Module:
    """A timm model without its classifier.

    `small_stem`: 3x3 first convolution with stride 1 and no max-pool, for ResNets on small images.
    Raises ConfigError for an unknown name, or a small stem where the model has no ResNet stem.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ConfigError(f"encoder {name!r} is not a timm model.{hint} `timm.list_models()` lists them all.")
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as exc:  # timm and its hub client raise anything when a download fails
        if not pretrained:
            raise ConfigError(f"encoder {name!r} cannot be built: {reason(exc)}") from exc
        raise ArtifactError(
            f"timm:{name}: its pretrained weights cannot be loaded ({reason(exc)}). "
            "Use --no-pretrained for random weights, or give a weights file."
        ) from exc
    if small_stem:
        _make_stem_small(model, name)
    return model


def wants_small_stem(name: str, image_size: int) -> bool:
    """Whether images this small call for the small stem, and the model has a stem that can be made small."""
    if image_size > SMALL_IMAGE:
        return False
    with torch.device("meta"):
        return has_resnet_stem(build_encoder(name))


def default_recipe(name: str, *, image_size: int | None = None) -> Recipe:
    """The preprocessing timm documents for a model; at another size, the reference's centre crop.

    Small images are used whole, as in the reference's CIFAR-10 setting.
    """
    documented = timm.get_pretrained_cfg(name)
    if documented is None:
        return Recipe(size=image_size or Recipe.size)
    size = image_size or int(documented.input_size[-1])
    elsewhere = 1.0 if size <= SMALL_IMAGE else Recipe.crop
    mean, std = tuple(documented.mean), tuple(documented.std)
    assert len(mean) == len(std) == 3
    return Recipe(
        size=size,
        crop=float(documented.crop_pct) if size == documented.input_size[-1] else elsewhere,
        interpolation="bilinear" if documented.interpolation == "bilinear" else "bicubic",
        mean=mean,
        std=std,
    )


@torch.no_grad()
def feature_width(encoder: nn.Module, size: int) -> int:
    """Length of the pooled features, found by running one blank image. Leaves the mode as found."""
    training = encoder.training
    try:
        features = encoder.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError) as exc:
        raise ConfigError(f"this encoder does not take {size}x{size} images: {reason(exc)}") from exc
    finally:
        encoder.train(training)
    if features.ndim != 2:
        raise ConfigError(
            f"this encoder gives features of shape {tuple(features.shape)}, not (batch, width)."
        )
    return int(features.shape[1])


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_encoder(folder: Path, encoder: nn.Module, info: EncoderInfo) -> None:
    """Write `encoder.safetensors`, then `encoder.json` that vouches for it."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    write_atomically(folder / WEIGHTS_FILE, lambda temporary: save_file(state, temporary))
    info.save(folder / INFO_FILE)


def load_encoder(folder: Path) -> tuple[nn.Module, EncoderInfo]:
    """Read what `save_encoder` wrote; in eval mode. Raises ArtifactError if weights and info disagree."""
    info = EncoderInfo.load(folder / INFO_FILE)
    path = folder / WEIGHTS_FILE
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file.") from None
    except Exception as exc:  # safetensors raises anything on damaged files
        raise ArtifactError(
            f"{path}: damaged ({reason(exc)}). Run `simclr pretrain --resume` again."
        ) from exc
    if weights_sha256(state) != info.weights_sha256:
        raise ArtifactError(
            f"{path}: does not match {INFO_FILE} beside it. Run `simclr pretrain --resume` again."
        )
    encoder = build_encoder(info.name, small_stem=info.small_stem)
    try:
        encoder.load_state_dict(state)
    except RuntimeError as exc:
        raise ArtifactError(
            f"{path}: timm {timm.__version__} builds {info.name} with other tensors. Use the timm it was trained with."
        ) from exc
    return encoder.eval(), info


def has_resnet_stem(model: nn.Module) -> bool:
    """Whether a model has the one convolution and max-pool that a small stem replaces."""
    return isinstance(getattr(model, "conv1", None), nn.Conv2d) and hasattr(model, "maxpool")


def _make_stem_small(model: nn.Module, name: str) -> None:
    if not has_resnet_stem(model):
        raise ConfigError(f"encoder {name!r} has no ResNet stem to make small. Use --set small_stem=false.")
    first = model.conv1
    assert isinstance(first, nn.Conv2d)
    model.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
