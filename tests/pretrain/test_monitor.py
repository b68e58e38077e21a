"""Contrastive top-1 and entropy against the reference's numbers and loops; kNN against its numpy twin."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simclr.classify.knn import knn_predict
from simclr.pretrain import monitor
from simclr.pretrain.monitor import contrastive_scores, knn_accuracy

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


# ---- kNN


@pytest.fixture
def known() -> tuple[Tensor, Tensor]:
    """300 unit vectors of 5 classes that overlap."""
    torch.manual_seed(1)
    labels = torch.randint(0, 5, (300,))
    return F.normalize(torch.randn(300, 16) + 2 * torch.eye(5, 16)[labels], dim=1), labels


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (1000, 0.07)])
def test_knn_is_that_of_its_numpy_twin(known, k, temperature):
    bank, labels = known[0][:200], known[1][:200]
    queries, own = known[0][200:], known[1][200:]
    twin = knn_predict(bank.numpy(), labels.numpy(), queries.numpy(), k=k, temperature=temperature)
    expected = (twin == own.numpy()).mean()
    assert 0.2 < expected < 1 or k == 1000
    assert knn_accuracy(bank, labels, queries, own, k=k, temperature=temperature) == pytest.approx(expected)


def test_equal_votes_go_to_the_lowest_class_as_in_the_twin():
    bank, queries = torch.eye(4), torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.8, 0.6, 0, 0], [0, 0.6, 0.8, 0]])
    labels = torch.tensor([3, 1, 2, 1])
    twin = knn_predict(bank.numpy(), labels.numpy(), queries.numpy(), k=2, temperature=0.1)
    exact = torch.tensor(
        [1, 3, 2]
    )  # all rows are as near: any two vote, so only the other queries are settled
    assert twin[1:].tolist() == exact[1:].tolist()
    assert knn_accuracy(bank, labels, queries[1:], exact[1:], k=2, temperature=0.1) == 1
    twin = knn_predict(bank.numpy(), labels.numpy(), queries[:1].numpy(), k=4)
    assert twin.tolist() == [1]
    two_each = torch.tensor([3, 1, 3, 1])
    assert knn_predict(bank.numpy(), two_each.numpy(), queries[:1].numpy(), k=4).tolist() == [1]
    assert knn_accuracy(bank, two_each, queries[:1], torch.tensor([1]), k=4) == 1
    assert knn_accuracy(bank, two_each, queries[:1], torch.tensor([3]), k=4) == 0


def test_without_queries_each_row_is_judged_by_the_others(known):
    vectors, labels = known
    right = 0
    for i in range(len(vectors)):
        others = np.delete(np.arange(len(vectors)), i)
        twin = knn_predict(vectors[others].numpy(), labels[others].numpy(), vectors[i : i + 1].numpy(), k=5)
        right += int(twin[0] == labels[i])
    assert knn_accuracy(vectors, labels, k=5) == pytest.approx(right / len(vectors))
    assert knn_accuracy(vectors, labels, vectors, labels, k=1) == 1  # where each finds itself


@pytest.mark.parametrize("limit", ["_BLOCK", "_SIMILARITIES"])
def test_the_blocks_of_knn_change_nothing(known, monkeypatch, limit):
    whole = knn_accuracy(*known), knn_accuracy(*known, *known, k=3)
    monkeypatch.setattr(monitor, limit, 7 if limit == "_BLOCK" else 7 * 300)
    assert (knn_accuracy(*known), knn_accuracy(*known, *known, k=3)) == whole


def test_similarities_are_never_more_than_a_block(monkeypatch):
    seen = []
    topk = Tensor.topk
    monkeypatch.setattr(Tensor, "topk", lambda t, *a, **k: seen.append(t.numel()) or topk(t, *a, **k))
    monkeypatch.setattr(monitor, "_SIMILARITIES", 1000)
    bank = F.normalize(torch.randn(90, 4), dim=1)
    knn_accuracy(bank, torch.arange(90) % 3)
    assert max(seen) <= 1000 and len(seen) == 9
