"""Batch norm: global statistics by hand, running statistics once a step."""

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from simclr.pretrain import norm as norm_module
from simclr.pretrain.norm import GlobalBatchNorm, RunningStatistics, over_all_processes


def as_global(plain: nn.Module, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Converted as for two processes, and then alone: its statistics must be those of torch's own."""
    monkeypatch.setattr(norm_module.distributed, "world", lambda: 2)
    converted = over_all_processes(plain, torch.device("cpu"))
    monkeypatch.undo()
    return converted


def twins(monkeypatch: pytest.MonkeyPatch, make: type[nn.Module], shape: tuple[int, ...]) -> list[nn.Module]:
    plain, other = make(shape[1]).double(), make(shape[1]).double()
    for module in (plain, other):
        with torch.no_grad():
            for number, w in enumerate(module.parameters()):
                w.copy_(torch.linspace(0.5, 1.5, w.numel()) + number)
    return [plain, as_global(other, monkeypatch)]


SHAPES = [(nn.BatchNorm1d, (7, 3)), (nn.BatchNorm2d, (4, 3, 5, 2)), (BatchNormAct2d, (4, 3, 5, 2))]


@pytest.mark.parametrize(("make", "shape"), SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_alone_it_is_torchs_batch_norm(monkeypatch, make, shape, training):
    """Values, gradients and running statistics; timm's comes with its activation."""
    results = []
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    weight = torch.randn(shape, dtype=torch.float64)
    for module in twins(monkeypatch, make, shape):
        module.train(training)
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        (y * weight).sum().backward()
        results.append([y, leaf.grad, *(w.grad for w in module.parameters()), *module.buffers()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_conversion_keeps_weights_and_names(monkeypatch):
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), BatchNormAct2d(4))
    before = plain.state_dict()
    converted = as_global(plain, monkeypatch)
    assert isinstance(converted[1], GlobalBatchNorm) and isinstance(converted[2], GlobalBatchNorm)
    assert list(converted.state_dict()) == list(before)
    assert all(torch.equal(converted.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_norm_without_shift_is_converted(monkeypatch):
    plain = nn.BatchNorm1d(3)
    plain.register_parameter("bias", None)
    converted = as_global(nn.Sequential(plain), monkeypatch)
    x = torch.randn(5, 3, requires_grad=True)
    converted(x).sum().backward()
    assert converted[0].bias is None


def test_one_process_keeps_torchs_own():
    plain = nn.Sequential(nn.BatchNorm2d(4))
    assert over_all_processes(plain, torch.device("cpu")) is plain
    assert type(plain[0]) is nn.BatchNorm2d


def test_two_processes_have_the_statistics_of_both(monkeypatch):
    """The other process's row is put beside ours by hand; shares of 3 and 5 views."""
    torch.manual_seed(0)
    both = torch.randn(8, 3, dtype=torch.float64)
    (plain, ours) = twins(monkeypatch, nn.BatchNorm1d, (8, 3))
    there = both[3:]
    row = torch.cat([there.mean(0), there.var(0, correction=0), torch.tensor([5.0])])
    monkeypatch.setattr(norm_module.distributed, "stack", lambda own: torch.stack([own, row]))
    torch.testing.assert_close(ours(both[:3]), plain(both)[:3], rtol=1e-12, atol=1e-12)
    for a, b in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# ---- running statistics


def forward_all(model: nn.Module, statistics: RunningStatistics, parts: list[Tensor], *, twice: bool) -> None:
    shares = [len(part) / sum(map(len, parts)) for part in parts]
    with statistics.one_update():
        for number, part in enumerate(parts):
            with statistics.counting(shares[number]):
                model(part)
        if twice:
            for part in parts:
                model(part)


@pytest.mark.parametrize("twice", [False, True])
def test_however_many_companies_and_passes_a_step_is_one_update(twice):
    """0.9 of what was, 0.1 of the companies' mean and unbiased variance, by size; three companies of 4, 4 and 3."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3)).double()
    statistics = RunningStatistics(model)
    parts = list(torch.randn(11, 3, dtype=torch.float64).mul(2).add(1).split([4, 4, 3]))
    forward_all(model, statistics, parts, twice=twice)
    mean = sum(len(part) / 11 * part.mean(0) for part in parts)
    variance = sum(len(part) / 11 * part.var(0) for part in parts)
    torch.testing.assert_close(model[0].running_mean, 0.1 * mean)
    torch.testing.assert_close(model[0].running_var, 0.9 + 0.1 * variance)
    assert model[0].num_batches_tracked == 1
    assert model[0].momentum == 0.1


def test_one_company_updates_as_torch_does():
    torch.manual_seed(0)
    x = torch.randn(9, 3)
    model, plain = nn.Sequential(nn.BatchNorm1d(3)), nn.BatchNorm1d(3)
    forward_all(model, RunningStatistics(model), [x], twice=True)
    plain(x)
    for ours, theirs in zip(model[0].buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("how", ["failed step", "untouched"])
def test_what_does_not_count_leaves_no_trace(how):
    model = nn.Sequential(nn.BatchNorm1d(3))
    statistics = RunningStatistics(model)
    model(torch.randn(4, 3))
    before = [b.clone() for b in model.buffers()]
    if how == "untouched":
        with statistics.untouched():
            model(torch.randn(4, 3))
    else:
        with pytest.raises(torch.OutOfMemoryError), statistics.one_update():
            model(torch.randn(4, 3))
            raise torch.OutOfMemoryError
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before, strict=True))


def test_a_model_without_batch_norm_has_nothing_to_count():
    model = nn.Linear(3, 3)
    forward_all(model, RunningStatistics(model), [torch.randn(4, 3)] * 2, twice=True)
