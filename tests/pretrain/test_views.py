"""Random views against torchvision, one view at a time."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from simclr.pretrain.config import Augmentation
from simclr.pretrain.views import (
    Draws,
    brightness,
    contrast,
    crop,
    crop_batch,
    crop_boxes,
    draw,
    gaussian_blur,
    recolour,
    saturation,
    shift_hue,
)

PLAIN = Augmentation(flip=0, jitter=0, grayscale=0, blur=0)
LUMA_TOLERANCE = 3e-4
"""torchvision's weight of red is 0.2989; ours, as Pillow's, is 0.299."""


def images(count: int = 4, height: int = 12, width: int = 10, seed: int = 0) -> Tensor:
    """(count, 3, height, width) in 0..1, with some pure greys, black and white among them."""
    views = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
    views[:, :, 0] = views[:, :1, 0]
    views[:, :, 1, :3], views[:, :, 1, 3:6] = 0, 1
    return views


def crops(count: int = 8, size: int = 32, seed: int = 0) -> Tensor:
    """(count, size, size, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def as_views(crops_VHWC: Tensor) -> Tensor:
    return crops_VHWC.permute(0, 3, 1, 2) / 255


def crop_box(width: int, height: int, u: np.ndarray, **limits: float) -> tuple[int, ...]:
    """The box of one view."""
    return tuple(crop_boxes(np.array([[width, height]]), u[None], **limits)[0].tolist())


def column(values: list[float]) -> Tensor:
    return torch.tensor(values)[:, None, None, None]


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (brightness, tv.adjust_brightness, [0.2, 0.9, 1.0, 1.8]),
        (contrast, tv.adjust_contrast, [0.2, 0.9, 1.0, 1.8]),
        (saturation, tv.adjust_saturation, [0.2, 0.9, 1.0, 1.8]),
        (shift_hue, tv.adjust_hue, [-0.2, 0.0, 0.07, 0.2]),
    ],
)
def test_each_change_of_colour_is_torchvisions(ours, theirs, factors):
    views = images()
    expected = torch.stack([theirs(view, factor) for view, factor in zip(views, factors, strict=True)])
    tolerance = LUMA_TOLERANCE if ours in (contrast, saturation) else 2e-6
    torch.testing.assert_close(ours(views, column(factors)), expected, rtol=0, atol=tolerance)


def test_full_turns_of_the_hue_change_nothing():
    views = images()
    torch.testing.assert_close(shift_hue(views, column([1.0, -1.0, 0.0, 2.0])), views, rtol=0, atol=2e-6)


def test_a_third_of_the_circle_turns_red_to_green():
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert shift_hue(red, column([1 / 3])).flatten().tolist() == pytest.approx([0, 1, 0], abs=1e-6)


@pytest.mark.parametrize("radius", [1, 3, 5])
def test_the_blur_is_torchvisions(radius):
    views, sigmas = images(), [0.1, 0.5, 1.0, 2.0]
    kernel = [2 * radius + 1] * 2
    expected = [
        tv.gaussian_blur(view, kernel, [sigma] * 2) for view, sigma in zip(views, sigmas, strict=True)
    ]
    blurred = gaussian_blur(views, torch.tensor(sigmas), radius=radius)
    torch.testing.assert_close(blurred, torch.stack(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 20)])
def test_a_blur_wider_than_the_image_keeps_a_plain_image(size):
    plain = torch.full((1, 3, *size), 0.25)
    torch.testing.assert_close(gaussian_blur(plain, torch.tensor([2.0]), radius=5), plain)


# ---- crops


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (40, 40), (500, 375), (1000, 3)])
def test_every_crop_lies_inside_the_image(size):
    width, height = size
    draws = draw(0, 0, batch_size=200, augmentation=Augmentation()).crop
    for u in draws:
        left, top, right, bottom = crop_box(width, height, u, crop_min=0.08, crop_ratio=4 / 3)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_the_largest_draws_reach_the_far_corner():
    """Area and position of almost 1, in a square image: the crop touches right and bottom."""
    nearly = np.nextafter(np.float32(1), np.float32(0))
    u = np.array([[0.5, 0.5, nearly, nearly]], np.float32)
    box = crop_box(100, 100, u, crop_min=0.08, crop_ratio=4 / 3)
    assert box == (27, 27, 100, 100)  # sqrt(0.08 + 0.5 * 0.92) * 100 = 73.5, 73 wide


