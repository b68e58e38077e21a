"""`simclr evaluate`: what it prints, and what it says when something is wrong."""

import json
from pathlib import Path

import pytest
from test_cli import run

from simclr.embed import Lane, embed_sources
from simclr.runtime import Encoder


@pytest.fixture
def store(model, photos, tmp_path) -> Path:
    """Twelve photos in the class folders warm/ and cold/."""
    embed_sources([photos], tmp_path / "out.store", Lane(Encoder.open(model)), model=model)
    return tmp_path / "out.store"


def test_measures_come_as_a_table(store):
    code, out, err = run("evaluate", store)
    head, columns, *lines = out.splitlines()
    assert code == 0
    assert head == "2 classes; 10 images to learn from, 2 to test on (a fifth of each class, held out)"
    assert columns.split() == ["out.store"]
    assert [line.split("  ")[0] for line in lines][:3] == ["kNN, k = 1", "kNN, k = 10", "recall@1"]
    assert "linear probe " in out
    assert "neighbours of 2 images among 10" in err


def test_json_has_all_of_it(store):
    found = json.loads(run("evaluate", store, "--json")[1])
    assert (found["classes"], found["train_images"], found["test_images"]) == (["cold", "warm"], 10, 2)
    (one,) = found["encoders"]
    assert one["name"] == "out.store" and len(one["identity"]) == 64
    assert set(one["measures"]["kNN, k = 1"]) == {"value", "low", "high"}
    assert [each["images"] for each in one["per_class"]] == [1, 1]
    assert sum(map(sum, one["confusion"])) == 2
    assert found["differences"] == []


def test_two_stores_are_compared(store, other_model, photos, tmp_path):
    embed_sources([photos], tmp_path / "b.store", Lane(Encoder.open(other_model)), model=other_model)
    out = run("evaluate", store, tmp_path / "b.store")[1]
    assert out.splitlines()[1].split("  ")[-1].strip() == "b.store - out.store"
    assert "+0.000 (+0.000 to +0.000)" in out
    found = json.loads(run("evaluate", store, tmp_path / "b.store", "--json")[1])
    assert [each["name"] for each in found["encoders"]] == ["out.store", "b.store"] and len(
        found["differences"]
    ) == 1


def test_raw_pixels_are_compared_with_the_encoder(store):
    found = json.loads(run("evaluate", store, "--pixels", "--json")[1])
    assert [(each["name"], each["identity"] is None) for each in found["encoders"]] == [
        ("out.store", False),
        ("raw pixels", True),
    ]
    assert run("evaluate", store, "--pixels")[1].splitlines()[1].endswith("raw pixels - out.store")


def test_a_page_is_written(store, tmp_path):
    run("evaluate", store, "--html", tmp_path / "r.html")
    assert "<svg" in (tmp_path / "r.html").read_text()


def test_labels_may_come_from_a_table(store, photos):
    names = sorted(path.name for path in photos.rglob("*.png"))
    lines = [
        f"{path.relative_to(photos)},{'dark' if 'dark' in path.name else 'light'}"
        for path in photos.rglob("*.png")
    ]
    (photos / "labels.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    assert len(names) == 12
    assert json.loads(run("evaluate", store, "--labels", photos / "labels.csv", "--json")[1])["classes"] == [
        "dark",
        "light",
    ]


MISTAKES = {
    "no such store": (["none.store"], 1, "none.store: no store there"),
    "no such table": (["STORE", "--labels", "none.csv"], 2, "none.csv: cannot be read"),
    "one class": (["STORE", "--labels", "one.csv"], 2, "one class only (a)"),
    "unknown images": (["STORE", "--labels", "unknown.csv"], 2, "2 of the 2 images it names are not in"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_its_exit_code(mistake, store, tmp_path):
    (tmp_path / "one.csv").write_text("path,label\nwarm/red_dark.png,a\nwarm/red_light.png,a\n")
    (tmp_path / "unknown.csv").write_text("path,label\nx.png,a\ny.png,b\n")
    words, expected, message = MISTAKES[mistake]
    code, out, err = run(
        "evaluate", *[str(store) if word == "STORE" else word for word in words], cwd=tmp_path
    )
    assert (code, out, err.count("\n"), err[:7]) == (expected, "", 1, "error: ")
    assert message in err
