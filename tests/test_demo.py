"""The demo shows what it claims."""

import pytest

from simclr.demo import KINDS, draw_image, run_demo
from simclr.errors import ConfigError


def test_a_drawing_is_decided_by_its_seed():
    import numpy as np

    first, again, other = (draw_image("star", np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert (first.size, first.mode) == ((32, 32), "RGB")


def test_there_are_ten_kinds():
    assert len(KINDS) == 10


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="exists and is no demo"):
        run_demo(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_training_gains_at_least_15_points_over_raw_pixels_and_over_no_training(seed, tmp_path):
    accuracy = run_demo(tmp_path / "demo", seed=seed)
    trained = accuracy["trained encoder"]
    assert trained - accuracy["raw pixels"] >= 0.15
    assert trained - accuracy["untrained encoder"] >= 0.15
