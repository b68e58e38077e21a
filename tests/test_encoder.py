"""Build encoders, change their stems, save, load and digest their weights."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from simclr.artifacts import EncoderInfo
from simclr.encoder import (
    build_encoder,
    default_recipe,
    feature_width,
    load_encoder,
    save_encoder,
    wants_small_stem,
    weights_sha256,
)
from simclr.errors import ArtifactError, ConfigError
from simclr.preprocess import Recipe

NAME = "test_resnet"


def encoder_info(encoder: nn.Module, *, name: str = NAME, small_stem: bool = False) -> EncoderInfo:
    return EncoderInfo(
        name=name,
        small_stem=small_stem,
        width=96,
        weights_sha256=weights_sha256(encoder.state_dict()),
        recipe=Recipe(size=32),
        parents={"run": "r", "step": 3},
    )


def saved(folder: Path, **settings: object) -> nn.Module:
    encoder = build_encoder(NAME)
    save_encoder(folder, encoder, encoder_info(encoder, **settings))
    return encoder


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# ---- build


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError) as error:
        build_encoder("resnet5O")
    assert str(error.value).startswith("encoder 'resnet5O' is not a timm model. Did you mean resnet50")


def test_an_encoder_has_no_classifier():
    features = build_encoder(NAME).eval()(torch.zeros(2, 3, 64, 64))
    assert features.shape == (2, 96)


def test_a_small_stem_keeps_every_pixel_of_a_small_image():
    model = build_encoder("resnet18", small_stem=True)
    images = torch.zeros(1, 3, 32, 32)
    assert model.maxpool(model.conv1(images)).shape == (1, 64, 32, 32)
    assert model.eval().forward_features(images).shape == (1, 512, 4, 4)


def test_a_small_stem_starts_with_kaiming_weights():
    """Fan out of a 3x3 convolution to 64 channels: 576; standard deviation sqrt(2 / 576)."""
    torch.manual_seed(0)
    weight = build_encoder("resnet18", small_stem=True).conv1.weight
    assert weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.05)


def test_a_small_stem_is_refused_where_there_is_no_resnet_stem():
    with pytest.raises(ConfigError) as error:
        build_encoder("test_vit", small_stem=True)
    assert str(error.value) == (
        "encoder 'test_vit' has no ResNet stem to make small. Use --set small_stem=false."
    )


@pytest.mark.parametrize(
    ("name", "size", "wanted"),
    [("resnet18", 64, True), ("resnet18", 65, False), ("test_vit", 32, False), ("resnet10t", 32, False)],
)
def test_a_small_stem_is_wanted_for_resnets_up_to_64_pixels(name, size, wanted):
    assert wants_small_stem(name, size) is wanted


class _RealElements(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type != "meta":
                self.elements += leaf.numel()
        return result


def test_asking_for_the_stem_makes_no_weights():
    with _RealElements() as real:
        wants_small_stem("resnet50", 32)
    assert real.elements == 0


def test_the_width_is_found_by_running_the_encoder():
    assert feature_width(build_encoder(NAME), 32) == 96


@pytest.mark.parametrize("training", [True, False])
def test_finding_the_width_leaves_mode_and_weights_as_found(training):
    encoder = build_encoder(NAME).train(training)
    before = weights_sha256(encoder.state_dict())
    feature_width(encoder, 32)
    assert encoder.training is training
    assert weights_sha256(encoder.state_dict()) == before


def test_a_size_that_the_encoder_does_not_take_is_refused():
    with pytest.raises(ConfigError, match="this encoder does not take 30x30 images"):
        feature_width(build_encoder("test_vit"), 30)


def test_features_that_are_not_pooled_are_refused():
    with pytest.raises(ConfigError) as error:
        feature_width(nn.Conv2d(3, 4, 1), 8)
    assert str(error.value) == "this encoder gives features of shape (1, 4, 8, 8), not (batch, width)."


# ---- preprocessing


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "resnet10t", "mobilenetv3_small_050"])
def test_at_the_documented_size_the_recipe_is_what_timm_resolves(name):
    with torch.device("meta"):
        config = resolve_model_data_config(timm.create_model(name))
    recipe = default_recipe(name)
    assert recipe == Recipe(
        size=config["input_size"][-1],
        crop=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )


@pytest.mark.parametrize(("size", "crop"), [(32, 1.0), (64, 1.0), (65, 0.875), (224, 0.875)])
def test_at_another_size_the_crop_is_the_references_and_small_images_are_used_whole(size, crop):
    recipe = default_recipe(NAME, image_size=size)
    assert (recipe.size, recipe.crop) == (size, crop)


def test_at_another_size_all_else_is_what_timm_documents():
    documented = default_recipe("test_vit")
    other = default_recipe("test_vit", image_size=32)
    assert dataclasses.replace(other, size=documented.size, crop=documented.crop) == documented


# ---- identity


def test_the_digest_is_that_of_names_types_shapes_and_bytes():
    state = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3)}
    expected = hashlib.sha256()
    expected.update(b"a torch.int64 ()\n" + np.array(3, "<i8").tobytes())
    expected.update(b"b torch.float32 (2,)\n" + np.array([1, 2], "<f4").tobytes())
    assert weights_sha256(state) == expected.hexdigest()


WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}


@pytest.mark.parametrize(
    "other",
    [
        {"a": WEIGHTS["a"], "c": WEIGHTS["b"]},
        {"a": WEIGHTS["a"].view(3, 2), "b": WEIGHTS["b"]},
        {"a": WEIGHTS["a"], "b": WEIGHTS["b"].view(torch.int32)},
        {"a": WEIGHTS["a"].add(1e-6), "b": WEIGHTS["b"]},
        {"a": WEIGHTS["a"]},
    ],
    ids=["name", "shape", "dtype", "value", "fewer"],
)
def test_other_tensors_have_another_digest(other):
    assert weights_sha256(other) != weights_sha256(WEIGHTS)


def test_order_and_memory_layout_do_not_change_the_digest():
    turned = {"b": WEIGHTS["b"], "a": WEIGHTS["a"].T.contiguous().T}
    assert weights_sha256(turned) == weights_sha256(WEIGHTS)


def test_the_digest_does_not_depend_on_the_file(tmp_path):
    encoder = saved(tmp_path)
    torch.save(encoder.state_dict(), tmp_path / "weights.pt")
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert weights_sha256(state) == load_encoder(tmp_path)[1].weights_sha256


# ---- save and load


def test_a_saved_encoder_comes_back_with_its_weights_and_info(tmp_path):
    encoder = saved(tmp_path)
    loaded, info = load_encoder(tmp_path)
    assert equal(loaded, encoder)
    assert info == encoder_info(encoder)


def test_a_loaded_encoder_is_in_evaluation_mode(tmp_path):
    saved(tmp_path)
    assert not load_encoder(tmp_path)[0].training


def test_a_small_stem_comes_back_small(tmp_path):
    encoder = build_encoder("resnet18", small_stem=True)
    save_encoder(tmp_path, encoder, encoder_info(encoder, name="resnet18", small_stem=True))
    assert load_encoder(tmp_path)[0].conv1.kernel_size == (3, 3)


def test_weights_of_another_run_are_refused(tmp_path):
    saved(tmp_path)
    save_file(build_encoder(NAME).state_dict(), path := tmp_path / "encoder.safetensors")
    with pytest.raises(ArtifactError) as error:
        load_encoder(tmp_path)
    assert str(error.value).startswith(f"{path}: does not match encoder.json beside it.")


@pytest.mark.parametrize(
    ("missing", "advice"),
    [("encoder.json", " Make it with `simclr pretrain`."), ("encoder.safetensors", "")],
)
def test_a_missing_file_is_named(tmp_path, missing, advice):
    saved(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ArtifactError) as error:
        load_encoder(tmp_path)
    assert str(error.value) == f"{tmp_path / missing}: no such file.{advice}"


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_damaged_weights_are_refused_and_named(tmp_path, damage):
    saved(tmp_path)
    path = tmp_path / "encoder.safetensors"
    content = path.read_bytes()
    path.write_bytes({"truncated": content[:-1000], "empty": b"", "text": b"hello\n" * 99}[damage])
    with pytest.raises(ArtifactError) as error:
        load_encoder(tmp_path)
    assert str(error.value).startswith(f"{path}: damaged (")
    assert "\n" not in str(error.value)


def test_weights_that_this_timm_builds_otherwise_are_refused(tmp_path):
    other = build_encoder("test_vit")
    save_encoder(tmp_path, other, encoder_info(other))
    with pytest.raises(ArtifactError) as error:
        load_encoder(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'encoder.safetensors'}: timm {timm.__version__} builds {NAME} with other tensors. "
        "Use the timm it was trained with."
    )
