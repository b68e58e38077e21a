"""What is released: the package, whole, nothing beside it, the same bytes each time; and it embeds and searches without torch."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from simclr import __version__

ROOT = Path(__file__).parent.parent


def build(out: Path) -> tuple[Path, Path]:
    """The wheel and the source archive."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", out], cwd=ROOT, check=True, capture_output=True
    )  # fmt: skip
    (wheel,), (archive,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, archive


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("dist"))


def files_of(folder: str) -> set[str]:
    """As they lie in the repository, without what is made when they run."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_every_file_of_the_package_and_no_other(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    described = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - described == files_of("simclr")
    assert {name.split("/", 1)[1] for name in described} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip


def test_the_source_archive_has_what_builds_tests_and_documents_it(built):
    names = {name.split("/", 1)[1] for name in tarfile.open(built[1]).getnames()}
    assert files_of("simclr") | files_of("tests") | {"pyproject.toml", "Makefile", "constraints.txt"} <= names
    assert {"README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md", "docs/cli.md"} <= names


def test_a_second_build_has_the_same_bytes(built, tmp_path):
    for first, second in zip(built, build(tmp_path), strict=True):
        assert first.name == second.name
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_the_wheel_alone_embeds_and_searches_without_torch(built, model, photos, tmp_path):
    """In an environment of its own, with the extra for CPUs; downloads its dependencies."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    constraints = ["--constraint", ROOT / "constraints.txt"]
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, *constraints, f"{built[0]}[cpu]"], check=True
    )  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: object) -> str:
        done = subprocess.run(
            [python, *map(str, words)], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", "import importlib.util as u; print(u.find_spec('torch'))") == "None\n"
    assert run("-m", "simclr", "--version") == f"{__version__}\n"
    run("-m", "simclr", "embed", photos, "--model", model, "--index", "out.faiss")
    found = run("-m", "simclr", "search", "out.faiss", photos / "warm/red_light.png", "-k", 1)
    assert found.endswith("red_light.png\n")
