"""Schedule against numbers of google-research/simclr."""

import math
from pathlib import Path

import numpy as np
import pytest

from simclr.pretrain.schedule import learning_rate, peak_learning_rate, total_steps, warmup_steps

CASES = ["c0", "c1", "c2", "c3"]


def case(name: str) -> dict[str, np.ndarray]:
    numbers = np.load(Path(__file__).parent / "reference" / "schedule.npz")
    return {key.removeprefix(f"{name}_"): numbers[key] for key in numbers.files if key.startswith(f"{name}_")}


@pytest.mark.parametrize("name", CASES)
def test_learning_rates_are_those_of_the_reference(name):
    c = case(name)
    peak = peak_learning_rate(float(c["base_lr"]), batch_size=int(c["batch_size"]), scaling=str(c["scaling"]))
    rates = [
        learning_rate(
            int(step), peak=peak, warmup_steps=int(c["warmup_steps"]), total_steps=int(c["total_steps"])
        )
        for step in c["step"]
    ]
    np.testing.assert_allclose(rates, c["lr"], rtol=0, atol=1e-6 * peak)


@pytest.mark.parametrize("name", CASES)
def test_lengths_are_those_of_the_reference(name):
    c = case(name)
    images, batch = int(c["num_examples"]), int(c["batch_size"])
    assert total_steps(images, batch_size=batch, epochs=int(c["epochs"])) == c["total_steps"]
    assert warmup_steps(images, batch_size=batch, epochs=float(c["warmup_epochs"])) == c["warmup_steps"]


def test_the_papers_run_has_31279_steps():
    assert total_steps(1_281_167, batch_size=4096, epochs=100) == 31279


def test_the_papers_warm_up_has_3127_steps():
    assert warmup_steps(1_281_167, batch_size=4096, epochs=100 * 0.1) == 3127


def test_a_share_of_epochs_that_is_whole_but_for_rounding_counts_whole():
    """100 * 0.29 is 28.999999999999996."""
    assert warmup_steps(64, batch_size=64, epochs=100 * 0.29) == 29


@pytest.mark.parametrize(("epochs", "steps"), [(0.999_999_6, 1), (0.999_996, 0)])
def test_a_millionth_of_an_image_is_rounding_and_more_is_not(epochs, steps):
    assert warmup_steps(1, batch_size=1, epochs=epochs) == steps


@pytest.mark.parametrize(("step", "rate"), [(0, 0.0), (5, 1.0), (10, 2.0), (20, 1.0), (30, 0.0), (31, 0.0)])
def test_the_rate_rises_from_zero_to_the_peak_and_falls_to_zero(step, rate):
    assert learning_rate(step, peak=2.0, warmup_steps=10, total_steps=30) == pytest.approx(rate, abs=1e-15)


def test_without_warm_up_the_first_step_has_the_peak():
    assert learning_rate(0, peak=2.0, warmup_steps=0, total_steps=30) == 2.0


def test_a_run_that_is_all_warm_up_ends_at_the_peak():
    assert learning_rate(10, peak=2.0, warmup_steps=10, total_steps=10) == 2.0


def test_a_fall_of_one_step_ends_at_zero():
    assert learning_rate(11, peak=2.0, warmup_steps=10, total_steps=11) == 0.0


def test_the_fall_is_half_a_cosine():
    rate = learning_rate(15, peak=2.0, warmup_steps=10, total_steps=30)
    assert rate == pytest.approx(1 + math.cos(math.pi / 4), rel=1e-12)


@pytest.mark.parametrize(("scaling", "peak"), [("linear", 4.8), ("sqrt", 19.2), ("none", 0.3)])
def test_the_peak_grows_with_the_batch_as_asked(scaling, peak):
    assert peak_learning_rate(0.3, batch_size=4096, scaling=scaling) == pytest.approx(peak, rel=1e-12)