def test_a_draw_says_area_ratio_left_and_top():
    """A quarter of 100x100 at 1:1, then at 4:3; an offset counts the places the crop can take."""
    square = np.array([[0, 0.5, 0.25, 0.75]], np.float32)
    assert crop_box(100, 100, square, crop_min=0.25, crop_ratio=4 / 3) == (12, 38, 62, 88)
    wide = np.array([[0, 1, 0.25, 0.75]], np.float32)
    assert crop_box(100, 100, wide, crop_min=0.25, crop_ratio=4 / 3) == (10, 43, 68, 86)


def test_area_and_ratio_of_crops_stay_within_their_limits():
    for u in draw(0, 0, batch_size=500, augmentation=Augmentation()).crop:
        left, top, right, bottom = crop_box(4000, 3000, u, crop_min=0.3, crop_ratio=1.5)
        w, h = right - left, bottom - top
        assert 0.3 - 1e-3 < w * h / 12e6 < 1 + 1e-3
        assert 1 / 1.5 - 1e-3 < w / h < 1.5 + 1e-3


def test_a_draw_that_does_not_fit_passes_to_the_next():
    u = np.array([[1, 1, 0, 0], [0, 0.5, 0, 0]], np.float32)  # all of the area, 4:3, in a square: too wide
    assert crop_box(100, 100, u, crop_min=0.25, crop_ratio=4 / 3) == (0, 0, 50, 50)


@pytest.mark.parametrize(
    ("size", "box"), [((100, 10), (43, 0, 56, 10)), ((10, 100), (0, 43, 10, 56)), ((1, 50), (0, 24, 1, 25))]
)
def test_where_no_draw_fits_the_centre_is_taken_in_the_nearest_ratio(size, box):
    assert crop_box(*size, np.ones((10, 4), np.float32), crop_min=0.08, crop_ratio=4 / 3) == box


def test_crops_are_spread_like_torchvisions():
    """Mean area, log ratio and position of 4000 crops of a 300x200 image; one standard error is below 0.005."""
    torch.manual_seed(0)
    blank = torch.zeros(3, 200, 300)
    theirs = [RandomResizedCrop.get_params(blank, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)]
    their_boxes = [(left, top, left + w, top + h) for top, left, h, w in theirs]
    draws = draw(0, 0, batch_size=2000, augmentation=Augmentation()).crop
    our_boxes = [crop_box(300, 200, u, crop_min=0.08, crop_ratio=4 / 3) for u in draws]

    def moments(boxes):
        left, top, right, bottom = np.array(boxes, float).T
        area, ratio = (right - left) * (bottom - top) / 60000, np.log((right - left) / (bottom - top))
        centre = (left + right) / 600, (top + bottom) / 400
        return [f(values) for values in (area, ratio, *centre) for f in (np.mean, np.std)]

    np.testing.assert_allclose(moments(our_boxes), moments(their_boxes), rtol=0, atol=0.015)


def test_a_crop_at_its_own_size_keeps_every_pixel():
    pixels = crops(1, size=20)[0].numpy()
    assert np.array_equal(crop(Image.fromarray(pixels), (3, 5, 13, 15), 10), pixels[5:15, 3:13])


