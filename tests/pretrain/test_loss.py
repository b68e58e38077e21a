"""nt_xent against numbers of google-research/simclr, a loop, and closed forms."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from simclr.pretrain import loss as loss_module
from simclr.pretrain import memory
from simclr.pretrain.loss import log_sums, mean_loss, nt_xent, row_gradients, unit_rows

REFERENCE = Path(__file__).parent / "reference" / "nt_xent.npz"


def loop_loss(z1: Tensor, z2: Tensor, temperature: float, *, decoupled: bool = False) -> float:
    """Chen et al. 2020, eq. 1, one pair at a time in Python's floats; decoupled, without the positive among the rivals."""
    rows = []
    for row in [*z1.double().tolist(), *z2.double().tolist()]:
        norm = max(math.sqrt(sum(x * x for x in row)), 1e-12)
        rows.append([x / norm for x in row])
    total = 0.0
    for i, row in enumerate(rows):
        logits = {
            j: sum(x * y for x, y in zip(row, other, strict=True)) / temperature
            for j, other in enumerate(rows)
            if j != i
        }
        positive = logits[(i + len(z1)) % len(rows)]
        if decoupled:
            del logits[(i + len(z1)) % len(rows)]
        highest = max(logits.values())
        total += highest + math.log(sum(math.exp(value - highest) for value in logits.values()))
        total -= positive
    return total / len(rows)


