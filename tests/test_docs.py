"""The pages that can be generated are; every verb is documented; the quick start runs."""

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
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


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_what_a_page_shows_of_a_session_was_printed(make_docs, page):
    text = (ROOT / page).read_text()
    assert "\n$ simclr search " in text
    assert make_docs.with_session(text) == text


def test_what_is_meant_to_be_called_is_on_the_page_of_python():
    page = (ROOT / "docs/api.md").read_text()
    for module in ("simclr", "simclr.pretrain", "simclr.export"):
        for name in importlib.import_module(module).__all__:
            assert re.search(rf"^::: simclr\.[\w.]*\.{name}$", page, flags=re.M), f"{module}.{name}"


def test_the_site_builds_without_a_dead_link(tmp_path):
    """Anchors included; `strict` makes every warning an error."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--quiet",
        "--strict",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    pages = sorted(tmp_path.glob("site/**/*.html"))
    assert len(pages) > 30
    for page in pages:
        foreign = re.findall(
            r'<(?:script|link rel="stylesheet"|img)[^>]*(?:src|href)="(https?://[^"]+)', page.read_text()
        )
        assert foreign == [], page.name


def test_troubleshooting_names_errors_as_they_are_said():
    """Each heading's fixed parts are in one file of the package."""
    sources = [_said(path) for path in (ROOT / "simclr").rglob("*.py")]
    headings = re.findall(r"^### `(.+)`$", (ROOT / "docs/troubleshooting.md").read_text(), flags=re.M)
    assert len(headings) > 30
    for heading in headings:
        parts = [part.strip() for part in heading.split("…") if part.strip()]
        assert any(all(part in text for part in parts) for text in sources), heading


def _said(path: Path) -> str:
    """The texts in a file, what is filled in left out."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            found.append(
                "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found)


@pytest.mark.parametrize("verb", VERBS)
def test_the_readme_shows_every_verb(verb):
    assert f"simclr {verb}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_an_example_in_its_help(verb):
    command = next(c.callback for c in app.registered_commands if c.callback.__name__ == verb)
    assert re.search(rf"Example: simclr {verb} ", command.__doc__)


def test_links_between_the_pages_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
