"""Which optimiser does what to which tensors."""

import pytest
import torch
from torch import nn

from simclr.pretrain.lars import LARS
from simclr.pretrain.model import SimCLR
from simclr.pretrain.optimizer import build_optimizer, set_learning_rate


def model(classes: int = 0) -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), width=5, out=4, classes=classes)


def build(kind: str, built: SimCLR) -> torch.optim.Optimizer:
    return build_optimizer(built, kind, momentum=0.8, weight_decay=0.5, peak=2.0, batch_size=512)


@pytest.mark.parametrize("kind", ["lars", "sgd", "adamw"])
def test_weights_decay_and_biases_and_norm_scales_do_not(kind):
    built = model()
    optimizer = build(kind, built)
    decays = {id(w): group["weight_decay"] for group in optimizer.param_groups for w in group["params"]}
    for name, w in built.named_parameters():
        assert decays[id(w)] == (0.5 if w.ndim == 2 else 0.0), name


def test_each_name_is_its_optimiser():
    assert type(build("lars", model())) is LARS
    assert type(build("sgd", model())) is torch.optim.SGD
    assert type(build("adamw", model())) is torch.optim.AdamW
    assert build("sgd", model()).param_groups[0]["momentum"] == 0.8


@pytest.mark.parametrize(("kind", "share"), [("lars", 0.1), ("sgd", 0.1), ("adamw", 1.0)])
def test_the_online_classifier_learns_at_the_rate_of_a_linear_evaluation(kind, share):
    """0.1 for each 256 images, so 0.2 of a peak of 2; under adamw as everything else. Never decayed, never adapted."""
    built = model(classes=3)
    optimizer = build(kind, built)
    set_learning_rate(optimizer, 1.0)
    *others, own = optimizer.param_groups
    assert {id(w) for w in own["params"]} == {id(w) for w in built.classifier.parameters()}
    assert own["lr"] == pytest.approx(share)
    assert own["weight_decay"] == 0 and not own.get("adapt", False)
    assert [group["lr"] for group in others] == [1.0, 1.0]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(built.parameters()))


def test_sgd_is_torchs_on_the_same_numbers():
    """Three steps by hand: v = 0.8 v + g + 0.5 w, w -= lr v."""
    built = model()
    optimizer = build("sgd", built)
    weight = built.encoder[1].weight
    expected, velocity = weight.detach().clone(), torch.zeros_like(weight)
    for lr in (0.1, 0.2, 0.05):
        grad = torch.randn_like(weight)
        weight.grad = grad.clone()
        set_learning_rate(optimizer, lr)
        optimizer.step()
        velocity = 0.8 * velocity + grad + 0.5 * expected
        expected = expected - lr * velocity
    torch.testing.assert_close(weight.detach(), expected)
