"""Order of images, batches over the ends of epochs, and files that cannot be read."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from simclr.errors import ImageError
from simclr.pretrain import data
from simclr.pretrain.config import Augmentation
from simclr.pretrain.data import Crops, TwoCrops, batches, images_at
from simclr.pretrain.views import crop, crop_boxes, draw
from simclr.sources import open_collection


def dataset(folder: Path, *, batch_size: int = 6, size: int = 8, seed: int = 0) -> TwoCrops:
    collection = open_collection(str(folder), note=print)
    return TwoCrops(collection, seed=seed, batch_size=batch_size, size=size, augmentation=Augmentation())


def all_batches(images: TwoCrops, steps: range, *, workers: int = 0) -> list[Crops]:
    everyone = range(images.batch_size)
    return list(batches(images, steps=steps, images=everyone, workers=workers, pin=False))


def pixels(crops: list[Crops]) -> Tensor:
    return torch.stack([one.pixels for one in crops])


@pytest.fixture
def greys(tmp_path: Path) -> Path:
    """Seven plain images; number i is grey 10 * i, so that a crop says which image it is from."""
    folder = tmp_path / "greys"
    folder.mkdir()
    for i in range(7):
        Image.new("RGB", (20, 16), (10 * i,) * 3).save(folder / f"{i}.png")
    return folder


def crop_box(width: int, height: int, u: np.ndarray, **limits: float) -> tuple[int, ...]:
    """The box of one view."""
    return tuple(crop_boxes(np.array([[width, height]]), u[None], **limits)[0].tolist())


def numbers_of(crops: Crops) -> list[list[int]]:
    """For both views of each image of a batch, the number of the plain image it is from."""
    assert torch.equal(crops.pixels.amin((2, 3, 4)), crops.pixels.amax((2, 3, 4)))
    return (crops.pixels[:, :, 0, 0, 0] // 10).tolist()


def test_an_epoch_has_each_image_once():
    for epoch in range(3):
        places = range(epoch * 16, (epoch + 1) * 16)
        assert sorted(images_at(places, seed=0, images=16)) == list(range(16))


def test_every_epoch_and_every_seed_has_its_own_order():
    orders = {
        tuple(images_at(range(epoch * 16, epoch * 16 + 16), seed=seed, images=16))
        for epoch in range(3)
        for seed in range(3)
    }
    assert len(orders) == 9


def test_batches_run_on_across_the_ends_of_epochs(greys):
    """7 batches of 6 are 6 epochs of 7: each image six times, and each epoch in its own order."""
    seen = [number for crops in all_batches(dataset(greys), range(7)) for number in numbers_of(crops)[0]]
    assert seen == images_at(range(42), seed=0, images=7).tolist()
    assert Counter(seen) == dict.fromkeys(range(7), 6)


def test_both_views_of_a_place_come_from_one_image(greys):
    for crops in all_batches(dataset(greys), range(3)):
        first, second = numbers_of(crops)
        assert first == second


def test_crops_are_those_of_the_drawn_boxes(noise_photos):
    """One image and one view at a time; at this size every pixel is decoded."""
    images = dataset(noise_photos, size=32)
    (batch,) = all_batches(images, range(4, 5))
    draws = draw(0, 4, batch_size=6, augmentation=Augmentation())
    for row in range(6):
        path = noise_photos / images.images.names[images_at(range(24 + row, 25 + row), seed=0, images=16)[0]]
        with Image.open(path) as image:
            for view in range(2):
                box = crop_box(40, 40, draws.crop[view * 6 + row], crop_min=0.08, crop_ratio=4 / 3)
                assert np.array_equal(batch.pixels[view, row], crop(image.convert("RGB"), box, 32))


def test_a_jpeg_is_decoded_once_and_no_larger_than_its_crops_can_use(tmp_path, monkeypatch):
    """Half, a quarter or an eighth, as the smaller crop allows; the crops are those of every pixel but for details."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        (640, 480), Image.Resampling.BICUBIC
    )
    for number in range(6):
        smooth.save(tmp_path / f"{number}.jpg", quality=95)
    decoded = []

    def recording(bytes_, **rest):
        decoded.append(data_decode(bytes_, **rest))
        return decoded[-1]

    data_decode = data.decode
    monkeypatch.setattr(data, "decode", recording)
    scaled = all_batches(dataset(tmp_path, size=16), range(3))
    monkeypatch.setattr(data, "decode", lambda bytes_, **rest: data_decode(bytes_))
    full = all_batches(dataset(tmp_path, size=16), range(3))
    assert len(decoded) == 18
    widths = Counter(picture.image.width for picture in decoded)
    assert set(widths) <= {640, 320, 160, 80} and widths[160] > 0 and widths[640] == 0
    difference = (pixels(scaled).float() - pixels(full).float()).abs()
    assert difference.mean() < 1.5 and difference.max() < 40


