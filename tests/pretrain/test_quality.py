"""Alignment, uniformity and the size of the gradient."""

import math

import pytest
import torch
from torch import Tensor, nn

from simclr.pretrain.quality import alignment, gradient_norm, uniformity


def slow_alignment(z1: Tensor, z2: Tensor) -> float:
    total = 0.0
    for a, b in zip(z1.double(), z2.double(), strict=True):
        total += float((a / a.norm() - b / b.norm()).norm() ** 2)
    return total / len(z1)


def slow_uniformity(z: Tensor) -> float:
    unit = [row / row.norm() for row in z.double()]
    near = [
        math.exp(-2 * float((a - b).norm() ** 2))
        for i, a in enumerate(unit)
        for j, b in enumerate(unit)
        if i != j
    ]
    return math.log(sum(near) / len(near))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_are_what_loops_over_rows_and_pairs_give(dtype):
    torch.manual_seed(0)
    z1, z2 = torch.randn(2, 13, 5, dtype=dtype)
    assert float(alignment(z1, z2)) == pytest.approx(slow_alignment(z1, z2), rel=1e-6)
    assert float(uniformity(z1)) == pytest.approx(slow_uniformity(z1), rel=1e-6)
    assert alignment(z1, z2).dtype == uniformity(z1).dtype == dtype


def test_uniformity_does_not_depend_on_the_blocks(monkeypatch):
    torch.manual_seed(0)
    z = torch.randn(23, 5)
    whole = uniformity(z)
    monkeypatch.setattr("simclr.pretrain.quality._BLOCK", 7)
    assert float(uniformity(z)) == pytest.approx(float(whole), rel=1e-6)
    assert float(uniformity(z)) == pytest.approx(slow_uniformity(z), rel=1e-6)


def test_uniformity_looks_at_every_nth_of_many_rows():
    """Of 23 rows at most 8: every third."""
    torch.manual_seed(0)
    z = torch.randn(23, 5)
    assert float(uniformity(z, rows=8)) == pytest.approx(slow_uniformity(z[::3]), rel=1e-6)


def test_equal_rows_are_aligned_and_not_uniform():
    z = torch.full((6, 4), 3.0)
    assert float(alignment(z, 2 * z)) == pytest.approx(0, abs=1e-12)
    assert float(uniformity(z)) == pytest.approx(0, abs=1e-5)


def test_closed_forms_of_opposite_and_orthogonal_rows():
    """Distances squared: 4 and 2."""
    pair = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert float(uniformity(pair)) == pytest.approx(-8, rel=1e-6)
    assert float(alignment(pair[:1], pair[1:])) == pytest.approx(4)
    assert float(uniformity(torch.eye(5))) == pytest.approx(-4, rel=1e-6)
    assert float(alignment(torch.eye(5), torch.eye(5).roll(1, 0))) == pytest.approx(2)


def test_evenly_scattered_rows_have_the_uniformity_that_the_docstring_says():
    torch.manual_seed(0)
    assert float(uniformity(torch.randn(2048, 128))) == pytest.approx(8 / 128 - 4, abs=0.005)


def test_half_precision_is_raised_also_under_autocast():
    torch.manual_seed(0)
    z = torch.randn(40, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value, distance = uniformity(z), alignment(z, z.flip(0))
    assert float(value) == pytest.approx(slow_uniformity(z), rel=1e-5)
    assert float(distance) == pytest.approx(slow_alignment(z, z.flip(0)), rel=1e-5)


def test_the_gradient_norm_is_that_of_one_long_vector():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for w in model[0].parameters():
        w.grad = torch.randn_like(w)
    long = torch.cat([w.grad.flatten().double() for w in model[0].parameters()])
    before = model[0].weight.grad.clone()
    assert float(gradient_norm(model.parameters())) == pytest.approx(float(long.norm()), rel=1e-6)
    assert torch.equal(model[0].weight.grad, before)


def test_without_gradients_their_norm_is_zero_and_one_that_is_no_number_shows():
    model = nn.Linear(3, 4)
    assert float(gradient_norm(model.parameters())) == 0
    model.bias.grad = torch.tensor([1.0, math.nan, 0.0, 0.0])
    assert math.isnan(float(gradient_norm(model.parameters())))
