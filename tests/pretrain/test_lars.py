"""LARS against numbers of google-research/simclr, a loop, and torch's SGD."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simclr.pretrain.lars import LARS, lars_groups

REFERENCE = Path(__file__).parent / "reference" / "lars.npz"


def loop_lars(
    weights: list[Tensor],
    gradients: list[list[Tensor]],
    *,
    lr: float,
    momentum: float,
    decay: float,
    trust: float,
) -> list[Tensor]:
    """Where the given weights end up: google-research/simclr, lars_optimizer.py, one tensor after the other."""
    ends = []
    for index, start in enumerate(weights):
        w, velocity = start.clone(), torch.zeros_like(start)
        for step in gradients:
            update = step[index] + decay * w
            w_norm, norm = w.square().sum().sqrt(), update.square().sum().sqrt()
            rate = lr * (trust * w_norm / norm if w_norm > 0 and norm > 0 else 1.0)
            velocity = momentum * velocity + rate * update
            w = w - velocity
        ends.append(w)
    return ends


def step_along(
    optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], gradients: list[list[Tensor]]
) -> None:
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()


@pytest.fixture
def problem() -> tuple[list[Tensor], list[list[Tensor]]]:
    """Three float64 tensors and five steps of gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (5,), (2, 3, 2, 2)]

    def sample() -> list[Tensor]:
        return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]

    return sample(), [sample() for _ in range(5)]


@pytest.mark.parametrize("case", ["c0", "c2", "c3"])
def test_twelve_steps_end_where_the_reference_ends(case):
    numbers = np.load(REFERENCE)
    prefix = f"{case}/init/"
    names = [key.removeprefix(prefix) for key in numbers.files if key.startswith(prefix)]
    model = nn.ParameterList([nn.Parameter(torch.from_numpy(numbers[prefix + name])) for name in names])
    groups = lars_groups(model, weight_decay=float(numbers[f"{case}/weight_decay"]))
    optimizer = LARS(groups, lr=0.0, momentum=float(numbers[f"{case}/momentum"]))
    for step, lr in enumerate(numbers[f"{case}/lr"]):
        for group in optimizer.param_groups:
            group["lr"] = float(lr)
        for name, weight in zip(names, model, strict=True):
            weight.grad = torch.from_numpy(numbers[f"{case}/grad{step}/{name}"])
        optimizer.step()
    for name, weight in zip(names, model, strict=True):
        expected = numbers[f"{case}/param11/{name}"]
        np.testing.assert_allclose(
            weight.detach(), expected, rtol=0, atol=1e-6 * np.abs(expected).max(), err_msg=name
        )


def test_the_steps_are_those_of_a_loop_over_tensors(problem):
    start, gradients = problem
    weights = [nn.Parameter(w.clone()) for w in start]
    step_along(LARS(weights, lr=0.7, momentum=0.8, weight_decay=0.03, trust=0.02), weights, gradients)
    ends = loop_lars(start, gradients, lr=0.7, momentum=0.8, decay=0.03, trust=0.02)
    for weight, end in zip(weights, ends, strict=True):
        torch.testing.assert_close(weight.detach(), end, rtol=1e-12, atol=1e-14)


def test_without_adaptation_it_is_momentum_sgd(problem):
    start, gradients = problem
    ours, theirs = ([nn.Parameter(w.clone()) for w in start] for _ in range(2))
    step_along(LARS(ours, lr=0.1, momentum=0.9, weight_decay=0.01, adapt=False), ours, gradients)
    step_along(torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.01), theirs, gradients)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_a_changed_learning_rate_leaves_the_momentum_as_it_was():
    """The rate goes into the momentum, so at rate 0 the last step is repeated, times 0.9."""
    weight = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    optimizer = LARS([weight], lr=0.5, momentum=0.9, adapt=False)
    weight.grad = torch.tensor([1.0, -1.0], dtype=torch.float64)
    optimizer.step()
    assert weight.tolist() == [0.5, 2.5]
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.05, 2.95], rel=1e-12)


def test_the_default_momentum_is_nine_tenths():
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    gradients = [[torch.tensor([value], dtype=torch.float64)] for value in (1.0, 0.0)]
    step_along(LARS([weight], lr=0.5, adapt=False), [weight], gradients)
    assert weight.item() == pytest.approx(1 - 0.5 - 0.9 * 0.5, rel=1e-12)


def test_gradients_are_left_as_found(problem):
    start, gradients = problem
    weights = [nn.Parameter(w) for w in start]
    step_along(LARS(weights, lr=0.7, weight_decay=0.1), weights, gradients)
    for weight, gradient in zip(weights, gradients[-1], strict=True):
        assert torch.equal(weight.grad, gradient)


def test_a_parameter_without_gradient_is_left_alone():
    idle, busy = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    busy.grad = torch.ones(2, 2)
    LARS([idle, busy], lr=1.0, weight_decay=0.1).step()
    assert torch.equal(idle, torch.ones(2, 2))
    assert not torch.equal(busy, torch.ones(2, 2))


def test_a_group_without_gradients_does_not_keep_the_next_from_moving():
    idle, busy = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    busy.grad = torch.ones(2, 2)
    LARS([dict(params=[idle]), dict(params=[busy], adapt=False)], lr=0.5).step()
    assert torch.equal(idle, torch.ones(2, 2))
    assert torch.equal(busy, torch.full((2, 2), 0.5))


def test_a_weight_of_zeros_moves_plainly():
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.tensor([[1.0, 2.0], [-4.0, 0.0]])
    LARS([weight], lr=0.5, weight_decay=0.1).step()
    assert weight.tolist() == [[-0.5, -1.0], [2.0, 0.0]]


def test_a_gradient_of_zeros_moves_nothing():
    weight = nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.zeros(2, 2)
    LARS([weight], lr=0.5).step()
    assert torch.equal(weight, torch.ones(2, 2))


def test_a_closure_is_called_with_gradients_on():
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = LARS([weight], lr=0.5, adapt=False)

    def closure() -> float:
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 9.0
    assert weight.item() == 0.0


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def names_of(model: nn.Module, group: dict[str, object]) -> set[str]:
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return {known[id(parameter)] for parameter in group["params"]}


def test_weights_decay_and_adapt():
    model = _Small()
    group = lars_groups(model, weight_decay=1e-4)[0]
    assert names_of(model, group) == {"conv.weight", "linear.weight"}
    assert (group["weight_decay"], group["adapt"]) == (1e-4, True)


def test_biases_and_norm_scales_neither_decay_nor_adapt():
    model = _Small()
    group = lars_groups(model, weight_decay=1e-4)[1]
    assert names_of(model, group) == {"conv.bias", "norm.weight", "norm.bias", "linear.bias"}
    assert (group["weight_decay"], group["adapt"]) == (0.0, False)


def test_saved_state_continues_the_same_steps(problem):
    start, gradients = problem
    straight = [nn.Parameter(w.clone()) for w in start]
    step_along(LARS(straight, lr=0.7, weight_decay=0.03), straight, gradients)

    first = [nn.Parameter(w.clone()) for w in start]
    before = LARS(first, lr=0.7, weight_decay=0.03)
    step_along(before, first, gradients[:2])
    second = [nn.Parameter(w.detach().clone()) for w in first]
    after = LARS(second, lr=0.1)
    after.load_state_dict(before.state_dict())
    step_along(after, second, gradients[2:])
    for one, other in zip(straight, second, strict=True):
        assert torch.equal(one, other)
