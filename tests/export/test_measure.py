import numpy as np
import pytest

from simclr.export.measure import embed_all, over_batch_sizes

IMAGES = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1) * np.ones((1, 2, 2, 3), np.uint8)
"""Image i is of colour i, so that a fake model can tell which it was given."""


def agrees(pixels: np.ndarray) -> np.ndarray:
    return np.eye(10, 16, dtype=np.float32)[pixels[:, 0, 0, 0]]


def test_all_images_are_run_in_order_and_counted() -> None:
    counts: list[int] = []
    assert np.array_equal(embed_all(agrees, IMAGES, batch=4, step=counts.append), agrees(IMAGES))
    assert counts == [4, 4, 2]


@pytest.mark.parametrize(
    ("max_batch", "batches"), [(2, (1, 2)), (5, (1, 2, 5)), (256, (1, 2, 7, 8, 32, 256))]
)
def test_small_batches_and_the_largest_are_run_and_timed(max_batch: int, batches: tuple[int, ...]) -> None:
    seen = set()

    def run(pixels: np.ndarray) -> np.ndarray:
        seen.add(len(pixels))
        return agrees(pixels)

    found = over_batch_sizes(run, IMAGES, max_batch=max_batch)
    assert seen == set(batches) == set(found.speed) and found.batches == batches
    assert found.cosine == 1.0 and min(found.speed.values()) > 0


@pytest.mark.parametrize("batch", [1, 2, 7, 8, 32, 256])
def test_every_image_is_seen_at_every_size(batch: int) -> None:
    seen = set()

    def run(pixels: np.ndarray) -> np.ndarray:
        if len(pixels) == batch:
            seen.update(pixels[:, 0, 0, 0].tolist())
        return agrees(pixels)

    over_batch_sizes(run, IMAGES, max_batch=256)
    assert seen == set(range(10))


@pytest.mark.parametrize("batch", [1, 2, 7, 8, 32, 256])
def test_a_model_that_is_wrong_at_one_batch_size_is_found_out(batch: int) -> None:
    def run(pixels: np.ndarray) -> np.ndarray:
        right = agrees(pixels)
        return np.roll(right, 1, axis=1) if len(pixels) == batch else right

    assert over_batch_sizes(run, IMAGES, max_batch=256).cosine == 0.0


def test_nan_at_one_batch_size_stays_nan() -> None:
    def run(pixels: np.ndarray) -> np.ndarray:
        return agrees(pixels) * (np.nan if len(pixels) == 7 else 1)

    assert np.isnan(over_batch_sizes(run, IMAGES, max_batch=256).cosine)
