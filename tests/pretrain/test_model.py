"""The projection head against google-research/simclr's description, and a hand-written forward."""

import pytest
import torch
from torch import nn

from simclr.pretrain.model import SimCLR, projection_head


def described(head: nn.Sequential) -> list[str]:
    """Each layer with its widths and whether it has a bias."""
    lines = []
    for layer in head:
        if isinstance(layer, nn.Linear):
            lines.append(f"linear {layer.in_features}-{layer.out_features} bias={layer.bias is not None}")
        elif isinstance(layer, nn.BatchNorm1d):
            lines.append(f"norm {layer.num_features} bias={layer.bias is not None}")
        else:
            lines.append(type(layer).__name__)
    return lines


def test_two_layers_are_those_of_the_paper():
    assert described(projection_head(8, layers=2, out=4)) == [
        "linear 8-8 bias=False",
        "norm 8 bias=True",
        "ReLU",
        "linear 8-4 bias=False",
        "norm 4 bias=False",
    ]


def test_a_third_layer_is_another_hidden_one():
    assert described(projection_head(8, layers=3, out=4))[:6] == [
        "linear 8-8 bias=False",
        "norm 8 bias=True",
        "ReLU",
        "linear 8-8 bias=False",
        "norm 8 bias=True",
        "ReLU",
    ]


def test_one_layer_is_linear_and_norm():
    assert described(projection_head(8, layers=1, out=4)) == ["linear 8-4 bias=False", "norm 4 bias=False"]


def test_linear_weights_start_with_a_hundredth_standard_deviation():
    torch.manual_seed(0)
    head = projection_head(256, layers=2, out=128)
    for layer in (head[0], head[3]):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)


def test_projections_are_those_of_the_formula():
    torch.manual_seed(0)
    model = SimCLR(nn.Flatten(), width=12, layers=2, out=3)
    views = torch.rand(6, 3, 2, 2)

    def normed(x):
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()

    hidden = normed(views.flatten(1) @ model.head[0].weight.T).relu()
    expected = normed(hidden @ model.head[3].weight.T)
    torch.testing.assert_close(model(views), expected, rtol=1e-4, atol=1e-5)