@pytest.mark.parametrize("slice_size", [1, 4, 6, 256])
def test_the_size_of_a_slice_changes_nothing(noise_photos, monkeypatch, slice_size):
    whole = pixels(all_batches(dataset(noise_photos), range(3)))
    monkeypatch.setattr(data, "_SLICE", slice_size)
    assert torch.equal(pixels(all_batches(dataset(noise_photos), range(3))), whole)


def test_the_number_of_workers_changes_nothing(noise_photos, monkeypatch):
    monkeypatch.setattr(data, "_SLICE", 2)
    alone = pixels(all_batches(dataset(noise_photos), range(4)))
    assert torch.equal(pixels(all_batches(dataset(noise_photos), range(4), workers=2)), alone)


def test_starting_late_gives_the_batches_that_were_left(noise_photos):
    whole = pixels(all_batches(dataset(noise_photos), range(5)))
    assert torch.equal(pixels(all_batches(dataset(noise_photos), range(3, 5))), whole[3:])


def test_another_seed_gives_other_crops(noise_photos):
    one, other = (pixels(all_batches(dataset(noise_photos, seed=seed), range(1))) for seed in (0, 1))
    assert not torch.equal(one, other)


def test_a_file_that_cannot_be_read_is_replaced_by_the_next(greys):
    (greys / "3.png").write_bytes(b"no image")
    (crops,) = all_batches(dataset(greys, batch_size=7), range(1))
    order = images_at(range(7), seed=0, images=7)
    assert numbers_of(crops)[0] == [4 if number == 3 else number for number in order]


def test_after_the_last_file_comes_the_first(greys):
    (greys / "6.png").write_bytes(b"")
    (crops,) = all_batches(dataset(greys, batch_size=7), range(1))
    order = images_at(range(7), seed=0, images=7)
    assert numbers_of(crops)[0] == [0 if number == 6 else number for number in order]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_reported(greys, workers):
    (greys / "3.png").write_bytes(b"")
    (crops,) = all_batches(dataset(greys, batch_size=7), range(1), workers=workers)
    assert crops.unreadable == [("3.png", "empty file")]


def test_a_file_that_vanished_is_reported(greys):
    images = dataset(greys, batch_size=7)
    (greys / "3.png").unlink()
    (crops,) = all_batches(images, range(1))
    assert crops.unreadable == [("3.png", "cannot be read: No such file or directory")]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_without_one_readable_image_is_an_error_of_one_line(greys, workers):
    for path in greys.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ImageError) as error:
        all_batches(dataset(greys), range(1), workers=workers)
    assert str(error.value) == f"{greys}: none of its 7 images can be read (empty file)."


def test_shares_of_a_batch_put_together_are_the_batch(noise_photos, monkeypatch):
    """As several processes take them, each with slices of its own."""
    monkeypatch.setattr(data, "_SLICE", 2)
    images = dataset(noise_photos)
    (whole,) = all_batches(images, range(2, 3))
    shares = [
        next(batches(images, steps=range(2, 3), images=rows, workers=0, pin=False)).pixels
        for rows in (range(1), range(1, 4), range(4, 6))
    ]
    assert torch.equal(torch.cat(shares, dim=1), whole.pixels)


def test_a_saved_batch_holds_the_crops_and_the_paths_of_its_images(greys, tmp_path):
    images = dataset(greys)
    images.save(1, tmp_path / "batch.npz")
    saved = np.load(tmp_path / "batch.npz")
    (batch,) = all_batches(images, range(1, 2))
    assert np.array_equal(saved["pixels"], batch.pixels.numpy())
    assert [f"{number}.png" for number in numbers_of(batch)[0]] == saved["paths"].tolist()