def test_a_crop_is_resized_as_torchvision_resizes():
    """Bicubic with antialias; away from the crop's edge, since Pillow sees the pixels beyond it."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = Image.fromarray(pixels)
    expected = tv.resize(whole, [16, 16], InterpolationMode.BICUBIC, antialias=True)
    assert np.array_equal(crop(whole, (0, 0, 64, 64), 16), np.asarray(expected))


@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 32, 32), (60, 80, 48), (9, 200, 16), (24, 24, 64)]
)
def test_a_batch_of_crops_is_what_pillow_makes_one_by_one(height, width, size):
    """Up and down, boxes at corners and inside; rounding may differ by one level, and seldom does."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, height, width, 3), dtype=np.uint8)
    numbers = draw(3, 4, batch_size=30, augmentation=Augmentation()).crop
    boxes = crop_boxes(np.array([[width, height]] * 60), numbers, crop_min=0.08, crop_ratio=4 / 3)
    boxes[0] = 0, 0, width, height
    made = crop_batch(torch.from_numpy(pixels), torch.from_numpy(boxes).float(), size).numpy().astype(int)
    expected = np.stack(
        [crop(Image.fromarray(p), tuple(b), size) for p, b in zip(pixels, boxes, strict=True)]
    )
    assert np.abs(made - expected).max() <= 1
    assert (made != expected).mean() < 0.003


@pytest.mark.parametrize("change", [brightness, contrast, saturation, shift_hue])
def test_changes_of_colour_are_one_graph_to_the_compiler(change):
    """No break, and no new graph for another number of views."""
    graphs = []

    def compiler(graph, example):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(change, fullgraph=True, dynamic=True, backend=compiler)
    for count in (4, 6, 9):
        views, factors = images(count), torch.linspace(0.5, 1.5, count)[:, None, None, None]
        torch.testing.assert_close(compiled(views, factors), change(views, factors))
    assert len(graphs) == 1


# ---- random numbers


def equal(one: Draws, other: Draws) -> list[str]:
    return [name for name in vars(one) if np.array_equal(getattr(one, name), getattr(other, name))]


def test_the_same_seed_and_step_draw_the_same():
    one, other = (draw(3, 7, batch_size=16, augmentation=Augmentation()) for _ in range(2))
    assert equal(one, other) == list(vars(one))


@pytest.mark.parametrize(("seed", "step"), [(3, 8), (4, 7), (7, 3)])
def test_another_seed_or_step_draws_another_of_everything(seed, step):
    one = draw(3, 7, batch_size=64, augmentation=Augmentation())
    assert equal(one, draw(seed, step, batch_size=64, augmentation=Augmentation())) == []


def test_both_views_of_an_image_are_drawn_apart():
    draws = draw(3, 7, batch_size=64, augmentation=Augmentation())
    assert equal(draws.at(slice(0, 64)), draws.at(slice(64, 128))) == []


def test_the_numbers_of_some_views_are_theirs_of_every_kind():
    draws = draw(0, 0, batch_size=8, augmentation=Augmentation())
    part = draws.at(slice(3, 5))
    for name, values in vars(draws).items():
        assert np.array_equal(getattr(part, name), values[3:5]), name


def test_the_order_of_colour_changes_is_a_permutation_drawn_evenly():
    order = draw(0, 0, batch_size=6000, augmentation=Augmentation()).order
    permutations, counts = np.unique(order, axis=0, return_counts=True)
    assert len(permutations) == 24
    np.testing.assert_allclose(counts, 500, atol=100)


def test_probabilities_are_those_asked_for():
    """Standard error of 12,000 draws: below 0.005."""
    wanted = Augmentation(flip=0.3, jitter=0.8, grayscale=0.2, blur=0.6)
    draws = draw(0, 0, batch_size=6000, augmentation=wanted)
    shares = [values.mean() for values in (draws.flip, draws.jitter, draws.gray, draws.blur)]
    np.testing.assert_allclose(shares, [0.3, 0.8, 0.2, 0.6], atol=0.015)


def test_factors_fill_the_papers_ranges():
    """0.8 around 1 for brightness, contrast and saturation, 0.2 around 0 for hue; halved at strength 0.5."""
    factors = draw(0, 0, batch_size=6000, augmentation=Augmentation(strength=0.5)).factors
    np.testing.assert_allclose(factors.min(0), [0.6, 0.6, 0.6, -0.1], atol=1e-3)
    np.testing.assert_allclose(factors.max(0), [1.4, 1.4, 1.4, 0.1], atol=1e-3)
    np.testing.assert_allclose(factors.mean(0), [1, 1, 1, 0], atol=0.01)


