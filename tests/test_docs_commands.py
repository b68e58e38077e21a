"""Every command in the docs is run, on a few drawn images under the names that the pages use; what cannot run here is read by the
command's own parser.
"""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from drawn import draw
from PIL import Image
from test_cli import run

from simclr.cli import app

ROOT = Path(__file__).parent.parent
TINY = "--encoder test_resnet --image-size 32 --set small_stem=false"
"""What makes a run of this test small; given last, so that it counts."""
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if page.name not in ("cli.md", "log.md")
]
ONLY_READ = {
    r"^(demo|serve|doctor)\b": "has tests of its own",
    r"^index (train|join)|--shard": "has tests of its own, with enough vectors",
    r"s3://|https?://|--ray": "needs a server or a cluster",
    r"--trt|--provider|--backend|--device cuda": "needs a GPU",
    r"\btimm:(?!.*--no-pretrained)": "needs the network",
    r"\.(pth|ckpt|tar)\b|--weights ": "needs weights of that architecture",
    r"^(benchmark|probe)\b": "measures for minutes",
}
"""What is not run, and why."""
INPUTS = ("--labels", "--data", "--model", "--classifier", "--check", "--calibrate", "--eval", "--unlike")
MANY = 22
"""Photos of each of the twelve kinds: enough for the batch of a recipe."""


def commands(page: Path) -> list[str]:
    """The words after `simclr` of each line of code that is such a command."""
    found, fenced, open_line = [], False, ""
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            fenced = not fenced
        if not fenced and not line.startswith("    "):
            continue
        line = open_line + line.strip()
        if line.endswith("\\"):
            open_line = line[:-1]
            continue
        open_line = ""
        if match := re.match(r"(?:\$ )?(?:[A-Z_]+=(?:\$\(.*?\)|\S+) )*simclr (.*)", line):
            found.append(re.sub(r"\s#.*$", "", match[1]).strip())
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, a run of a few steps, and all that follows from it."""
    world = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    for path in sorted(draw(world / "photos").rglob("*.png")):
        plain = np.asarray(Image.open(path)).astype(int)
        for number in range(MANY):
            pixels = plain + rng.integers(-30, 30, plain.shape)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
                path.with_stem(f"{path.stem}{number:02}")
            )
    for words in (
        f"pretrain --data photos --out run --batch-size 128 --epochs 1 {TINY}",
        "export run",
        "embed photos --index photos.faiss --model run/export",
        "classify fit photos.store",
    ):
        code, _, err = run(*words.split(), cwd=world)
        assert code == 0, err
    return world


def provide(name: str, world: Path, made: Path, *, option: str = "") -> None:
    """Something of the kind that a name stands for, at that place, unless something is there."""
    place = world / name.rstrip("/")
    if place.exists() or "://" in name or name.startswith("timm:"):
        return
    if place.name == "export":
        provide(str(Path(name).parent), world, made)
    place.parent.mkdir(parents=True, exist_ok=True)
    if option == "--model" or place.name == "export":
        shutil.copytree(made / "run/export", place, dirs_exist_ok=True)
    elif re.match(r"runs?(/|$)", name):
        shutil.copytree(made / "run", place)
    elif place.suffix == ".store":
        shutil.copytree(made / "photos.store", place)
    elif place.suffix == ".faiss":
        for path in made.glob("photos.faiss*"):
            shutil.copy(path, place.with_name(path.name.replace("photos", place.stem)))
        provide(f"{place.stem}.store", world, made)
    elif place.suffix == ".classifier":
        shutil.copytree(made / "photos.classifier", place)
        provide("photos.store", world, made)  # whose encoder it goes by
    elif place.suffix == ".jpg":
        Image.open(next((made / "photos/warm").glob("*.png"))).save(place)
    elif place.suffix in (".csv", ".txt"):
        photos = [path.relative_to(made) for path in sorted((made / "photos").rglob("*.png"))]
        table = ["path,label", *(f"{Path(*path.parts[1:])},{path.parts[1]}" for path in photos)]
        place.write_text(
            "\n".join(table if place.suffix == ".csv" else [str(made / path) for path in photos]) + "\n"
        )
    elif place.suffix == "":
        shutil.copytree(made / "photos", place)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_the_commands_of_a_page_do_what_it_says(page, made, tmp_path):
    """In their order: what an earlier one makes is there for the later ones."""
    for words in dict.fromkeys(commands(page)):
        tokens = shlex.split(words)
        first = 2 if tokens[0] in ("index", "store", "classify") else 1
        for before, token in zip(tokens[first - 1 :], tokens[first:], strict=False):
            if before in INPUTS or (token[0] != "-" and (before[0] != "-" or before == "--mean")):
                provide(token, tmp_path, made, option=before)
        if any(re.search(pattern, words) for pattern in ONLY_READ):
            read(tokens, tmp_path)
            continue
        if tokens[0] == "pretrain":
            tokens += ["--dry-run", *TINY.split()]
        elif tokens[0] == "export":
            tokens = [re.sub("timm:.*", "timm:test_resnet", token) for token in tokens]
        elif tokens[0] == "embed" and "--model" not in tokens:
            provide("runs/first/export", tmp_path, made)
        code, out, err = run(*tokens, cwd=tmp_path)
        assert code == 0, f"simclr {words}\n{out}\n{err}"


def read(tokens: list[str], world: Path) -> None:
    """By the parser alone; raises where an option does not exist or a value is none."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, tokens = command.commands[tokens[0]], tokens[1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        command.make_context("simclr", tokens)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_named_in_passing_exists_with_its_options(page):
    for words in re.findall(r"`simclr ([^`]+)`", page.read_text()):
        command, tokens = typer.main.get_command(app), words.split()
        while hasattr(command, "commands") and tokens:
            command, tokens = command.commands[tokens[0]], tokens[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {token for token in tokens if token.startswith("--")} <= options, words


def test_the_pages_have_commands():
    assert sum(len(commands(page)) for page in PAGES) > 100
