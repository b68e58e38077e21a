"""Features by the evaluation recipe, and the accuracy a training loop asks for; neither leaves a trace."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from simclr.encoder import build_encoder, weights_sha256
from simclr.errors import ConfigError, ImageError, SimclrError
from simclr.images import decode
from simclr.preprocess import Recipe
from simclr.pretrain import evaluation, features, in_workers
from simclr.pretrain.evaluation import Evaluation
from simclr.pretrain.features import EvaluationPixels, to_views, unit_features
from simclr.pretrain.labels import read_labelled

CPU = torch.device("cpu")
RECIPE = Recipe(size=8, crop=0.75)


class MeanColour(nn.Module):
    """(N, 3): the mean of each channel, through a batch norm that would move in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.mean((2, 3)))


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """train/ and test/ of three colours, each image with some noise: 8 + 3 a class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for name, colour in (("red", (200, 40, 40)), ("green", (40, 200, 40)), ("blue", (40, 40, 200))):
            folder = tmp_path / "labelled" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.array(colour) + rng.integers(-30, 30, (20, 30, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "labelled"


def all_blocks(pixels: EvaluationPixels) -> tuple[Tensor, Tensor]:
    blocks = list(pixels.blocks())
    return torch.cat([p for p, _ in blocks]), torch.cat([labels for _, labels in blocks])


@pytest.mark.parametrize("workers", [0, 2])
def test_features_are_those_of_one_image_after_the_other(labelled, workers):
    images, _ = read_labelled(labelled)
    encoder = MeanColour().eval()
    pixels = EvaluationPixels(images, RECIPE, workers=workers)
    vectors, labels = unit_features(encoder, pixels, device=CPU, dtype=torch.float32)
    for i, path in enumerate(images.paths):
        one = RECIPE.apply(decode((images.root / path).read_bytes()).image)
        view = (torch.tensor(one) / 255 - torch.tensor(RECIPE.mean)) / torch.tensor(RECIPE.std)
        with torch.no_grad():
            expected = nn.functional.normalize(encoder(view.permute(2, 0, 1)[None]), dim=1)[0]
        torch.testing.assert_close(vectors[i], expected)
        assert labels[i] == images.labels[i]
    assert vectors.dtype == torch.float32 and len(vectors) == len(images)


def test_views_are_normalised_by_the_recipe():
    recipe = Recipe(size=2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    views = to_views(torch.full((1, 2, 2, 3), 51, dtype=torch.uint8), recipe)
    torch.testing.assert_close(views[0, :, 0, 1], torch.tensor([0.2, 0.0, -0.5]))


def test_pixels_are_decoded_once_and_the_same_again(labelled, monkeypatch):
    images, _ = read_labelled(labelled)
    pixels = EvaluationPixels(images, RECIPE, workers=0)
    first = all_blocks(pixels)
    monkeypatch.setattr(features, "decode", None)
    monkeypatch.setattr(features, "_PIXELS", 5 * 64)
    second = all_blocks(pixels)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert max(len(labels) for _, labels in pixels.blocks()) == 5


def test_a_set_above_the_limit_is_decoded_each_time(labelled, monkeypatch):
    images, _ = read_labelled(labelled)
    monkeypatch.setattr(features, "KEPT_BYTES", len(images) * 192 - 1)
    decoded = []
    monkeypatch.setattr(features, "decode", lambda data, **k: decoded.append(1) or decode(data, **k))
    pixels = EvaluationPixels(images, RECIPE, workers=0)
    first = all_blocks(pixels)
    assert torch.equal(first[0], all_blocks(pixels)[0])
    assert len(decoded) == 2 * len(images)


def test_an_interrupted_pass_keeps_nothing(labelled, monkeypatch):
    images, _ = read_labelled(labelled)
    monkeypatch.setattr(features, "_PIXELS", 5 * 64)
    pixels = EvaluationPixels(images, RECIPE, workers=0)
    next(iter(pixels.blocks()))
    assert len(all_blocks(pixels)[1]) == len(images)


def test_an_unreadable_image_is_left_out_with_its_label(labelled):
    (labelled / "train/green/3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    images, _ = read_labelled(labelled)
    pixels = EvaluationPixels(images, RECIPE, workers=0)
    vectors, labels = unit_features(MeanColour(), pixels, device=CPU, dtype=torch.float32)
    assert list(pixels.unreadable) == ["green/3.png"]
    assert torch.bincount(labels).tolist() == [8, 7, 8]
    assert len(vectors) == 23


def test_nothing_readable_is_said(labelled):
    images, _ = read_labelled(labelled)
    for path in images.paths:
        (images.root / path).write_bytes(b"")
    with pytest.raises(ImageError, match=r"none of its 24 images can be read \(blue/0.png: empty file\)"):
        all_blocks(EvaluationPixels(images, RECIPE, workers=0))


def test_a_worker_that_dies_is_said_in_one_line(monkeypatch):
    class Deadly(torch.utils.data.Dataset):
        def __getitem__(self, item):
            import os

            os._exit(1)

    with pytest.raises(
        SimclrError,
        match=r"\Aa process that decodes images died[^\n]+--set workers=1; a stopped run goes on with --resume\.\Z",
    ):
        list(in_workers.in_workers(Deadly(), range(2), workers=1))


def rng_states() -> list[bytes]:
    return [
        torch.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),
        repr(random.getstate()).encode(),
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_evaluation_leaves_weights_modes_gradients_and_random_numbers_alone(labelled, workers):
    encoder = build_encoder("test_resnet")
    encoder.train()
    encoder.bn1.eval()  # a part that is not in the mode of the whole
    encoder(torch.randn(2, 3, 32, 32)).sum().backward()
    modes = [module.training for module in encoder.modules()]
    digest, states = weights_sha256(encoder.state_dict()), rng_states()
    gradients = [w.grad.clone() for w in encoder.parameters()]
    Evaluation(labelled, Recipe(size=32), workers=workers).accuracy(encoder, CPU, torch.float32)
    assert [module.training for module in encoder.modules()] == modes
    assert weights_sha256(encoder.state_dict()) == digest
    assert rng_states() == states
    assert all(torch.equal(w.grad, g) for w, g in zip(encoder.parameters(), gradients, strict=True))
    assert all(w.requires_grad for w in encoder.parameters())


def test_the_modes_come_back_after_an_error():
    encoder = MeanColour().train()
    with pytest.raises(ZeroDivisionError), features.evaluating(encoder):
        assert not encoder.norm.training
        raise ZeroDivisionError
    assert encoder.training and encoder.norm.training


def test_colours_are_told_apart_by_their_neighbours(labelled):
    said = []
    measured = Evaluation(labelled, RECIPE, workers=0, note=said.append)
    assert measured.accuracy(MeanColour(), CPU, torch.float32) == {"knn": 1.0}
    assert said == [f"kNN accuracy on {labelled}: 24 images of 3 classes, and 9 test images to judge"]


def test_test_images_under_the_wrong_class_count_as_wrong(labelled):
    (labelled / "test/red/0.png").rename(labelled / "test/blue/9.png")
    measured = Evaluation(labelled, RECIPE, workers=0)
    assert measured.accuracy(MeanColour(), CPU, torch.float32) == {"knn": pytest.approx(8 / 9)}


def test_without_a_test_split_each_image_is_judged_by_the_others(labelled):
    said = []
    (labelled / "train/red/0.png").rename(labelled / "train/blue/9.png")
    measured = Evaluation(labelled / "train", RECIPE, workers=0, note=said.append)
    assert measured.accuracy(MeanColour(), CPU, torch.float32) == {"knn": pytest.approx(23 / 24)}
    assert said[0].endswith("24 images of 3 classes, each judged by the others: there is no test split")


def test_an_unreadable_image_is_said_once(labelled):
    (labelled / "test/red/0.png").write_bytes(b"x")
    said = []
    measured = Evaluation(labelled, RECIPE, workers=0, note=said.append)
    for _ in range(2):
        measured.accuracy(MeanColour(), CPU, torch.float32)
    assert said[1:] == ["skipped red/0.png: not an image of a known format"]


def test_large_sets_are_thinned(labelled, monkeypatch):
    monkeypatch.setattr(evaluation, "MOST_TO_VOTE", 12)
    monkeypatch.setattr(evaluation, "MOST_QUERIES", 3)
    said = []
    measured = Evaluation(labelled, RECIPE, workers=0, note=said.append)
    assert said == [f"kNN accuracy on {labelled}: 12 images of 3 classes, and 3 test images to judge"]
    assert (len(measured.train), len(measured.test)) == (24, 9)


def test_bad_labels_are_said_before_training(labelled):
    Image.new("RGB", (4, 4)).save(labelled / "train/lost.png")
    with pytest.raises(ConfigError, match="lie directly in it"):
        Evaluation(labelled, RECIPE)


def test_an_encoder_that_recomputes_its_blocks_is_evaluated_without_a_warning(labelled):
    encoder = build_encoder("test_resnet")
    encoder.set_grad_checkpointing(True)
    encoder.train()
    Evaluation(labelled, Recipe(size=32), workers=0).accuracy(encoder, CPU, torch.float32)
    assert encoder.training