def test_sigmas_fill_their_range():
    sigma = draw(0, 0, batch_size=6000, augmentation=Augmentation(blur_sigma=(0.5, 1.5))).sigma
    np.testing.assert_allclose([sigma.min(), sigma.mean(), sigma.max()], [0.5, 1.0, 1.5], atol=0.015)


# ---- whole views


def view_by_torchvision(crop_HWC: Tensor, draws: Draws, row: int) -> Tensor:
    """One view, one step after the other."""
    view = crop_HWC.permute(2, 0, 1) / 255
    if draws.flip[row]:
        view = tv.horizontal_flip(view)
    if draws.jitter[row]:
        changes = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
        for index in draws.order[row]:
            view = changes[index](view, float(draws.factors[row, index]))
    if draws.gray[row]:
        view = tv.rgb_to_grayscale(view, num_output_channels=3)
    if draws.blur[row]:
        radius = math.floor(0.1 * view.shape[-1]) // 2
        view = tv.gaussian_blur(view, [2 * radius + 1] * 2, [float(draws.sigma[row])] * 2)
    return view.clamp(0, 1)


def test_a_batch_of_views_is_what_torchvision_makes_one_by_one():
    batch = crops(32)
    draws = draw(1, 2, batch_size=16, augmentation=Augmentation())
    expected = torch.stack([view_by_torchvision(batch[row], draws, row) for row in range(32)])
    torch.testing.assert_close(recolour(batch, draws), expected, rtol=0, atol=5 * LUMA_TOLERANCE)


def test_a_view_does_not_depend_on_the_rest_of_its_batch():
    batch = crops(16)
    draws = draw(1, 2, batch_size=8, augmentation=Augmentation())
    alone = [recolour(batch[row : row + 1], draws.at(slice(row, row + 1))) for row in range(16)]
    torch.testing.assert_close(recolour(batch, draws), torch.cat(alone), rtol=0, atol=1e-6)


def test_crops_are_left_as_found():
    batch = crops()
    before = batch.clone()
    recolour(batch, draw(1, 2, batch_size=4, augmentation=Augmentation()))
    assert torch.equal(batch, before)


def test_with_every_probability_zero_a_view_is_its_crop():
    batch = crops()
    views = recolour(batch, draw(0, 0, batch_size=4, augmentation=PLAIN))
    torch.testing.assert_close(views, as_views(batch), rtol=0, atol=1e-7)


def test_with_jitter_of_no_strength_a_view_is_its_crop():
    batch = crops()
    calm = Augmentation(flip=0, jitter=1, strength=0, grayscale=0, blur=0)
    views = recolour(batch, draw(0, 0, batch_size=4, augmentation=calm))
    torch.testing.assert_close(views, as_views(batch), rtol=0, atol=2e-6)


def test_with_flip_one_every_view_is_mirrored():
    batch = crops()
    flipped = Augmentation(flip=1, jitter=0, grayscale=0, blur=0)
    views = recolour(batch, draw(0, 0, batch_size=4, augmentation=flipped))
    torch.testing.assert_close(views, as_views(batch).flip(-1), rtol=0, atol=1e-7)


def test_with_grayscale_one_every_view_is_its_luminance():
    batch = crops()
    gray = Augmentation(flip=0, jitter=0, grayscale=1, blur=0)
    views = recolour(batch, draw(0, 0, batch_size=4, augmentation=gray))
    red, green, blue = as_views(batch).unbind(1)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    torch.testing.assert_close(views, luminance[:, None].expand(-1, 3, -1, -1), rtol=0, atol=1e-6)


def test_with_blur_one_every_view_is_blurred():
    batch = crops()
    draws = draw(0, 0, batch_size=4, augmentation=Augmentation(flip=0, jitter=0, grayscale=0, blur=1))
    blurred = gaussian_blur(as_views(batch), torch.from_numpy(draws.sigma), radius=1)
    torch.testing.assert_close(recolour(batch, draws), blurred, rtol=0, atol=1e-6)
