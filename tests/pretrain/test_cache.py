"""Batches from decoded images against batches decoded anew."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simclr.errors import ConfigError, ImageError
from simclr.pretrain import cache as cache_module
from simclr.pretrain.cache import CachePlan, fill_cache, plan_cache
from simclr.pretrain.config import Augmentation
from simclr.pretrain.data import Crops, TwoCrops, batches
from simclr.sources import open_collection

CPU = torch.device("cpu")
PLENTY = {"device": CPU, "free": lambda device: 10**9}


def dataset(folder: Path, *, size: int = 12) -> TwoCrops:
    collection = open_collection(str(folder), note=print)
    return TwoCrops(collection, seed=3, batch_size=5, size=size, augmentation=Augmentation())


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Eleven noise images of 20x16, as PNG."""
    folder = tmp_path / "squares"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(11):
        pixels = rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def decoded(images: TwoCrops, steps: range, rows: range) -> list[Crops]:
    return list(batches(images, steps=steps, images=rows, workers=0, pin=False))


def cached(images: TwoCrops, plan: CachePlan, steps: range, rows: range, **rest: int) -> list[Crops]:
    filled = fill_cache(plan, images, workers=rest.get("workers", 0))
    return list(filled.batches(images, steps=steps, images=rows, device=CPU))


@pytest.mark.parametrize("rows", [range(5), range(2, 4)])
def test_cached_batches_are_those_decoded_anew(squares, rows):
    """The same images in the same order, across the ends of epochs; crops within a level, and nearly all equal."""
    images = dataset(squares)
    plan = plan_cache(images, "auto", **PLENTY)
    pairs = zip(cached(images, plan, range(1, 8), rows), decoded(images, range(1, 8), rows), strict=True)
    for ours, theirs in pairs:
        assert np.array_equal(ours.index, theirs.index)
        difference = (ours.pixels.int() - theirs.pixels.int()).abs()
        assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01


def test_the_size_of_a_slice_and_the_number_of_workers_change_nothing(squares, monkeypatch):
    images = dataset(squares)
    plan = plan_cache(images, "ram", **PLENTY)
    whole = cached(images, plan, range(2), range(5))
    monkeypatch.setattr(cache_module, "_SLICE", 2)
    for one, other in zip(cached(images, plan, range(2), range(5), workers=2), whole, strict=True):
        assert torch.equal(one.pixels, other.pixels)


def test_an_unreadable_image_is_replaced_by_the_next_and_reported_once(squares):
    for name in ("03.png", "10.png"):
        (squares / name).write_bytes(b"no image")
    images = dataset(squares)
    ours = cached(images, plan_cache(images, "auto", **PLENTY), range(9), range(5))
    theirs = decoded(images, range(9), range(5))
    assert [crops.index.tolist() for crops in ours] == [crops.index.tolist() for crops in theirs]
    assert not {3, 10} & {number for crops in ours for number in crops.index.tolist()}
    assert [path for path, _ in ours[0].unreadable] == ["03.png", "10.png"]
    assert all(crops.unreadable == [] for crops in ours[1:])


def test_if_no_image_can_be_read_it_says_so(squares):
    plan = plan_cache(dataset(squares), "ram", **PLENTY)
    for path in squares.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ImageError, match="none of its 11 images can be read"):
        fill_cache(plan, dataset(squares), workers=0)


def test_auto_keeps_images_of_one_size_and_leaves_others(squares):
    plan = plan_cache(dataset(squares), "auto", **PLENTY)
    assert plan == CachePlan(CPU, 16, 20, 11 * 16 * 20 * 3, stretched=False)
    Image.new("RGB", (21, 16)).save(squares / "05.png")
    assert plan_cache(dataset(squares), "auto", **PLENTY) is None


def test_auto_takes_a_quarter_of_what_is_free_and_no_more(squares):
    needed = 11 * 16 * 20 * 3
    assert plan_cache(dataset(squares), "auto", device=CPU, free=lambda device: 4 * needed) is not None
    assert plan_cache(dataset(squares), "auto", device=CPU, free=lambda device: 4 * needed - 1) is None


def test_a_cache_asked_for_that_does_not_fit_is_refused_with_its_size(squares):
    with pytest.raises(ConfigError, match=r"cache ram: 11 images of 20x16 need 0\.0 GB, .*--cache none"):
        plan_cache(dataset(squares), "ram", device=CPU, free=lambda device: 1000)


def test_a_gpus_cache_needs_a_gpu(squares):
    with pytest.raises(ConfigError, match="cache gpu: this run is on the CPU"):
        plan_cache(dataset(squares), "gpu", **PLENTY)


def test_none_is_none(squares):
    assert plan_cache(dataset(squares), "none", **PLENTY) is None


def test_images_of_several_sizes_are_stretched_and_cropped_as_they_were(tmp_path):
    """A smooth picture at 64x48 and 48x64: crops from the stretched cache look like those from the file."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    for number in range(10):
        shape = (64, 48) if number % 2 else (48, 64)
        smooth.resize(shape, Image.Resampling.BICUBIC).save(tmp_path / f"{number}.png")
    images = dataset(tmp_path)
    plan = plan_cache(images, "ram", **PLENTY, size=96)
    assert plan.stretched and (plan.height, plan.width) == (96, 96)
    for ours, theirs in zip(
        cached(images, plan, range(4), range(5)), decoded(images, range(4), range(5)), strict=True
    ):
        assert (ours.pixels.float() - theirs.pixels.float()).abs().mean() < 1.5
