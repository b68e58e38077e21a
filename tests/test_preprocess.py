import json

import numpy as np
import pytest
import timm.data
from PIL import Image

from simclr.errors import ArtifactError, ConfigError
from simclr.preprocess import Recipe


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth noise: no edges at which two resizes may rightly differ."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop", [0.875, 0.95, 1.0])
@pytest.mark.parametrize("image_size", [(500, 375), (375, 500), (256, 256), (190, 170)])
def test_it_is_timms_evaluation_transform(
    image_size: tuple[int, int], crop: float, interpolation: str
) -> None:
    image = smooth(*image_size)
    theirs = timm.data.create_transform(
        160, is_training=False, crop_pct=crop, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1)
    )
    expected = theirs(image).numpy().transpose(1, 2, 0) * 255
    found = Recipe(size=160, crop=crop, interpolation=interpolation).apply(image)
    # timm rounds the resized image to whole pixels, which zooms by up to 1 %
    assert np.abs(found - expected).mean() < 1.5
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


def test_it_is_a_resize_and_a_crop_to_the_last_bit_where_nothing_is_rounded() -> None:
    image = smooth(200, 200)
    whole = image.resize((100, 100), Image.Resampling.BICUBIC)
    found = Recipe(size=80, crop=0.8).apply(image)
    assert np.abs(found.astype(int) - np.asarray(whole)[10:90, 10:90]).max() <= 1


@pytest.mark.parametrize(
    ("width", "height", "crop", "box"),
    [
        (100, 100, 1.0, (0, 0, 100, 100)),
        (100, 60, 1.0, (20, 0, 80, 60)),
        (60, 100, 1.0, (0, 20, 60, 80)),
        (100, 60, 0.5, (35, 15, 65, 45)),
        (5, 4, 0.875, (0.75, 0.25, 4.25, 3.75)),
        (1, 1, 1.0, (0, 0, 1, 1)),
    ],
)
def test_the_box_is_the_centre_square(
    width: int, height: int, crop: float, box: tuple[float, float, float, float]
) -> None:
    assert Recipe(crop=crop).box(width, height) == box


def test_what_lies_outside_the_centre_box_is_not_seen() -> None:
    image = Image.new("RGB", (500, 100), "blue")
    image.paste(
        (255, 0, 0), (170, 0, 330, 100)
    )  # the box is 200..300; bicubic looks two pixels of 12.5 further
    found = Recipe(size=8, crop=1.0).apply(image)
    assert np.unique(found.reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


def test_shrinking_averages_and_does_not_pick() -> None:
    rows = np.zeros((64, 64, 3), np.uint8)
    rows[::2, ::2] = rows[1::2, 1::2] = 255
    found = Recipe(size=8, crop=1.0).apply(Image.fromarray(rows))
    assert np.abs(found.astype(int) - 128).max() <= 1


@pytest.mark.parametrize("size", [(3000, 30), (30, 3000), (1, 1), (1, 500), (2, 3)])
def test_odd_shapes_give_a_square_of_their_colour(size: tuple[int, int]) -> None:
    found = Recipe(size=24).apply(Image.new("RGB", size, (10, 200, 30)))
    assert found.dtype == np.uint8 and np.array_equal(found, np.full((24, 24, 3), (10, 200, 30)))


@pytest.mark.parametrize(
    ("width", "height", "least"),
    [(4000, 3000, 512), (3000, 4000, 512), (600, 513, 512), (300, 400, 300)],
)
def test_enough_is_twice_the_size_of_the_box(width: int, height: int, least: int) -> None:
    assert Recipe(size=224, crop=0.875).enough(width, height) == least  # 2 * 224 / 0.875


def test_json_gives_back_the_recipe() -> None:
    recipe = Recipe(
        size=32, crop=1.0, interpolation="bilinear", mean=(0.5, 0.4, 0.3), std=(0.2, 0.1, 0.3), margin=3.0
    )
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_an_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(ArtifactError, match="missing or unknown gamma"):
        Recipe.from_dict(Recipe().to_dict() | {"gamma": 2.2})


@pytest.mark.parametrize("key", Recipe().to_dict())
def test_a_missing_key_is_refused_by_name_and_never_guessed(key: str) -> None:
    values = Recipe().to_dict()
    del values[key]
    with pytest.raises(ArtifactError, match=f"missing or unknown {key}"):
        Recipe.from_dict(values)


def test_an_unknown_interpolation_names_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"^interpolation 'lanczos' is unknown\. Use one of: bicubic, bilinear\.$"
    ):
        Recipe(interpolation="lanczos")


@pytest.mark.parametrize("wrong", [{"size": 0}, {"crop": 0.0}, {"crop": 1.1}, {"crop": float("nan")}])
def test_a_size_or_crop_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be at least 1 and crop"):
        Recipe(**wrong)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mean": (123.675, 116.28, 103.53)}, "mean 123.675,116.28,103.53 is of values in 0..255. Divide it by 255: 0.485,0.456,0.406."),
        ({"std": (58.395, 57.12, 57.375)}, "std 58.395,57.12,57.375 is of values in 0..255. Divide it by 255: 0.229,0.224,0.225."),
        ({"mean": (0.5,)}, "mean 0.5 must be three numbers."),
        ({"std": (0.2, 0.0, 0.2)}, "std 0.2,0,0.2 must be three numbers, each above 0."),
        ({"std": (0.2, float("nan"), 0.2)}, "std 0.2,nan,0.2 must be three numbers, each above 0."),
        ({"mean": (float("-inf"), 0.2, 0.2)}, "mean -inf,0.2,0.2 must be three numbers."),
    ],
)  # fmt: skip
def test_means_and_deviations_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ConfigError) as error:
        Recipe(**settings)
    assert str(error.value) == words