def views(
    images: int, width: int = 6, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z1, z2 = torch.randn(2, images, width, generator=generator, dtype=torch.float64).to(dtype)
    return z1.clone().requires_grad_(), z2.clone().requires_grad_()


def gradient(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    return torch.cat(torch.autograd.grad(nt_xent(z1, z2, temperature), (z1, z2)))


@pytest.mark.parametrize("case", ["c0", "c1", "c4"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_loss_and_gradient_are_those_of_the_reference(case, dtype, tolerance):
    numbers = np.load(REFERENCE)
    z = torch.from_numpy(numbers[f"{case}_projections"]).to(dtype).requires_grad_()
    loss = nt_xent(*z.chunk(2), temperature=float(numbers[f"{case}_temperature"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(numbers[f"{case}_loss"]), rel=tolerance)
    expected = numbers[f"{case}_grad"]
    np.testing.assert_allclose(z.grad, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("images", [1, 3, 5, 8])
def test_the_loss_is_that_of_a_loop_over_pairs(images):
    z1, z2 = views(images)
    assert nt_xent(z1, z2, 0.3).item() == pytest.approx(loop_loss(z1, z2, 0.3), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("images", [2, 5, 8])
@pytest.mark.parametrize("elements", [1, 40, 1 << 20])
def test_the_decoupled_loss_is_that_of_a_loop_without_the_positive(images, elements, monkeypatch):
    """Whatever the blocks: a row each, a few, all."""
    monkeypatch.setattr(loss_module, "_BLOCK_ELEMENTS", {"cpu": elements})
    z1, z2 = views(images)
    loss = nt_xent(z1, z2, 0.3, decoupled=True)
    assert loss.item() == pytest.approx(loop_loss(z1, z2, 0.3, decoupled=True), rel=1e-12, abs=1e-12)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3, decoupled=True), (z1, z2))


def test_the_decoupled_loss_of_equal_rows_has_one_rival_less():
    row = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64).expand(7, 3)
    assert nt_xent(row, row, 0.1, decoupled=True).item() == pytest.approx(math.log(12), rel=1e-12)


def test_one_image_has_no_decoupled_loss():
    with pytest.raises(ValueError) as error:
        nt_xent(*views(1), decoupled=True)
    assert str(error.value) == "the decoupled loss of one image has no rivals; give at least 2."


@pytest.mark.parametrize("images", [2, 7])
def test_equal_rows_give_the_logarithm_of_the_number_of_other_views(images):
    row = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64).expand(images, 3)
    assert nt_xent(row, row, 0.1).item() == pytest.approx(math.log(2 * images - 1), rel=1e-12)


def test_the_default_temperature_is_a_tenth():
    z1, z2 = views(4)
    assert nt_xent(z1, z2).item() == nt_xent(z1, z2, 0.1).item()


def test_the_length_of_a_row_does_not_matter():
    z1, z2 = views(4)
    lengths = torch.tensor([[0.01], [1.0], [30.0], [1e6]], dtype=torch.float64)
    assert nt_xent(z1 * lengths, z2, 0.2).item() == pytest.approx(nt_xent(z1, z2, 0.2).item(), rel=1e-12)


def test_swapping_the_arguments_gives_the_same_loss():
    z1, z2 = views(5)
    assert nt_xent(z2, z1, 0.2).item() == pytest.approx(nt_xent(z1, z2, 0.2).item(), rel=1e-14)


def test_autocast_changes_neither_the_loss_nor_its_type():
    z1, z2 = views(6, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(z1, z2, 0.1)
    assert inside.dtype == torch.float32
    assert inside.item() == nt_xent(z1, z2, 0.1).item()


def test_autocast_does_not_change_the_gradient():
    z1, z2 = views(6, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gradient(z1, z2, 0.1)
    assert torch.equal(inside, gradient(z1, z2, 0.1))


def test_half_precision_is_raised_to_float32():
    z1, z2 = views(6, dtype=torch.bfloat16)
    loss = nt_xent(z1, z2, 0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(loop_loss(z1, z2, 0.1), rel=1e-6)


def test_half_precision_gets_a_gradient_of_its_own_type():
    z1, z2 = views(6, dtype=torch.bfloat16)
    nt_xent(z1, z2, 0.1).backward()
    assert z1.grad.dtype == torch.bfloat16


def test_double_precision_stays():
    assert nt_xent(*views(3), 0.1).dtype == torch.float64


def test_the_gradient_is_that_of_finite_differences():
    z1, z2 = views(4, width=3)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3), (z1, z2))


def test_the_gradient_is_scaled_by_what_follows_the_loss():
    z1, z2 = views(4)
    (scaled,) = torch.autograd.grad(-3 * nt_xent(z1, z2, 0.3), z1)
    torch.testing.assert_close(scaled, -3 * gradient(z1, z2, 0.3)[:4], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("elements", [1, 10, 33, 70, 100])
def test_the_block_size_changes_nothing(monkeypatch, elements):
    """Blocks of 1, 1, 3, 7 and all of 10 rows."""
    z1, z2 = views(5)
    loss, grad = nt_xent(z1, z2, 0.1).item(), gradient(z1, z2, 0.1)
    monkeypatch.setitem(loss_module._BLOCK_ELEMENTS, "cpu", elements)
    assert nt_xent(z1, z2, 0.1).item() == pytest.approx(loss, rel=1e-14)
    torch.testing.assert_close(gradient(z1, z2, 0.1), grad, rtol=1e-12, atol=1e-14)


def dense_log_sums(z_ND: Tensor, temperature: float, *, decoupled: bool) -> Tensor:
    """All at once, with the matrix."""
    logits_NN = (z_ND @ z_ND.T / temperature).fill_diagonal_(-torch.inf)
    if decoupled:
        i = torch.arange(len(z_ND))
        logits_NN[i, i.roll(len(z_ND) // 2)] = -torch.inf
    return logits_NN.logsumexp(1)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("elements", [1, 20, 1 << 20])
def test_some_rows_of_both_passes_are_those_rows_of_all(decoupled, elements, monkeypatch):
    """As processes divide the work: rows 3 to 7 of 10, in blocks of 1, 2 and all."""
    monkeypatch.setitem(loss_module._BLOCK_ELEMENTS, "cpu", elements)
    z_ND = unit_rows(torch.cat(views(5))).detach().requires_grad_()
    settings = {"temperature": 0.3, **({"decoupled": True} if decoupled else {})}
    dense_N = dense_log_sums(z_ND, 0.3, decoupled=decoupled)
    dense = (dense_N - (z_ND * z_ND.roll(5, 0)).sum(1) / 0.3).mean()
    (grad_ND,) = torch.autograd.grad(dense, z_ND)
    rows = range(3, 8)
    torch.testing.assert_close(log_sums(z_ND, rows, **settings), dense_N[3:8], rtol=1e-12, atol=0)
    asked = row_gradients(z_ND, dense_N.detach(), rows, **settings)
    torch.testing.assert_close(asked, grad_ND[3:8], rtol=1e-12, atol=1e-14)
    assert mean_loss(z_ND, dense_N, temperature=0.3).item() == pytest.approx(dense.item(), rel=1e-12)


def test_the_passes_over_some_rows_keep_no_graph():
    z_ND = unit_rows(torch.cat(views(5)))
    assert z_ND.requires_grad
    lse_N = log_sums(z_ND, range(10), temperature=0.3)
    assert not lse_N.requires_grad
    assert not mean_loss(z_ND, lse_N, temperature=0.3).requires_grad
    assert not row_gradients(z_ND, lse_N, range(10), temperature=0.3).requires_grad


def test_a_gradient_of_second_order_is_refused():
    """torch notices it where the gradient that arrives at the loss depends on the views itself."""
    z1, z2 = views(4)
    (grad,) = torch.autograd.grad(nt_xent(z1, z2, 0.3).square(), z1, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_a_block_has_a_mebi_of_similarities_on_a_cpu_and_32_on_an_accelerator():
    """Rows 3 to 70 of 2^20 views: one at a time, and 32."""
    rows, n = range(3, 71), 1 << 20
    assert loss_module._blocks(rows, n, torch.device("cpu")) == [(row, row + 1) for row in rows]
    assert loss_module._blocks(rows, n, torch.device("cuda")) == [(3, 35), (35, 67), (67, 71)]


class _LargestTensor(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def test_no_tensor_is_larger_than_a_block():
    """1024 images have 4 Mi similarities; a block has 1 Mi."""
    z1, z2 = views(1024, dtype=torch.float32)
    with _LargestTensor() as largest:
        nt_xent(z1, z2, 0.1).backward()
    assert largest.elements == 1 << 20


def test_a_view_is_not_its_own_negative():
    """With one image the only other view is the positive: nothing to tell apart, nothing to learn."""
    z1, z2 = views(1)
    assert nt_xent(z1, z2, 0.1).item() == pytest.approx(0, abs=1e-15)
    assert gradient(z1, z2, 0.1).abs().max().item() == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("temperature", [1e-4, 1e-6])
def test_a_very_small_temperature_does_not_overflow(temperature):
    z1, z2 = views(4, dtype=torch.float32)
    loss = nt_xent(z1, z2, temperature)
    assert loss.item() == pytest.approx(loop_loss(z1, z2, temperature), rel=1e-5)
    assert torch.autograd.grad(loss, z1)[0].isfinite().all()


def test_a_row_of_zeros_is_equally_unlike_every_view():
    z1, z2 = (z.detach() for z in views(3, dtype=torch.float32))
    z1[1] = 0
    assert nt_xent(z1, z2, 0.5).item() == pytest.approx(loop_loss(z1, z2, 0.5), rel=1e-6)


def test_a_row_of_zeros_has_a_finite_gradient():
    z1, z2 = (z.detach() for z in views(3, dtype=torch.float32))
    z1[1] = 0
    assert gradient(z1.requires_grad_(), z2.requires_grad_(), 0.5).isfinite().all()


def test_the_arguments_are_left_as_found():
    z1, z2 = views(4)
    before = z1.detach().clone(), z2.detach().clone()
    nt_xent(z1, z2, 0.1).backward()
    assert torch.equal(z1, before[0]) and torch.equal(z2, before[1])


@pytest.mark.parametrize(
    ("first", "second"), [((3, 4), (2, 4)), ((3, 4), (3, 5)), ((3,), (3,)), ((2, 3, 4), (2, 3, 4))]
)
def test_other_shapes_are_refused_and_named(first, second):
    with pytest.raises(ValueError) as error:
        nt_xent(torch.zeros(first), torch.zeros(second))
    assert str(error.value) == (
        f"nt_xent needs two matrices of one shape, (batch, width); got {first} and {second}."
    )


def test_memory_grows_with_the_batch_and_not_with_its_square():
    """Bytes that torch allocates in forward and backward, D 128: six matrices of (2B, D), and blocks that do not grow.

    At B 65,536 the six are 403 MB; the matrix of all similarities would be 69 GB.
    """

    def peak(count: int) -> int:
        z1, z2 = torch.randn(2, count, 128)
        leaves = z1.requires_grad_(), z2.requires_grad_()
        allocations = memory._Allocations()
        with allocations:
            nt_xent(*leaves).backward()
        return allocations.peak

    peaks = [peak(count) for count in (4096, 8192, 12_288)]
    matrix = 2 * 128 * 4
    per_image = [(peaks[1] - peaks[0]) / 4096, (peaks[2] - peaks[1]) / 4096]
    assert per_image == pytest.approx([6 * matrix, 6 * matrix], rel=0.05)
    assert peaks[2] < 12_288 * 6.2 * matrix
