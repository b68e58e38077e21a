"""`simclr clusters`: what it prints, and what it says when something is wrong."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import run

from simclr.embed import Lane, embed_sources
from simclr.runtime import Encoder


@pytest.fixture
def store(model, tmp_path) -> Path:
    """Sixty small pictures: thirty red, twenty green, ten blue, each a little different."""
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name, colour, count in (("red", 0, 30), ("green", 1, 20), ("blue", 2, 10)):
        for number in range(count):
            pixels = rng.integers(0, 40, (16, 16, 3), np.uint8)
            pixels[..., colour] += 200
            Image.fromarray(pixels).save(photos / f"{name}_{number:02d}.png")
    embed_sources([photos], tmp_path / "out.store", Lane(Encoder.open(model)), model=model)
    return tmp_path / "out.store"


def test_clusters_come_as_a_table_the_largest_first(store):
    code, out, err = run("clusters", store, "-n", 3)
    head, columns, *lines = out.splitlines()
    assert code == 0
    assert head.startswith("60 images in 3 clusters, tightness 1.000")
    assert columns.split() == ["cluster", "images", "tightness", "most", "typical"]
    assert [line.split()[:2] for line in lines] == [["1", "30"], ["2", "20"], ["3", "10"]]
    assert [Path(line.split()[3]).name.split("_")[0] for line in lines] == ["red", "green", "blue"]
    assert err == "3 centres from 60 vectors\n60 images, each to the nearest of them\n"


def test_the_number_is_chosen_and_the_table_of_those_tried_is_shown(store):
    code, out, err = run("clusters", store)
    head, *lines = out.splitlines()
    assert code == 0
    assert head.split("  ")[:1] == ["clusters"]
    assert [line.split()[0] for line in lines[:3]] == ["2", "3", "4"]
    assert [line.endswith("chosen") for line in lines[:3]] == [False, True, False]
    assert "60 images in 3 clusters" in out
    assert err.startswith("trying 2 to 4 clusters with 45 vectors, judged by 15 others\n")


def test_json_is_an_object_a_line(store):
    code, out, _ = run("clusters", store, "-n", 3, "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(each["cluster"], each["size"]) for each in found] == [(1, 30), (2, 20), (3, 10)]
    assert set(found[0]) == {"cluster", "size", "tightness", "typical", "untypical"}
    assert [len(each["typical"]) for each in found] == [8, 8, 8]
    assert set(found[0]["typical"][0]) == {"id", "path", "similarity"}
    assert Path(found[0]["typical"][0]["path"]).is_file()


def test_json_leaves_the_reason_to_stderr(store):
    _, out, err = run("clusters", store, "--json")
    assert all(json.loads(line) for line in out.splitlines())
    assert "3 clusters" in err.splitlines()[-1]


def test_a_csv_names_the_cluster_of_every_image(store, tmp_path):
    run("clusters", store, "-n", 3, "--csv", tmp_path / "c.csv")
    with open(tmp_path / "c.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    numbers = {"red": "1", "green": "2", "blue": "3"}
    assert all(numbers[Path(row["path"]).name.split("_")[0]] == row["cluster"] for row in rows)
    assert all(Path(row["path"]).is_file() for row in rows)


def test_a_page_is_written_with_the_pictures_themselves(store, tmp_path):
    run("clusters", store, "--html", tmp_path / "c.html")
    text = (tmp_path / "c.html").read_text()
    assert "<svg" in text and text.count("data:image/jpeg;base64") == 3 * 8 + 4 + 4 + 2
    assert "no longer there" not in text


MISTAKES = {
    "no such store": (["none.store"], 1, "none.store: no store there"),
    "one cluster": (
        ["STORE", "-n", "1"],
        2,
        "-n 1: must be at least 2 and at most the number of images, 60 in",
    ),
    "more than images": (["STORE", "-n", "61"], 2, "-n 61: must be at least 2"),
    "no number": (["STORE", "-n", "many"], 2, "-n 'many': is no number. Give one such as 20, or auto."),
    "no folder for the CSV": (
        ["STORE", "--csv", "none/c.csv"],
        1,
        "none/c.csv: cannot be written (No such file",
    ),
    "a folder as CSV": (["STORE", "--csv", "."], 1, "cannot be written (it is a folder). Give another --csv"),
    "no folder for the page": (["STORE", "--html", "none/c.html"], 1, "Give another --html."),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_its_exit_code(mistake, store, tmp_path):
    """What cannot be written is said before the work: nothing else is on stderr."""
    words, expected, message = MISTAKES[mistake]
    code, out, err = run(
        "clusters", *[str(store) if word == "STORE" else word for word in words], cwd=tmp_path
    )
    assert (code, out, err.count("\n"), err[:7]) == (expected, "", 1, "error: ")
    assert message in err


def test_a_whole_run_loads_no_torch(store):
    code = (
        "import sys; from typer.testing import CliRunner; from simclr.cli import app\n"
        f"done = CliRunner().invoke(app, ['clusters', {str(store)!r}, '-n', '3'])\n"
        "print(done.exit_code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 False\n"
