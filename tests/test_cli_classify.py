"""`simclr classify`: fitted, asked and scored from the command line, and what it says when something is wrong."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import run

from simclr.embed import Lane, embed_sources
from simclr.runtime import Encoder


@pytest.fixture
def store(model, photos, tmp_path) -> Path:
    """Twelve photos in the class folders warm/ and cold/."""
    embed_sources([photos], tmp_path / "out.store", Lane(Encoder.open(model)), model=model)
    return tmp_path / "out.store"


@pytest.fixture
def fitted(store) -> Path:
    assert run("classify", "fit", store)[0] == 0
    return store.with_suffix(".classifier")


@pytest.fixture
def news(tmp_path) -> Path:
    """A red and a blue one, and a file that is no image."""
    folder = tmp_path / "news"
    folder.mkdir()
    Image.new("RGB", (30, 20), (230, 40, 30)).save(folder / 'a "red", one.png')
    Image.new("RGB", (20, 30), (20, 40, 220)).save(folder / "b.png")
    (folder / "c.png").write_bytes(b"no image")
    return folder


def test_fit_says_what_it_is_worth(store):
    code, out, err = run("classify", "fit", store)
    first, accuracy, worth = out.splitlines()
    assert code == 0
    assert first == f"{store.with_suffix('.classifier')}: linear probe on 12 images of 2 classes"
    assert (
        accuracy
        == "accuracy 1.000 (1.000 to 1.000) on 2 images (a fifth of each class, held out; then learned from, too)"
    )
    assert worth.startswith("probabilities are off by ")
    assert f"next: simclr classify predict {store.with_suffix('.classifier')} PHOTOS" in err


def test_fit_says_it_to_programs(store):
    found = json.loads(run("classify", "fit", store, "--method", "knn", "-k", "3", "--json")[1])
    assert found["classes"] == {"cold": 6, "warm": 6} and found["method"] == "knn"
    assert found["measured"]["images"] == 2


@pytest.mark.parametrize("method", ["probe", "knn"])
def test_a_folder_is_classified_without_a_store(store, news, method, tmp_path):
    run("classify", "fit", store, "--method", method)
    code, out, err = run("classify", "predict", store.with_suffix(".classifier"), news)
    assert code == 0
    assert [line.split("  ")[0].split()[1] for line in out.splitlines()] == ["warm", "cold"]
    assert "skipped: c.png: " in err
    assert [path.suffix for path in tmp_path.glob("*.store")] == [".store"]  # none but the one that was there


def test_single_images_are_classified(fitted, news):
    out = run("classify", "predict", fitted, news / "b.png", news / 'a "red", one.png')[1]
    assert [line.split()[1] for line in out.splitlines()] == ["cold", "warm"]
    assert str(news / "b.png") in out


def test_a_table_takes_odd_names(fitted, news, tmp_path):
    code, out, err = run("classify", "predict", fitted, news, "--csv", tmp_path / "t.csv", "--top", "2")
    assert (code, out) == (0, "") and f"table: {tmp_path / 't.csv'}" in err
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "probability", "label_2", "probability_2", "unlike"]
    assert [(Path(row["path"]).name, row["label"], row["label_2"]) for row in rows] == [
        ('a "red", one.png', "warm", "cold"),
        ("b.png", "cold", "warm"),
    ]
    assert float(rows[0]["probability"]) + float(rows[0]["probability_2"]) == pytest.approx(1, abs=1e-5)


def test_a_store_is_classified_by_its_ids(fitted, store):
    lines = [json.loads(line) for line in run("classify", "predict", fitted, store, "--json")[1].splitlines()]
    assert [line["id"] for line in lines] == list(range(12))
    assert all(line["label"] == Path(line["path"]).parent.name for line in lines)
    assert set(lines[0]) == {"path", "id", "label", "probability", "unlike", "best"}


def test_score_counts_each_class(fitted, store, photos):
    code, out, _ = run("classify", "score", fitted, photos)
    assert code == 0
    assert out.splitlines()[0] == "accuracy 1.000 (1.000 to 1.000) on 12 images"
    assert out.splitlines()[2].startswith("unlike what it learned from: ")
    assert [line.split() for line in out.splitlines()[4:]] == [
        ["cold", "6", "1.000", "1.000", "1.000"],
        ["warm", "6", "1.000", "1.000", "1.000"],
    ]
    found = json.loads(run("classify", "score", fitted, photos, "--json")[1])
    assert found["confusion"] == [[6, 0], [0, 6]]


def test_the_graph_takes_pixels_and_gives_the_same_probabilities(store, tmp_path, news, model):
    onnxruntime = pytest.importorskip("onnxruntime")
    graph = tmp_path / "joined.onnx"
    code, _, err = run("classify", "fit", store, "--onnx", graph)
    assert code == 0 and f"graph: {graph}, probabilities within" in err
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    assert [(port.name, port.type) for port in session.get_inputs()] == [("images", "tensor(uint8)")]
    assert [(port.name, port.shape[1]) for port in session.get_outputs()] == [("probabilities", 2)]
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["simclr.classes"]) == ["cold", "warm"]
    recipe = Encoder.open(model).recipe
    with Image.open(news / "b.png") as image:
        pixels = recipe.apply(image.convert("RGB"))
    found = session.run(None, {"images": np.stack([pixels] * 3)})[0]
    lines = run("classify", "predict", store.with_suffix(".classifier"), news / "b.png", "--json")[1]
    best = {each["label"]: each["probability"] for each in json.loads(lines)["best"]}
    assert found[0, 0] == pytest.approx(best["cold"], abs=1e-4)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_the_same_graph_comes_from_a_classifier_that_is_there(store, fitted, tmp_path):
    run("classify", "fit", store, "--onnx", tmp_path / "a.onnx")
    assert run("classify", "export", fitted, "--onnx", tmp_path / "b.onnx")[0] == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_graph_that_computes_something_else_is_not_written(fitted, tmp_path, monkeypatch):
    from simclr.classify import deploy

    joined = deploy._joined

    def wrong(encoder, classifier, info, precision):
        classifier.tensors["bias"] = classifier.tensors["bias"] + np.float32([0.5, 0])
        data = joined(encoder, classifier, info, precision)
        classifier.tensors["bias"] = classifier.tensors["bias"] - np.float32([0.5, 0])
        return data

    monkeypatch.setattr(deploy, "_joined", wrong)
    code, _, err = run("classify", "export", fitted, "--onnx", tmp_path / "g.onnx")
    assert code == 3 and "gives probabilities that differ by" in err
    assert not (tmp_path / "g.onnx").exists()


def test_another_encoders_images_are_refused(fitted, other_model, photos, tmp_path):
    embed_sources([photos], tmp_path / "b.store", Lane(Encoder.open(other_model)), model=other_model)
    for words in (
        ["predict", fitted, tmp_path / "b.store"],
        ["predict", fitted, photos, "--model", other_model],
        ["score", fitted, tmp_path / "b.store"],
        ["export", fitted, "--model", other_model, "--onnx", tmp_path / "g.onnx"],
    ):
        code, out, err = run("classify", *words)
        assert (code, out) == (1, "")
        assert "but the classifier learned vectors of" in err


def test_a_moved_classifier_asks_for_its_encoder(fitted, news, tmp_path):
    (tmp_path / "far").mkdir()
    fitted.rename(tmp_path / "far" / "c.classifier")
    code, _, err = run("classify", "predict", tmp_path / "far" / "c.classifier", news)
    assert code == 1 and err.strip().splitlines()[-1].endswith("is not there any more. Give it with --model.")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fit", "{store}", "--method", "svm"], 2, "method 'svm' is unknown. Use one of: probe, knn."),
        (["fit", "{store}", "--labels", "none.csv"], 2, "none.csv: cannot be read"),
        (["fit", "{store}", "--out", "{photos}"], 2, "exists and is no classifier"),
        (["fit", "none.store"], 1, "none.store: no store there"),
        (["predict", "{store}", "{photos}"], 1, "no classifier there"),
        (["predict", "{fitted}", "none"], 1, "none: "),
        (["predict", "{fitted}", "{store}", "{photos}"], 2, "is a store, and stands for itself only"),
        (["export", "{fitted}", "--onnx", "g.onnx", "--precision", "int8"], 2, "precision int8: not in"),
    ],
)
def test_what_is_wrong_is_one_line(store, fitted, photos, tmp_path, monkeypatch, words, code, said):
    monkeypatch.chdir(tmp_path)
    names = {"store": store, "photos": photos, "fitted": fitted}
    found, out, err = run("classify", *(word.format(**names) for word in words))
    assert (found, out) == (code, "")
    assert err.startswith("error: ") and said in err and len(err.strip().splitlines()) == 1


def test_a_vote_has_no_graph(store, tmp_path):
    code, _, err = run("classify", "fit", store, "--method", "knn", "--onnx", tmp_path / "g.onnx")
    assert code == 2 and "a vote among neighbours has no graph of its own" in err
    assert not store.with_suffix(".classifier").exists()
