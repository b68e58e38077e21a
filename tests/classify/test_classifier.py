"""Classifiers: fitted, saved, opened, asked; refused where they are damaged or of another encoder."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from simclr.classify.classifier import MANIFEST_FILE, Classifier
from simclr.classify.fitting import fit_classifier
from simclr.classify.knn import TEMPERATURE
from simclr.classify.predicting import predict
from simclr.classify.probe import fit_probe
from simclr.classify.scoring import score
from simclr.embed.store import Store
from simclr.errors import ArtifactError, ConfigError, EncoderMismatch

KINDS = ("apple", "pear", "plum")
CENTRES = np.eye(3, 8)


def vectors_of(labels: np.ndarray, *, noise: float, seed: int = 0) -> np.ndarray:
    return CENTRES[labels] + noise * np.random.default_rng(seed).standard_normal((len(labels), 8))


@pytest.fixture
def fruit(put) -> Store:
    """Ninety images in three class folders, near three directions."""
    labels = np.arange(90) % 3
    names = [f"{KINDS[label]}/{i}.jpg" for i, label in enumerate(labels)]
    return put(names, vectors=vectors_of(labels, noise=0.25))


@pytest.fixture(params=["probe", "knn"])
def fitted(request, fruit, tmp_path) -> Classifier:
    return fit_classifier(fruit, "folders", tmp_path / "f.classifier", method=request.param)


def stored_vectors(store: Store) -> np.ndarray:
    return np.concatenate([vectors for _, vectors in store.blocks()])


def test_it_tells_the_classes_apart(fitted):
    labels = np.arange(60) % 3
    vectors = vectors_of(labels, noise=0.1, seed=5)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = fitted.predict(vectors)
    assert (found.probabilities_QC.argmax(1) == labels).all()
    np.testing.assert_allclose(found.probabilities_QC.sum(1), 1)


def test_opened_again_it_says_the_very_same(fitted, fruit, tmp_path):
    again = Classifier.open(tmp_path / "f.classifier")
    assert again.info == fitted.info
    vectors = stored_vectors(fruit)
    np.testing.assert_array_equal(
        again.predict(vectors).probabilities_QC, fitted.predict(vectors).probabilities_QC
    )


def test_a_probes_graph_weights_are_the_probe_itself(fruit, tmp_path):
    """Standardising is folded into the weights."""
    fitted = fit_classifier(fruit, "folders", tmp_path / "f.classifier")
    vectors, labels = stored_vectors(fruit), np.arange(90) % 3
    probe = fit_probe(vectors, labels, 3)
    weight = fitted.tensors["weight"] * probe.scale_D
    # the same problem with the strength that was chosen on four fifths
    from simclr.classify.probe import LinearProbe, refit

    same = refit(
        LinearProbe(probe.mean_D, probe.scale_D, probe.weight_CD, probe.bias_C, fitted.info.strength or 0), vectors, labels
    )  # fmt: skip
    np.testing.assert_allclose(weight, same.weight_CD, atol=1e-4)
    np.testing.assert_allclose(
        fitted.logits(vectors) * fitted.info.temperature, same.logits(vectors), atol=1e-3
    )


def test_a_vote_is_that_of_a_loop_over_all_images(fruit, tmp_path):
    fitted = fit_classifier(fruit, "folders", tmp_path / "f.classifier", method="knn", voters=7)
    learned = fitted.tensors["learned"].astype(np.float64)
    learned /= np.linalg.norm(learned, axis=1, keepdims=True)
    labels = fitted.tensors["labels"]
    query = np.full(8, 8**-0.5)
    nearest = sorted(range(90), key=lambda i: -float(query @ learned[i]))[:7]
    shares = np.zeros(3)
    for i in nearest:
        shares[labels[i]] += np.exp(query @ learned[i] / TEMPERATURE)
    sharp = (shares / shares.max()) ** (1 / fitted.info.temperature)
    expected = (1 - fitted.info.floor) * sharp / sharp.sum() + fitted.info.floor / 3
    found = fitted.predict(query[None].astype(np.float32)).probabilities_QC[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_points_elsewhere_is_unlike_anything_seen(fitted):
    inside, outside = np.zeros((1, 8), np.float32), np.zeros((1, 8), np.float32)
    inside[0, 0], outside[0, 7] = 1, -1
    assert fitted.predict(inside).unlike_Q[0] < 0.1
    assert fitted.predict(outside).unlike_Q[0] == 1.0


def test_all_images_are_learned_from_where_nothing_says_which_test(fitted):
    assert fitted.info.counts == (30, 30, 30)
    assert fitted.info.measured["images"] == 18
    assert fitted.info.measured["accuracy"] > 0.9


def test_images_that_the_table_names_for_testing_are_never_learned_from(put, tmp_path):
    """They have wrong labels here: learned from, they would blur the classes, and they are all got wrong."""
    labels = np.arange(90) % 3
    names = [f"{i}.jpg" for i in range(90)]
    store = put(names, vectors=vectors_of(labels, noise=0.05))
    lines = ["path,label,split"]
    for i, name in enumerate(names):
        test = i >= 60
        lines.append(f"photos/{name},{KINDS[(labels[i] + test) % 3]},{'test' if test else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    fitted = fit_classifier(store, tmp_path / "labels.csv", tmp_path / "f.classifier", method="knn")
    assert fitted.info.counts == (20, 20, 20)
    assert fitted.info.measured["accuracy"] == 0
    assert len(fitted.tensors["learned"]) == 60


def test_the_same_seed_gives_the_same_bytes(fruit, tmp_path):
    for name in ("a", "b"):
        fit_classifier(fruit, "folders", tmp_path / f"{name}.classifier", seed=3)
    one, other = (sorted((tmp_path / f"{name}.classifier").iterdir()) for name in ("a", "b"))
    assert [path.name for path in one] == [path.name for path in other]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_fitted_again_it_leaves_nothing_of_the_old_one(fruit, tmp_path):
    fit_classifier(fruit, "folders", tmp_path / "f.classifier", method="knn")
    fit_classifier(fruit, "folders", tmp_path / "f.classifier", method="probe")
    assert len(list((tmp_path / "f.classifier").iterdir())) == 2
    assert Classifier.open(tmp_path / "f.classifier").info.method == "probe"


def test_another_folder_is_not_written_into(fruit, tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "a.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"holiday: exists and is no classifier. Give another --out."):
        fit_classifier(fruit, "folders", tmp_path / "holiday")
    assert [path.name for path in (tmp_path / "holiday").iterdir()] == ["a.jpg"]


@pytest.mark.parametrize("which", ["classifier.json", "tensors"])
def test_one_flipped_bit_is_found(fruit, tmp_path, which):
    fit_classifier(fruit, "folders", tmp_path / "f.classifier")
    (file,) = (path for path in (tmp_path / "f.classifier").iterdir() if path.name.startswith(which))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged"):
        Classifier.open(tmp_path / "f.classifier")


def test_tensors_of_another_shape_are_refused_though_their_digest_fits(fruit, tmp_path):
    import dataclasses

    from simclr.artifacts import ClassifierInfo, file_sha256

    folder = tmp_path / "f.classifier"
    info = fit_classifier(fruit, "folders", folder).info
    (file,) = folder.glob("tensors.*")
    tensors = load_file(file)
    tensors["weight"] = tensors["weight"][:, :4].copy()
    save_file(tensors, file)
    sha256 = file_sha256(file)
    file.rename(folder / f"tensors.{sha256[:16]}.safetensors")
    size = (folder / f"tensors.{sha256[:16]}.safetensors").stat().st_size
    dataclasses.replace(info, tensors_sha256=sha256, tensors_size=size).save(folder / MANIFEST_FILE)
    assert isinstance(ClassifierInfo.load(folder / MANIFEST_FILE), ClassifierInfo)
    with pytest.raises(ArtifactError, match="its tensors are not those of a classifier"):
        Classifier.open(folder)


def test_no_classifier_is_one_line_with_the_next_command(tmp_path):
    with pytest.raises(ArtifactError, match=r"no classifier there. Make one with `simclr classify fit STORE"):
        Classifier.open(tmp_path / "none")


def test_vectors_of_another_encoder_are_refused(fitted, put, tmp_path):
    other = put(["a.jpg"], identity="y" * 64, store=tmp_path / "other.store")
    with pytest.raises(
        EncoderMismatch, match=r"is of encoder yyyyyyyy, but the classifier learned vectors of x\."
    ):
        fitted.refuse_other(other.info.identity, other.folder)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([f"apple/{i}.jpg" for i in range(9)], "one class only"),
        (["apple/1.jpg", "pear/1.jpg"], "no class has a second image"),
    ],
)
def test_too_little_to_learn_from_is_said(put, tmp_path, names, words):
    with pytest.raises(ConfigError, match=words):
        fit_classifier(put(names), "folders", tmp_path / "f.classifier")
    assert not (tmp_path / "f.classifier").exists()


def test_uneven_labels_are_remarked(put, tmp_path):
    names = [f"apple/{i}.jpg" for i in range(80)] + [f"pear/{i}.jpg" for i in range(3)]
    notes: list[str] = []
    fit_classifier(put(names), "folders", tmp_path / "f.classifier", note=notes.append)
    assert any(line.startswith("uneven labels: 64 images of 'apple', 2 of 'pear'.") for line in notes)


@pytest.mark.parametrize(
    ("settings", "words"), [({"method": "svm"}, "method 'svm' is unknown"), ({"voters": 0}, r"k \(0\)")]
)
def test_settings_without_sense_are_refused(fruit, tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        fit_classifier(fruit, "folders", tmp_path / "f.classifier", **settings)


# ---- asked


def test_predictions_come_in_the_stores_order_with_the_likeliest_first(fitted, fruit):
    found = list(predict(fitted, fruit, top=2))
    assert [Path(each.path).name for each in found] == [f"{i}.jpg" for i in range(90)]
    assert all(len(each.best) == 2 and each.best[0][1] >= each.best[1][1] for each in found)
    assert [each.id for each in found] == list(range(90))
    right = [Path(each.path).parent.name == each.best[0][0] for each in found]
    assert np.mean(right) > 0.9


def test_a_score_counts_what_a_loop_counts(fitted, fruit):
    table = score(fitted, fruit, "folders").confusion_CC
    expected = np.zeros((3, 3), int)
    for each in predict(fitted, fruit):
        expected[KINDS.index(Path(each.path).parent.name), KINDS.index(each.best[0][0])] += 1
    assert table.tolist() == expected.tolist()
    assert score(fitted, fruit, "folders").measured["accuracy"] == pytest.approx(np.trace(expected) / 90)


def test_a_score_on_what_it_was_fitted_to_is_remarked(fitted, fruit):
    notes: list[str] = []
    score(fitted, fruit, "folders", note=notes.append)
    assert any("so it has seen these images" in line for line in notes)


def test_classes_that_the_classifier_does_not_know_are_refused(fitted, put, tmp_path):
    other = put(["apple/1.jpg", "kiwi/1.jpg"], store=tmp_path / "other.store")
    with pytest.raises(
        ConfigError, match=r"1 classes are unknown to the classifier \('kiwi'\). It knows apple, pear, plum."
    ):
        score(fitted, other, "folders")


def test_a_part_of_the_classes_can_be_scored(fitted, put, tmp_path):
    labels = np.array([1, 2] * 5)
    other = put(
        [f"{KINDS[label]}/{i}.jpg" for i, label in enumerate(labels)],
        vectors=vectors_of(labels, noise=0.05),
        store=tmp_path / "other.store",
    )
    found = score(fitted, other, "folders")
    assert found.confusion_CC.tolist() == [[0, 0, 0], [0, 5, 0], [0, 0, 5]]


def test_the_manifest_is_plain_json_with_all_that_decides(fitted, tmp_path):
    said = json.loads((tmp_path / "f.classifier" / MANIFEST_FILE).read_text())
    assert said["classes"] == list(KINDS) and said["identity"] == "x" and said["store"] == "v.store"
    assert said["recipe"]["size"] == 16
    assert set(said["measured"]) == {
        "accuracy", "low", "high", "log_loss", "calibration_error", "unlike", "images", "how",
    }  # fmt: skip
