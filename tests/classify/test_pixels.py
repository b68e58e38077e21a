"""Raw pixels as vectors, by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr.classify import pixels as pixels_module
from simclr.classify.examples import split_stores
from simclr.classify.labels import FOLDERS
from simclr.classify.pixels import SIDE, pixel_examples
from simclr.embed import Lane, Store, embed_sources
from simclr.errors import ImageError
from simclr.runtime import Encoder


@pytest.fixture
def store(model, photos, tmp_path) -> Store:
    embed_sources([photos], tmp_path / "out.store", Lane(Encoder.open(model)), model=model)
    return Store.open(tmp_path / "out.store")


def test_vectors_are_the_pixels_less_the_mean_image(store):
    (split,) = split_stores([store], FOLDERS)
    found = pixel_examples(store, split)
    rows = store.rows()

    def colours(row: int) -> np.ndarray:
        with Image.open(store.path(rows[row])) as image:
            return np.tile(np.float64(image.getpixel((9, 9))), SIDE * SIDE)  # the photos are plain

    train = np.stack([colours(row) for row in split.train_N])
    test = np.stack([colours(row) for row in split.test_Q])
    for expected, vectors in ((train - train.mean(0), found.train_ND), (test - train.mean(0), found.test_QD)):
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert found.train_N.tolist() == split.train_labels_N.tolist()


def test_an_image_that_is_gone_is_named(store, photos):
    (split,) = split_stores([store], FOLDERS)
    (photos / "warm/red_dark.png").unlink()
    with pytest.raises(ImageError, match=r"warm/red_dark\.png: .*raw pixels need every image"):
        pixel_examples(store, split)


def test_progress_counts_all_images(store):
    seen = []
    (split,) = split_stores([store], FOLDERS)
    pixel_examples(store, split, progress=lambda done, total, words: seen.append((done, total)))
    assert seen == [(i + 1, 12) for i in range(12)]


def test_it_runs_over_images_of_any_size(model, photos, tmp_path):
    Image.effect_noise((200, 31), 90).convert("RGB").save(Path(photos) / "warm" / "wide.png")
    embed_sources([photos], tmp_path / "o.store", Lane(Encoder.open(model)), model=model)
    store = Store.open(tmp_path / "o.store")
    (split,) = split_stores([store], FOLDERS)
    found = pixel_examples(store, split)
    assert found.train_ND.shape[1] == found.test_QD.shape[1] == SIDE * SIDE * 3
    assert pixels_module._RECIPE.size == SIDE
