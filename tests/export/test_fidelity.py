import numpy as np
import pytest

from simclr.errors import ExportMismatch
from simclr.export.parity import check_parity

IMAGES = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1) * np.ones((1, 2, 2, 3), np.uint8)
"""Image i is of colour i, so that a fake model can tell which it was given."""
EXPECTED = np.eye(10, 16, dtype=np.float32)
NAMES = [f"image {i}" for i in range(10)]


def agrees(pixels: np.ndarray) -> np.ndarray:
    return EXPECTED[pixels[:, 0, 0, 0]]


def turned(vector: np.ndarray, cosine: float) -> np.ndarray:
    """A unit vector that has this cosine to `vector`, one of the first ten axes."""
    away = np.zeros_like(vector)
    away[15] = 1
    return vector * cosine + away * np.sqrt(1 - cosine**2)


def check(run, *, max_batch: int = 8, floor: float = 0.99) -> dict[str, object]:
    return check_parity(run, IMAGES, EXPECTED, names=NAMES, max_batch=max_batch, floor=floor)


def test_agreement_is_reported_in_numbers() -> None:
    assert check(agrees) == {
        "batches": [1, 2, 7, 8],
        "images": 10,
        "min_cosine": 1.0,
        "max_abs_difference": 0.0,
        "floor": 0.99,
    }


@pytest.mark.parametrize(("max_batch", "batches"), [(2, {1, 2}), (5, {1, 2, 5}), (256, {1, 2, 7, 256})])
def test_batches_of_1_2_7_and_the_largest_are_run(max_batch: int, batches: set[int]) -> None:
    seen = set()

    def run(pixels: np.ndarray) -> np.ndarray:
        seen.add(len(pixels))
        return agrees(pixels)

    check(run, max_batch=max_batch)
    assert seen == batches


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_image_is_seen_at_the_small_batches(batch: int) -> None:
    seen = set()

    def run(pixels: np.ndarray) -> np.ndarray:
        if len(pixels) == batch:
            seen.update(pixels[:, 0, 0, 0].tolist())
        return agrees(pixels)

    check(run)
    assert seen == set(range(10))


def test_the_worst_of_several_wrong_images_is_named() -> None:
    def run(pixels: np.ndarray) -> np.ndarray:
        cosines = {2: 0.95, 6: 0.4, 8: 0.7}
        return np.stack([turned(EXPECTED[i], cosines.get(i, 1.0)) for i in pixels[:, 0, 0, 0]])

    with pytest.raises(ExportMismatch, match=r"^image 6: .* has cosine 0\.400000 .* batch 1, below 0\.99\."):
        check(run)


@pytest.mark.parametrize("batch", [2, 7, 8])
def test_a_model_that_is_wrong_at_one_batch_size_is_found_out(batch: int) -> None:
    def run(pixels: np.ndarray) -> np.ndarray:
        return np.roll(agrees(pixels), 1, axis=0) if len(pixels) == batch else agrees(pixels)

    with pytest.raises(ExportMismatch, match=f"at batch {batch}, below"):
        check(run)


def test_nan_is_no_agreement() -> None:
    def run(pixels: np.ndarray) -> np.ndarray:
        found = agrees(pixels).copy()
        found[pixels[:, 0, 0, 0] == 4] = np.nan
        return found

    with pytest.raises(ExportMismatch, match=r"^image 4: .* has cosine nan"):
        check(run)


def test_the_lowest_cosine_and_the_largest_difference_above_the_floor_are_reported() -> None:
    def run(pixels: np.ndarray) -> np.ndarray:
        return np.stack([turned(EXPECTED[i], 0.996 if i == 3 else 1.0) for i in pixels[:, 0, 0, 0]])

    found = check(run)
    assert found["min_cosine"] == pytest.approx(0.996, abs=1e-6)
    assert found["max_abs_difference"] == 0.089  # sqrt(1 - 0.996**2), two digits


def test_a_model_just_below_the_floor_is_refused() -> None:
    def run(pixels: np.ndarray) -> np.ndarray:
        return np.stack([turned(EXPECTED[i], 0.9899) for i in pixels[:, 0, 0, 0]])

    with pytest.raises(ExportMismatch):
        check(run)
