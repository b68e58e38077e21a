"""Recipes of the package, and a user's own."""

import tomllib
from importlib import resources

import pytest

from simclr.errors import ConfigError
from simclr.pretrain.config import PretrainConfig
from simclr.pretrain.recipe import ABOUT, load_recipe, recipe_names
from simclr.pretrain.schedule import peak_learning_rate

DEFAULTS = PretrainConfig(data="x")


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_what_it_is_where_it_is_from_and_what_to_expect(name):
    assert list(load_recipe(name).about) == list(ABOUT)
    assert all(len(words) > 5 for words in load_recipe(name).about.values())


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_sets_only_what_decides_the_result(name):
    assert not set(load_recipe(name).settings) & {
        "data",
        "device",
        "workers",
        "threads",
        "chunk",
        "cache",
        "seed",
    }
    assert load_recipe(name).apply(DEFAULTS).data == "x"


def test_the_papers_recipe_is_the_defaults():
    """But for the batch, which the default shrinks to a small set."""
    paper = load_recipe("paper").apply(DEFAULTS)
    assert paper == PretrainConfig(data="x", batch_size=4096)


def test_the_references_recipe_has_the_papers_learning_rate_at_4096():
    reference = load_recipe("reference").apply(DEFAULTS)
    peak = peak_learning_rate(reference.base_lr, batch_size=4096, scaling=reference.lr_scaling)
    assert peak == pytest.approx(4.8)
    assert (reference.weight_decay, reference.head_layers, reference.loss_scale) == (1e-4, 3, 2.0)


def test_a_recipe_lies_between_what_is_there_and_what_follows():
    config = load_recipe("cifar10").apply(PretrainConfig(data="x", seed=5, epochs=7))
    assert (config.seed, config.epochs, config.augmentation.blur) == (5, 1000, 0.0)


def test_a_file_is_a_recipe_too(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text("[settings]\nepochs = 3\n[settings.augmentation]\nflip = 0\n")
    config = load_recipe(str(path)).apply(DEFAULTS)
    assert (config.epochs, config.augmentation.flip) == (3, 0.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs = 3", "has epochs beside them"),
        ("[about]\nwhat = 'x'", "has no settings"),
        ("[settings", "is no TOML"),
        ("[settings]\nepoch = 3", "epoch: no such setting. Did you mean epochs?"),
        ("[settings]\nepochs = 0", "epochs \\(0\\) must be above 0"),
    ],
)
def test_a_file_that_is_no_recipe_is_named_with_what_is_wrong(tmp_path, text, words):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as error:
        load_recipe(str(path)).apply(DEFAULTS)
    assert str(path) in str(error.value)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ConfigError, match=r"cifar10, .*paper, reference"):
        load_recipe("papr")


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        load_recipe("nowhere.toml")


def test_every_recipe_of_the_folder_is_known():
    folder = resources.files("simclr.pretrain") / "recipes"
    assert {entry.name for entry in folder.iterdir()} == {f"{name}.toml" for name in recipe_names()}
    assert all(tomllib.loads((folder / f"{name}.toml").read_text()) for name in recipe_names())
