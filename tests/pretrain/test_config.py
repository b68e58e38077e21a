"""Settings: defaults, checks, --set and TOML."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

from simclr.errors import ConfigError
from simclr.pretrain.config import (
    Augmentation,
    PretrainConfig,
    from_toml,
    interval,
    resolve_batch_size,
    to_toml,
    with_settings,
)

CONFIG = PretrainConfig(data="images")


def complaint(*settings: str) -> str:
    with pytest.raises(ConfigError) as error:
        with_settings(CONFIG, list(settings))
    return str(error.value)


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("epochs=7", "epochs", 7),
        ("base_lr=0.5", "base_lr", 0.5),
        ("base_lr=1", "base_lr", 1.0),
        ("weight_decay=1e-4", "weight_decay", 1e-4),
        ("encoder=resnet18", "encoder", "resnet18"),
        ('encoder="resnet18"', "encoder", "resnet18"),
        ("small_stem=true", "small_stem", True),
        ("weights=a=b.pt", "weights", "a=b.pt"),
        ("lr_scaling=sqrt", "lr_scaling", "sqrt"),
        (" seed = 3 ", "seed", 3),
    ],
)
def test_a_setting_is_read_as_its_fields_type(setting, field, value):
    read = getattr(with_settings(CONFIG, [setting]), field)
    assert read == value
    assert type(read) is type(value)


def test_nested_settings_are_reached_with_a_dot():
    config = with_settings(CONFIG, ["augmentation.blur=0", "augmentation.blur_sigma=[0.5, 1]"])
    assert config.augmentation == Augmentation(blur=0.0, blur_sigma=(0.5, 1.0))


def test_settings_left_out_stay():
    changed = with_settings(CONFIG, ["epochs=7"])
    assert dataclasses.replace(changed, epochs=CONFIG.epochs) == CONFIG


def test_the_last_of_two_settings_counts():
    assert with_settings(CONFIG, ["epochs=7", "epochs=8"]).epochs == 8


@pytest.mark.parametrize(
    ("setting", "near"),
    [
        ("epoch=3", "epochs"),
        ("temprature=0.5", "temperature"),
        ("augmentation.strenght=1", "augmentation.strength"),
        ("strength=0.5", "augmentation.strength"),
        ("blur=0", "augmentation.blur"),
    ],
)
def test_an_unknown_setting_suggests_the_nearest(setting, near):
    assert complaint(setting) == f"{setting.partition('=')[0]}: no such setting. Did you mean {near}?"


def test_an_unknown_setting_near_to_nothing_lists_the_known():
    message = complaint("zzz=1")
    assert message.startswith("zzz: no such setting. Known: data, encoder, ")
    assert message.endswith("checkpoint_keep_every.")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs=many", "epochs: 'many' is not a whole number."),
        ("epochs=1.5", "epochs: 1.5 is not a whole number."),
        ("epochs=true", "epochs: True is not a whole number."),
        ("base_lr=fast", "base_lr: 'fast' is not a number."),
        ("base_lr=true", "base_lr: True is not a number."),
        ("small_stem=1", "small_stem: 1 is not true or false."),
        ("lr_scaling=cubic", "lr_scaling: 'cubic' is not one of linear, sqrt, none."),
        ("augmentation.blur_sigma=2", "augmentation.blur_sigma: 2 is not a list of 2 numbers."),
        (
            "augmentation.blur_sigma=[1, 2, 3]",
            "augmentation.blur_sigma: [1, 2, 3] is not a list of 2 numbers.",
        ),
        ("augmentation.blur_sigma=[1, 'b']", "augmentation.blur_sigma: 'b' is not a number."),
        ("augmentation=0", "augmentation: set one of its parts, such as augmentation.crop_min."),
        ("epochs.x=1", "epochs.x: epochs has no parts."),
        ("epochs", "--set epochs: write it as KEY=VALUE."),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_and_named(setting, message):
    assert complaint(setting) == message


@pytest.mark.parametrize(
    "setting",
    [
        "epochs=0",
        "image_size=0",
        "head_layers=0",
        "head_out=-1",
        "checkpoint_every=0",
        "temperature=0",
        "temperature=nan",
        "base_lr=-0.1",
        "base_lr=inf",
        "batch_size=1",
        "warmup_fraction=1",
        "warmup_fraction=nan",
        "momentum=1",
        "momentum=nan",
        "weight_decay=-1",
        "weight_decay=nan",
        "weight_decay=inf",
        "workers=-1",
        "threads=0",
        "seed=-1",
        "augmentation.flip=1.5",
        "augmentation.blur=nan",
        "augmentation.crop_min=0",
        "augmentation.crop_min=1.1",
        "augmentation.crop_ratio=0.9",
        "augmentation.crop_ratio=nan",
        "augmentation.crop_ratio=inf",
        "augmentation.strength=1.3",
        "augmentation.blur_sigma=[0, 1]",
        "augmentation.blur_sigma=[2, 1]",
        "augmentation.blur_sigma=[1, inf]",
    ],
)
def test_a_value_out_of_range_is_refused_and_named(setting):
    key = setting.partition("=")[0]
    assert re.search(rf"\b{re.escape(key)}\b", complaint(setting))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_probabilities_include_their_ends(value):
    assert Augmentation(flip=value).flip == value


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        PretrainConfig(
            data='a "quoted" \\ folder',
            weights="a.pt",
            batch_size=8,
            small_stem=True,
            weight_decay=1e-9,
            workers=0,
            augmentation=Augmentation(blur=0, blur_sigma=(0.25, 3)),
        ),
        PretrainConfig(data="fotos/größe/日本/🐈"),
        PretrainConfig(data="tab\tand\x7fdelete"),
    ],
    ids=["defaults", "set", "unicode", "control"],
)
def test_toml_gives_back_what_it_was_given(config):
    assert from_toml(to_toml(config), where=Path("config.toml")) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "run/config.toml: is no TOML ("),
        ("epoch = 3", "run/config.toml: epoch: no such setting. Did you mean epochs?"),
        ("[augmentation]\nblurr = 1", "run/config.toml: augmentation.blurr: no such setting."),
        ("epochs = 0", "run/config.toml: epochs (0) must be above 0."),
        ("[seed]\na = 1", "run/config.toml: seed.a: seed has no parts."),
    ],
)
def test_a_damaged_toml_is_named(text, message):
    with pytest.raises(ConfigError) as error:
        from_toml(text, where=Path("run/config.toml"))
    assert str(error.value).startswith(message)


def test_an_unset_batch_is_the_papers():
    assert resolve_batch_size(None, 4097) == 4096


def test_an_unset_batch_is_a_smaller_set_whole():
    assert resolve_batch_size(None, 100) == 100


def test_an_explicit_batch_may_be_the_whole_set():
    assert resolve_batch_size(100, 100) == 100


def test_an_explicit_batch_above_the_set_is_refused():
    with pytest.raises(ConfigError) as error:
        resolve_batch_size(101, 100)
    assert str(error.value) == "batch_size (101) is more than the 100 images found. Give at most 100."


@pytest.mark.parametrize("batch_size", [None, 2])
def test_one_image_is_too_few(batch_size):
    with pytest.raises(ConfigError) as error:
        resolve_batch_size(batch_size, 1)
    assert str(error.value) == "1 image is too few: a batch needs at least 2."


@pytest.mark.parametrize(
    ("every", "steps", "seconds"),
    [(500, 500, math.inf), ("10min", None, 600.0), ("0.5min", None, 30.0), ("1 min", None, 60.0)],
)
def test_checkpoints_come_by_steps_or_by_minutes(every, steps, seconds):
    assert interval("checkpoint_every", every) == (steps, seconds)


@pytest.mark.parametrize("every", [0, -3, "10", "often", "min", "-1min", "nanmin", "infmin", "10s"])
def test_an_interval_that_makes_no_sense_is_refused(every):
    with pytest.raises(ConfigError, match="checkpoint_every"):
        PretrainConfig(data="x", checkpoint_every=every)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("chunk=64", 64), ("chunk=auto", "auto"), ('chunk="auto"', "auto"), ("checkpoint_every=7", 7), ("checkpoint_every=10min", "10min")],
)  # fmt: skip
def test_a_setting_of_two_kinds_takes_either(setting, value):
    assert getattr(with_settings(CONFIG, [setting]), setting.split("=")[0]) == value
    saved = from_toml(to_toml(with_settings(CONFIG, [setting])), where=Path("config.toml"))
    assert getattr(saved, setting.split("=")[0]) == value


@pytest.mark.parametrize("settings", [{"chunk": 1}, {"checkpoint_keep": 0}, {"checkpoint_keep_every": 0}])
def test_numbers_too_small_are_refused_and_named(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PretrainConfig(data="x", **settings)
