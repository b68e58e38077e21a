"""Write docs/cli.md, docs/settings.md and docs/recipes.md from the code they describe, and what commands print into README.md and
the tutorial from docs/session.txt (make_pictures.py); tests compare them.

Run by `make docs`.
"""

import ast
import dataclasses
import os
import re
import subprocess
import sys
from importlib import resources
from itertools import pairwise
from pathlib import Path

from simclr.cli import app
from simclr.pretrain.config import Augmentation, PretrainConfig
from simclr.pretrain.recipe import load_recipe, recipe_names

DOCS = Path(__file__).parent
SESSION = DOCS / "session.txt"
SESSION_PAGES = (DOCS.parent / "README.md", DOCS / "tutorial.md")


def cli_page() -> str:
    """The help of every command, as it is printed at 100 columns."""
    names = [command.callback.__name__ for command in app.registered_commands if command.callback]
    for group in app.registered_groups:
        commands = group.typer_instance.registered_commands if group.typer_instance else []
        names += [group.name or "", *(f"{group.name} {c.callback.__name__}" for c in commands if c.callback)]
    pages = "".join(
        f"\n## simclr{name}\n\n```\n{_help(name)}\n```\n" for name in ["", *(f" {n}" for n in names)]
    )
    return f"# Commands\n\nWritten by `make docs` from the commands' own help.\n{pages}"


def _help(name: str) -> str:
    command = [sys.executable, "-m", "simclr", *name.split(), "--help"]
    environment = os.environ | {"COLUMNS": "100", "TERMINAL_WIDTH": "100"}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return "\n".join(line.rstrip() for line in printed.strip().splitlines())


def settings_page() -> str:
    """Every field of PretrainConfig with its default and the words below it in the source."""
    source = (DOCS.parent / "simclr/pretrain/config.py").read_text()
    rows = _rows(source, PretrainConfig, "") + _rows(source, Augmentation, "augmentation.")
    table = "\n".join(f"| `{name}` | {default} | {words} |" for name, default, words in rows)
    return (
        "# Settings of a pretraining run\n\n"
        "Written by `make docs` from `simclr/pretrain/config.py`. Give any of them with `--set KEY=VALUE`; a run's own are in "
        "its `config.toml`.\n\n"
        f"| setting | default | |\n|---|---|---|\n{table}\n"
    )


def recipes_page() -> str:
    """What each recipe of the package says of itself, and its settings."""
    parts = []
    for name in recipe_names():
        text = (resources.files("simclr.pretrain") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        about = "\n".join(f"- **{key}**: {words}" for key, words in load_recipe(name).about.items())
        settings = text[text.index("[settings]") :].strip()
        parts.append(f"## {name}\n\n{about}\n\n```toml\n{settings}\n```\n")
    return (
        "# Recipes\n\n"
        "Written by `make docs` from `simclr/pretrain/recipes/`. Use one with `simclr pretrain --data DIR --recipe NAME`; options and "
        "`--set` go on top, `--dry-run` shows what comes of it. Your own: any file `NAME.toml` with a table `[settings]`.\n\n"
        + "\n".join(parts)
    )


def with_session(page: str) -> str:
    """A page with, below each `$ simclr ...` of its console blocks, what that command printed."""
    printed = {
        command: output.strip("\n")
        for command, output in re.findall(
            r"^\$ (simclr .*)\n((?:(?!\$ ).*\n?)*)", SESSION.read_text(), flags=re.M
        )
    }

    def filled(block: re.Match[str]) -> str:
        commands = re.findall(r"^\$ (simclr .*)$", block[0], flags=re.M)
        return "```console\n" + "\n\n".join(f"$ {words}\n{printed[words]}" for words in commands) + "\n```\n"

    return re.sub(r"^```console\n\$ simclr .*?^```\n", filled, page, flags=re.M | re.S)


def _rows(source: str, cls: type, prefix: str) -> list[tuple[str, str, str]]:
    body = next(
        n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == cls.__name__
    ).body
    words = {
        field.target.id: " ".join(ast.literal_eval(text.value).split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }  # fmt: skip
    rows = []
    for field in dataclasses.fields(cls):
        if field.name == "augmentation":
            continue
        shown = "required" if field.default is dataclasses.MISSING else _shown(field.default)
        rows.append((prefix + field.name, shown, words.get(field.name, "")))
    return rows


def _shown(default: object) -> str:
    if default is None:
        return "unset"
    return f"`{default:.4g}`" if isinstance(default, float) else f"`{default}`"


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(cli_page())
    (DOCS / "settings.md").write_text(settings_page())
    (DOCS / "recipes.md").write_text(recipes_page())
    for page in SESSION_PAGES:
        page.write_text(with_session(page.read_text()))
