"""Contrastive top-1 and entropy against the reference's numbers and loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from simclr.pretrain import monitor
from simclr.pretrain.monitor import contrastive_scores

REFERENCE = Path(__file__).parent / "reference" / "nt_xent.npz"


def contrastive_top1(z1: Tensor, z2: Tensor) -> Tensor:
    return contrastive_scores(z1, z2, temperature=0.1)[0] / len(z1)


def loop_top1(z1: Tensor, z2: Tensor) -> float:
    right = 0
    for i, a in enumerate(z1):
        cosines = [torch.dot(a, b) / (a.norm() * b.norm()) for b in z2]
        right += max(range(len(z2)), key=cosines.__getitem__) == i
    return right / len(z1)


@pytest.fixture
def similar() -> tuple[Tensor, Tensor]:
    """Views alike enough that about half find their own."""
    torch.manual_seed(0)
    z = torch.randn(40, 4)
    return z, 3 * (z + 0.5 * torch.randn(40, 4))


@pytest.mark.parametrize("case", ["c0", "c1", "c4"])
def test_top1_is_that_of_the_reference(case):
    numbers = np.load(REFERENCE)
    z1, z2 = torch.from_numpy(numbers[f"{case}_projections"]).chunk(2)
    assert contrastive_top1(z1, z2).item() == pytest.approx(float(numbers[f"{case}_top1"]))


def test_top1_is_that_of_a_loop(similar):
    assert contrastive_top1(*similar).item() == pytest.approx(loop_top1(*similar))


def test_the_block_size_changes_nothing(similar, monkeypatch):
    whole = contrastive_top1(*similar).item()
    monkeypatch.setattr(monitor, "_BLOCK", 7)
    assert contrastive_top1(*similar).item() == whole


def test_equal_views_all_find_their_own():
    z = torch.eye(5)
    assert contrastive_top1(z, z).item() == 1.0


def test_views_of_the_next_image_are_all_wrong():
    z = torch.eye(5)
    assert contrastive_top1(z, z.roll(1, 0)).item() == 0.0


def test_autocast_changes_nothing(similar):
    with torch.autocast("cpu", torch.bfloat16):
        inside = contrastive_top1(*similar)
    assert inside.item() == contrastive_top1(*similar).item()


def test_no_gradient_flows_back(similar):
    z1, z2 = similar
    assert not contrastive_top1(z1.requires_grad_(), z2).requires_grad


def test_entropy_is_that_of_a_loop(similar):
    """As google-research/simclr, tf2/metrics.py: of the softmax over second views, in nats."""
    z1, z2 = similar
    total = 0.0
    for a in z1.double():
        cosines = torch.stack([torch.dot(a, b) / (a.norm() * b.norm()) for b in z2.double()])
        share = (cosines / 0.5).softmax(0)
        total -= float((share * share.log()).sum())
    assert contrastive_scores(z1, z2, temperature=0.5)[1].item() == pytest.approx(total, rel=1e-5)


def test_views_that_are_all_alike_have_the_entropy_of_a_guess():
    z = torch.ones(7, 3)
    assert contrastive_scores(z, z, temperature=0.1)[1].item() / 7 == pytest.approx(np.log(7))


def test_parts_add_up_to_the_whole(similar):
    whole = contrastive_scores(*similar, temperature=0.1)
    parts = [contrastive_scores(*similar, temperature=0.1, images=r) for r in (range(13), range(13, 40))]
    torch.testing.assert_close(parts[0] + parts[1], whole)
