"""Named settings of known runs: TOML files beside this one, in `recipes/`, or anybody's own.

A recipe has a table `settings`, with any of `PretrainConfig`'s, and a table `about` that says where they come from and what to
expect. It lies between the defaults and what the command line says.
"""

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from simclr.errors import ConfigError
from simclr.pretrain.config import PretrainConfig, with_values

ABOUT = ("what", "source", "expected", "memory", "cost", "differs")
"""What a recipe says of itself: all of them text, each may be left out of a user's own."""


@dataclass(frozen=True)
class TrainingRecipe:
    name: str
    about: dict[str, str]
    settings: dict[str, object]
    """Nested as in config.toml."""

    def apply(self, config: PretrainConfig) -> PretrainConfig:
        """`config` with these settings. Raises ConfigError naming the recipe."""
        return with_values(config, self.settings, where=f"recipe {self.name}")


def recipe_names() -> list[str]:
    """Of those in the package."""
    folder = resources.files("simclr.pretrain") / "recipes"
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def load_recipe(name: str) -> TrainingRecipe:
    """One of the package by its name, or any .toml file. Raises ConfigError."""
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"recipe {name}: cannot be read ({exc}).") from exc
    elif name in recipe_names():
        text = (resources.files("simclr.pretrain") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise ConfigError(
            f"recipe {name!r}: no such recipe. Give one of {', '.join(recipe_names())}, or a .toml file."
        )
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"recipe {name}: is no TOML ({exc}).") from exc
    about, settings = content.pop("about", {}), content.pop("settings", {})
    if content or not settings:
        odd = f"has {', '.join(content)} beside them" if content else "has no settings"
        raise ConfigError(f"recipe {name}: {odd}. Write a table [settings], and [about] if you like.")
    return TrainingRecipe(name, about, settings)
