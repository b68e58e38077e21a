"""How alike two images look, against loops over pixels; copies, mirrored and cropped ones, and images that only share their colours."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from simclr.classify.copies import KINDS
from simclr.classify.looks import KEPT, MIDDLES, alike, all_alike, pictures_alike, small_picture, views


def smooth(seed: int, size: tuple[int, int] = (90, 60)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def likeness(one: Image.Image, other: Image.Image) -> float:
    return float(pictures_alike(small_picture(one)[None], small_picture(other)[None])[0, 0])


def shape(colour: str, background: str = "white", *, at: int = 20) -> Image.Image:
    image = Image.new("RGB", (80, 80), background)
    ImageDraw.Draw(image).ellipse((at, 20, at + 35, 60), fill=colour)
    return image


def middle_by_loops(picture: np.ndarray, middle: float) -> np.ndarray:
    """(3, 32, 32) means over areas, of a picture whose pixels are cut in a hundred."""
    fine = np.repeat(np.repeat(picture.astype(float), 20, axis=1), 20, axis=2)
    edge = round(20 * KEPT * (1 - middle) / 2)
    fine = fine[:, edge : fine.shape[1] - edge, edge : fine.shape[2] - edge]
    bounds = [*pairwise(np.linspace(0, fine.shape[1], 33).round().astype(int))]
    return np.array([[[fine[c, a:b, x:y].mean() for x, y in bounds] for a, b in bounds] for c in range(3)])


def by_loops(one: np.ndarray, other: np.ndarray) -> float:
    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (each - each.mean((1, 2), keepdims=True) for each in (a, b))
        return float((a * b).mean() / np.sqrt(((a**2).mean() + 0.25) * ((b**2).mean() + 0.25)))

    best = -1.0
    for whole, part in ((one, other), (other, one)):
        for middle in MIDDLES:
            for turned in (whole, whole[:, :, ::-1]):
                best = max(best, correlation(middle_by_loops(turned, 1), middle_by_loops(part, middle)))
    return best


def test_it_is_what_loops_over_pixels_say():
    images = [smooth(0), ImageOps.mirror(smooth(0)), KINDS["cropped"](smooth(1)), smooth(1), shape("red")]
    pictures = np.stack([small_picture(image) for image in images])
    expected = np.array([[by_loops(one, other) for other in pictures] for one in pictures])
    np.testing.assert_allclose(pictures_alike(pictures, pictures), expected, atol=2e-3)
    assert expected[0, 1] > 0.99 and expected[2, 3] > 0.98 and expected[0, 3] < 0.8


def test_pairs_and_all_pairs_agree_in_both_directions():
    seen = views(np.stack([small_picture(smooth(seed)) for seed in range(12)]))
    every = all_alike(seen, seen)
    np.testing.assert_allclose(every, every.T, atol=1e-6)
    np.testing.assert_allclose(np.diag(every), 1, atol=1e-3)
    np.testing.assert_allclose(alike(seen[:6], seen[6:]), np.diag(every[:6, 6:]), atol=1e-6)


def test_many_are_compared_a_part_at_a_time():
    pictures = np.stack([small_picture(smooth(seed, (40, 40))) for seed in range(300)])
    found = pictures_alike(pictures, pictures[:7])
    assert found.shape == (300, 7)
    np.testing.assert_allclose(found, all_alike(views(pictures), views(pictures[:7])), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_copy_is_alike(kind):
    for seed in range(5):
        assert likeness(smooth(seed), KINDS[kind](smooth(seed))) > 0.95
        assert likeness(smooth(seed), KINDS[kind](smooth(seed + 100))) < 0.8


def test_cropped_and_mirrored_and_smaller_at_once():
    image = smooth(3)
    assert likeness(image, ImageOps.mirror(KINDS["cropped"](image)).resize((30, 20))) > 0.95


def test_colours_count():
    """A shirt in red is none in blue; two things before the same red wall are two things."""
    assert likeness(shape("red"), shape("blue")) < 0.8
    assert likeness(shape("black", "red", at=3), shape("black", "red", at=22)) < 0.8
    assert likeness(shape("red"), shape("red")) > 0.999


def test_plain_colours_are_not_alike():
    assert likeness(Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")) == 0
    assert likeness(Image.new("RGB", (1, 1)), Image.new("RGB", (300, 2))) == 0
    faint = Image.fromarray(
        np.pad(np.full((20, 40, 3), 101, np.uint8), ((0, 20), (0, 0), (0, 0)), constant_values=100)
    )
    assert likeness(faint, faint) < 0.9  # a grey level more in one half: noise would do as much
