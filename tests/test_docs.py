"""The pages that can be generated are; every verb is documented; the quick start runs."""

import importlib.util
import re
from pathlib import Path

import pytest

from simclr.cli import app

ROOT = Path(__file__).parent.parent
VERBS = [command.callback.__name__ for command in app.registered_commands if command.callback]


@pytest.fixture(scope="module")
def make_docs():
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "docs/make_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_commands_is_the_help_they_print(make_docs):
    assert (ROOT / "docs/cli.md").read_text() == make_docs.cli_page()


def test_the_page_of_settings_is_the_config(make_docs):
    assert (ROOT / "docs/settings.md").read_text() == make_docs.settings_page()


def test_the_page_of_recipes_is_what_they_say_of_themselves(make_docs):
    assert (ROOT / "docs/recipes.md").read_text() == make_docs.recipes_page()


@pytest.mark.parametrize("verb", VERBS)
def test_the_readme_shows_every_verb(verb):
    assert f"simclr {verb}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_an_example_in_its_help(verb):
    command = next(c.callback for c in app.registered_commands if c.callback.__name__ == verb)
    assert re.search(rf"Example: simclr {verb} ", command.__doc__)


def test_links_between_the_pages_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
