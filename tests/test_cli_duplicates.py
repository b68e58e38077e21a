"""`simclr duplicates`: what it prints and writes, and what it says when something is wrong."""

import csv
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import run

from simclr.classify import duplicate_report
from simclr.classify.duplicate_words import write_groups
from simclr.embed import Lane, embed_sources
from simclr.runtime import Encoder

ODD = 'a, "b" ü.jpg'
"""A comma and quotes, as names of files may have."""


@pytest.fixture(scope="module")
def encoder(model) -> Encoder:
    return Encoder.open(model)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Thirty images of 60 x 40; a copy of 00.png byte for byte, one of 01.png at half the size, one of 02.png as JPEG."""
    folder = tmp_path_factory.mktemp("given") / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(30):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((60, 40), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")
    shutil.copy(folder / "00.png", folder / "exact.png")
    with Image.open(folder / "01.png") as image:
        image.resize((30, 20), Image.Resampling.BICUBIC).save(folder / "small.png")
    with Image.open(folder / "02.png") as image:
        image.save(folder / ODD, quality=60)
    return folder


@pytest.fixture(scope="module")
def store(model, encoder, pictures, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "out.store"
    embed_sources([pictures], path, Lane(encoder), model=model)
    return path


@pytest.fixture(scope="module")
def held_out(model, encoder, pictures, tmp_path_factory) -> Path:
    """Four images, of which one is in the store and another one nearly."""
    folder = tmp_path_factory.mktemp("test")
    shutil.copy(pictures / "05.png", folder / "same.png")
    with Image.open(pictures / "06.png") as image:
        image.save(folder / "nearly.jpg", quality=70)
    rng = np.random.default_rng(9)
    for i in range(2):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((60, 40), Image.Resampling.BICUBIC).save(folder / f"new{i}.png")
    path = tmp_path_factory.mktemp("stores") / "test.store"
    embed_sources([folder], path, Lane(encoder), model=model)
    return path


def expected(pictures: Path) -> list[tuple[str, str, str]]:
    """Keeper, copy, kind."""
    return [
        (str(pictures / "00.png"), str(pictures / "exact.png"), "exact"),
        (str(pictures / "01.png"), str(pictures / "small.png"), "near"),
        (str(pictures / ODD), str(pictures / "02.png"), "near")
        if (pictures / ODD).stat().st_size > (pictures / "02.png").stat().st_size
        else (str(pictures / "02.png"), str(pictures / ODD), "near"),
    ]


def test_a_line_for_each_group_and_the_counts(store, pictures):
    code, out, err = run("duplicates", store, "--threshold", "0.9995")
    assert code == 0
    lines = out.splitlines()
    for line, (keeper, copy, kind) in zip(lines[:-1], sorted_by_id(pictures), strict=True):
        pattern = re.escape(f"{keeper}  {copy} (") + rf"[01]\.\d{{4}} {kind}\)"
        assert re.fullmatch(pattern, line)
    size = sum(Path(copy).stat().st_size for _, copy, _ in expected(pictures)) / 1000
    assert (
        lines[-1] == f"3 groups of copies among 33 images; 3 images could go (1 exact, 2 near), {size:.1f} kB"
    )
    assert "threshold: a cosine of 0.9995, as given" in err
    assert "out.faiss: no such index; one is built for this" in err


def sorted_by_id(pictures: Path) -> list[tuple[str, str, str]]:
    """Ids are in the order of names."""
    return sorted(expected(pictures))


def test_auto_chooses_a_threshold_and_says_what_it_finds(store):
    code, out, err = run("duplicates", store)
    assert code == 0 and "exact)" in out and " near)" in out
    assert re.search(
        r"^threshold: a likeness of 0\.\d{4}, chosen by copies made of 32 images of the store; of these it finds:$",
        err,
        re.M,
    )
    for kind in ("rescaled", "recompressed", "mirrored", "cropped", "recoloured"):
        assert re.search(rf"^  {kind} +\d+\.\d %$", err, re.M)


def test_json_has_an_object_for_each_group(store, pictures):
    code, out, err = run("duplicates", store, "--threshold", "0.9995", "--json")
    groups = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and "3 groups of copies" in err
    assert [each["group"] for each in groups] == [1, 2, 3]
    assert [
        (each["keeper"]["path"], each["copies"][0]["path"], each["copies"][0]["kind"]) for each in groups
    ] == sorted_by_id(pictures)
    second = groups[[each["keeper"]["path"] for each in groups].index(str(pictures / "01.png"))]
    assert second["keeper"] | {"id": 0} == {
        "id": 0, "path": str(pictures / "01.png"), "width": 60, "height": 40, "bytes": (pictures / "01.png").stat().st_size,
    }  # fmt: skip
    (copy,) = second["copies"]
    assert (copy["width"], copy["height"]) == (30, 20) and 0.9995 <= copy["similarity"] <= 1


def test_the_table_has_every_image_of_a_group_whatever_its_name(store, pictures, tmp_path):
    run("duplicates", store, "--threshold", "0.9995", "--csv", tmp_path / "c.csv")
    with open(tmp_path / "c.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["group", "role", "kind", "similarity", "id", "path", "width", "height", "bytes"]
    found = []
    for keeper, copy in zip(rows[::2], rows[1::2], strict=True):
        assert (keeper["role"], keeper["kind"], float(keeper["similarity"])) == ("keeper", "", 1.0)
        assert copy["role"] == "copy" and keeper["group"] == copy["group"]
        assert int(copy["bytes"]) == Path(copy["path"]).stat().st_size
        found.append((keeper["path"], copy["path"], copy["kind"]))
    assert found == sorted_by_id(pictures)


@pytest.mark.parametrize("name", ['a,b"c', "a\nb", "a\r\nb", "=1+1", "\udcff.jpg", ""])
def test_a_table_gives_back_any_name(name, tmp_path):
    image = {"id": 3, "path": name, "width": 1, "height": 2, "bytes": 4}
    group = {"group": 1, "keeper": image, "copies": [image | {"similarity": 0.5, "kind": "near"}]}
    write_groups(tmp_path / "c.csv", [group])
    with open(tmp_path / "c.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [name, name]


def test_the_page_shows_the_groups_and_where_the_threshold_cuts(store, tmp_path):
    run("duplicates", store, "--html", tmp_path / "auto.html")
    run("duplicates", store, "--threshold", "0.9995", "--html", tmp_path / "given.html")
    for name, histograms in (("auto", True), ("given", False)):
        page = (tmp_path / f"{name}.html").read_text()
        (drawn,) = re.findall(r"<svg.*?</svg>", page, re.S)
        ElementTree.fromstring(drawn)
        assert ("planted copies" in drawn, "nearest other image" in drawn) == (histograms, True)
        assert "threshold" in drawn and "<h2>Group 1</h2>" in page and "keep: 60 x 40" in page
        assert page.count("<img") >= 4 and "no longer there" not in page


def test_the_page_ends_after_some_groups_and_the_table_does_not(store, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicate_report, "SHOWN", 2)
    run(
        "duplicates",
        store,
        "--threshold",
        "0.9995",
        "--html",
        tmp_path / "p.html",
        "--csv",
        tmp_path / "c.csv",
    )
    page = (tmp_path / "p.html").read_text()
    assert "The first 2 of 3 groups are shown; a CSV file (--csv) has all." in page
    assert "<h2>Group 2</h2>" in page and "<h2>Group 3</h2>" not in page
    assert (tmp_path / "c.csv").read_text().count("keeper") == 3


def test_a_large_group_is_shown_in_part(store, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicate_report, "_TILES", 3)
    run("duplicates", store, "--threshold", "0.01", "--html", tmp_path / "p.html")
    assert "<h2>Group 1, and 29 copies more</h2>" in (tmp_path / "p.html").read_text()


def test_a_store_without_copies_says_so(held_out):
    assert run("duplicates", held_out, "--threshold", "0.9999")[:2] == (0, "no copies among 4 images\n")
    assert run("duplicates", held_out, "--threshold", "0.9999", "--json")[:2] == (0, "")


def test_images_of_a_test_set_that_were_trained_on(store, held_out, pictures, tmp_path):
    code, out, _ = run(
        "duplicates", store, held_out, "--threshold", "0.9995",
        "--csv", tmp_path / "c.csv", "--html", tmp_path / "p.html",
    )  # fmt: skip
    near, same, counts = out.splitlines()
    assert code == 0
    assert re.search(rf"/nearly\.jpg  {re.escape(str(pictures / '06.png'))} \((0\.9|1\.0)\d+ near\)$", near)
    assert re.search(rf"/same\.png  {re.escape(str(pictures / '05.png'))} \(1\.0000 exact\)$", same)
    assert counts == "2 of the 4 images of test.store (50.00 %) have a copy in out.store (1 exact, 1 near)"
    with open(tmp_path / "c.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], Path(row["copy_path"]).name) for row in rows] == [
        ("near", "06.png"),
        ("exact", "05.png"),
    ]
    page = (tmp_path / "p.html").read_text()
    assert "this one" in page and "<svg" in page and counts in page


def test_leaks_as_objects_with_a_threshold_that_was_chosen(store, held_out):
    code, out, err = run("duplicates", store, held_out, "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and "chosen by copies made of 32 images" in err
    assert {"id", "path", "kind", "similarity", "copy_id", "copy_path"} == {*found[0]}
    assert [Path(each["path"]).name for each in found if each["kind"] == "exact"] == ["same.png"]


def test_nothing_is_deleted_or_changed(store, held_out, pictures, tmp_path):
    def everything() -> dict[Path, bytes]:
        folders = (store, held_out, pictures, store.parent)
        return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}

    before = everything()
    run("duplicates", store, "--html", tmp_path / "p.html", "--csv", tmp_path / "c.csv")
    run("duplicates", store, held_out)
    assert everything() == before


MISTAKES = {
    "no such store": (["none.store"], 1, "none.store: no store there"),
    "no such other store": (["STORE", "none.store"], 1, "none.store: no store there"),
    "threshold 0": (["STORE", "--threshold", "0"], 2, "--threshold (0) must be more than 0 and at most 1"),
    "threshold above 1": (["STORE", "--threshold", "1.5"], 2, "--threshold (1.5) must be"),
    "threshold that is none": (["STORE", "--threshold", "nan"], 2, "--threshold (nan) must be"),
    "threshold in words": (["STORE", "--threshold", "high"], 2, "--threshold 'high' is no number"),
    "the same store twice": (["STORE", "STORE"], 2, "the same store twice"),
    "another encoder": (["STORE", "FOREIGN"], 1, "its vectors were made by encoder"),
    "no such index": (["STORE", "--index", "none.faiss"], 1, "none.faiss: no such index"),
    "a table that cannot be written": (["STORE", "--csv", "no/c.csv"], 1, "no/c.csv: cannot be written"),
    "a table that is a folder": (["STORE", "--csv", "."], 1, "cannot be written (it is a folder). Give another --csv"),
    "a page that cannot be written": (["STORE", "--html", "no/p.html"], 1, "no/p.html: cannot be written"),
    "table and page in one": (["STORE", "--html", "x", "--csv", "x"], 2, "x: is where the page goes, too"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_its_exit_code_before_the_work(
    mistake, store, model, other_model, pictures, tmp_path
):
    words, expected, message = MISTAKES[mistake]
    if "FOREIGN" in words:
        embed_sources([pictures], tmp_path / "f.store", Lane(Encoder.open(other_model)), model=other_model)
    places = {"STORE": str(store), "FOREIGN": str(tmp_path / "f.store")}
    code, out, err = run("duplicates", *[places.get(word, word) for word in words], cwd=tmp_path)
    assert (code, out, err.count("\n"), err[:7]) == (expected, "", 1, "error: ")
    assert message in err
    assert not list(tmp_path.glob(".*.tmp"))


def test_images_that_have_moved_need_a_threshold(model, encoder, pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "here")
    embed_sources([tmp_path / "here"], tmp_path / "m.store", Lane(encoder), model=model)
    (tmp_path / "here").rename(tmp_path / "there")
    code, out, err = run("duplicates", tmp_path / "m.store")
    last = err.splitlines()[-1]
    assert (code, out) == (1, "") and last.startswith("error: ") and last.endswith("--threshold 0.95")
    code, out, _ = run(
        "duplicates", tmp_path / "m.store", "--threshold", "0.9995", "--html", tmp_path / "p.html"
    )
    assert code == 0 and out.count("exact)") == 1
    assert "image is no longer there" in (tmp_path / "p.html").read_text()


def test_without_matplotlib_a_page_is_refused_first(store, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    code, out, err = run("duplicates", store, "--html", tmp_path / "p.html")
    assert (code, out) == (1, "") and "simclr-toolkit[classify]" in err and err.count("\n") == 1
