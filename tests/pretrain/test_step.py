"""The gradient of a batch: chunked against one graph, whatever the chunk, the encoder, or the views."""

import contextlib
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simclr.pretrain import step as step_module
from simclr.pretrain.batch import Batch
from simclr.pretrain.config import Augmentation
from simclr.pretrain.loss import nt_xent
from simclr.pretrain.model import SimCLR
from simclr.pretrain.norm import RunningStatistics
from simclr.pretrain.step import Contrast, accumulate_gradients, contrast, contrast_and_classify

STEP = 5


def crops(count: int) -> Tensor:
    return torch.randint(0, 256, (2, count, 8, 8, 3), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )


def batch_of(count: int, chunk: int) -> Batch:
    wide = torch.float64
    return Batch(
        crops(count), seed=0, step=STEP, batch_size=count, chunk=chunk, augmentation=Augmentation(),
        mean=torch.full((1, 3, 1, 1), 0.5, dtype=wide), std=torch.full((1, 3, 1, 1), 0.25, dtype=wide),
    )  # fmt: skip


def small_model(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(dropout), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(54, 8, bias=False), nn.BatchNorm1d(8)).double()


def gradients(
    model: nn.Module, batch: Batch, count: int, contrast: Any = contrast, **rest: Any
) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    found = accumulate_gradients(
        model,
        batch,
        contrast=partial(contrast, batch_size=count, temperature=0.2),
        statistics=RunningStatistics(model),
        precision=contextlib.nullcontext,
        seed=7,
        **rest,
    )
    return found.loss, [w.grad.clone() for w in model.parameters()]


def in_one_graph(model: nn.Module, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """The slow twin: plain autograd through all companies at once, dropout seeded for each as documented."""
    model.zero_grad()
    parts = []
    for company in range(len(batch.companies)):
        torch.manual_seed(7 + company)
        parts.append(model(batch.views(company)))
    order = torch.cat(batch.companies).argsort()
    loss = nt_xent(*torch.cat(parts)[order].chunk(2), temperature=0.2)
    loss.backward()
    return loss.detach(), [w.grad.clone() for w in model.parameters()]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("count", "chunk"), [(16, 16), (16, 8), (16, 4), (16, 2), (13, 5), (13, 6), (7, 3)])
def test_loss_and_gradients_are_those_of_one_graph(count, chunk, dropout):
    """Halves, quarters and eighths of the batch, and what does not divide; masks of dropout are drawn again alike."""
    model, batch = small_model(dropout=dropout), batch_of(count, chunk)
    loss, grads = gradients(model, batch, count)
    expected, twins = in_one_graph(model, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    largest = max(float(theirs.abs().max()) for theirs in twins)
    for ours, theirs in zip(grads, twins, strict=True):  # a bias before a batch norm has a gradient of zero
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13 * largest)


def test_a_batch_in_one_piece_is_the_plain_model():
    model, batch = small_model(), batch_of(12, 12)
    loss, _ = gradients(model, batch, 12)
    z1, z2 = model(batch.views(0)).detach().chunk(2)
    assert float(loss) == pytest.approx(float(nt_xent(z1, z2, temperature=0.2)), rel=1e-12)


def test_every_view_keeps_all_its_rivals():
    """Unlike gradient accumulation: with chunks of a quarter the loss is still near log(31), not near log(7)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64, bias=False)).double()
    whole, _ = gradients(model, batch_of(16, 16), 16)
    chunked, _ = gradients(model, batch_of(16, 4), 16)
    assert float(chunked) == pytest.approx(float(whole), rel=1e-12)


def test_views_do_not_depend_on_the_chunk():
    whole = batch_of(13, 13).views(0)
    parts = batch_of(13, 3)
    for number, company in enumerate(parts.companies):
        torch.testing.assert_close(parts.views(number), whole[company], rtol=0, atol=1e-12)


def test_views_do_not_depend_on_the_number_of_processes(monkeypatch):
    """Three processes, each with its rows of 13 images and its part of every company."""
    whole, parts = batch_of(13, 13).views(0), batch_of(13, 5)
    shares = [range(p * 13 // 3, (p + 1) * 13 // 3) for p in range(3)]
    seen = []
    for rows in shares:
        monkeypatch.setattr("simclr.pretrain.batch.distributed.share", lambda count, rows=rows: rows)
        here = Batch(
            crops(13)[:, rows.start : rows.stop], seed=0, step=STEP, batch_size=13, chunk=5,
            augmentation=Augmentation(), mean=torch.full((1, 3, 1, 1), 0.5, dtype=torch.float64),
            std=torch.full((1, 3, 1, 1), 0.25, dtype=torch.float64),
        )  # fmt: skip
        assert here.shares == parts.shares
        for number, company in enumerate(here.companies):
            view, image = company // len(rows), company % len(rows)
            places = view * 13 + rows.start + image
            torch.testing.assert_close(here.views(number), whole[places], rtol=0, atol=1e-12)
            seen += places.tolist()
    assert sorted(seen) == list(range(26))


def test_the_last_company_is_not_taken_through_twice(monkeypatch):
    """Four companies: four forwards, and three again."""
    model, calls = small_model(), []
    monkeypatch.setattr(model, "forward", lambda x, real=model.forward: calls.append(len(x)) or real(x))
    gradients(model, batch_of(16, 4), 16)
    assert len(calls) == 7
    calls.clear()
    gradients(model, batch_of(16, 16), 16)
    assert len(calls) == 1


def test_gradients_are_added_to_what_is_there():
    model, batch = small_model(), batch_of(16, 4)
    _, once = gradients(model, batch, 16)
    before = [w.grad.clone() for w in model.parameters()]
    model.zero_grad = lambda: None  # keep them
    _, twice = gradients(model, batch, 16)
    for a, b, c in zip(once, before, twice, strict=True):
        torch.testing.assert_close(c, a + b)


def test_running_statistics_move_once_a_step():
    """The same forwards in one graph, with momenta that make them one update; nothing for the repetitions."""
    model, twin, batch = small_model(), small_model(), batch_of(16, 4)
    gradients(model, batch, 16)
    statistics = RunningStatistics(twin)
    with statistics.one_update():
        for company in range(len(batch.companies)):
            with statistics.counting(batch.shares[company]):
                twin(batch.views(company))
    for (name, ours), theirs in zip(model.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    assert model[1].num_batches_tracked == 1


def test_a_step_that_fails_leaves_running_statistics_as_they_were(monkeypatch):
    model, batch = small_model(), batch_of(16, 4)
    before = [b.clone() for b in model.buffers()]

    def failing(*args: object, **rest: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(step_module, "log_sums", failing)
    with pytest.raises(torch.OutOfMemoryError):
        gradients(model, batch, 16)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before, strict=True))


def test_half_precision_projections_are_contrasted_in_float32():
    torch.manual_seed(0)
    z = torch.randn(12, 8).bfloat16()
    found = contrast(z, batch_size=6, temperature=0.2)
    expected = nt_xent(*z.float().chunk(2), temperature=0.2)
    assert found.loss.dtype == found.unit_ND.dtype == torch.float32
    assert found.grad_VD.dtype == torch.bfloat16
    torch.testing.assert_close(found.loss, expected)


# ---- the loss's other forms, and the online classifier


@pytest.mark.parametrize("chunk", [16, 4])
def test_the_decoupled_loss_has_the_gradient_of_one_graph(chunk):
    model, batch = small_model(), batch_of(16, chunk)
    loss, found = gradients(model, batch, 16, partial(contrast, decoupled=True))
    model.zero_grad()
    parts = []
    for company in range(len(batch.companies)):
        torch.manual_seed(7 + company)
        parts.append(model(batch.views(company)))
    z1, z2 = torch.cat(parts)[torch.cat(batch.companies).argsort()].chunk(2)
    expected = nt_xent(z1, z2, 0.2, decoupled=True)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for a, w in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(a, w.grad, rtol=1e-9, atol=1e-12)


def test_a_scale_multiplies_the_gradient_and_not_the_loss():
    model, batch = small_model(), batch_of(16, 16)
    loss, once = gradients(model, batch, 16)
    same, twice = gradients(model, batch, 16, partial(contrast, scale=2.0))
    assert same == loss
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(b, 2 * a, rtol=1e-12, atol=0)


def classified(chunk: int) -> tuple[SimCLR, Contrast]:
    """16 images of 3 classes, two without; one step's gradients."""
    torch.manual_seed(1)
    encoder = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
    model = SimCLR(encoder, width=54, out=8, classes=3).double()
    nn.init.normal_(model.classifier.weight)
    found = accumulate_gradients(
        model, batch_of(16, chunk),
        contrast=lambda out: contrast_and_classify(
            out, LABELS, batch_size=16, width=8, contrast=partial(contrast, batch_size=16, temperature=0.2)
        ),
        statistics=RunningStatistics(model), precision=contextlib.nullcontext, seed=7,
    )  # fmt: skip
    return model, found


LABELS = torch.tensor([0, 1, 2, -1, 0, 1, 2, 0, 1, 2, 0, 1, 2, -1, 0, 1])


@pytest.mark.parametrize("chunk", [16, 4])
def test_the_online_classifier_gets_the_gradient_of_its_cross_entropy(chunk):
    """Over all views that have a class, divided by all views; and it counts what it has right."""
    model, found = classified(chunk)
    twin, _ = classified(chunk)
    batch, features = batch_of(16, chunk), torch.empty(32, 54, dtype=torch.float64)
    for company, rows in enumerate(batch.companies):
        features[rows] = twin.encoder(batch.views(company)).detach()
    logits = twin.classifier(features)
    labels = LABELS.repeat(2)
    known = labels >= 0
    twin.zero_grad()
    (nn.functional.cross_entropy(logits[known], labels[known], reduction="sum") / 32).backward()
    torch.testing.assert_close(
        model.classifier.weight.grad, twin.classifier.weight.grad, rtol=1e-5, atol=1e-8
    )
    torch.testing.assert_close(model.classifier.bias.grad, twin.classifier.bias.grad, rtol=1e-5, atol=1e-8)
    assert found.classified.tolist() == [int((logits.argmax(1) == labels).sum()), 28]


def test_the_online_classifier_never_moves_the_encoder():
    """Encoder and head have the gradient that they have without it."""
    model, _ = classified(16)
    alone = SimCLR(model.encoder, width=54, out=8).double()
    alone.head.load_state_dict(model.head.state_dict())
    expected = dict(
        zip([n for n, _ in alone.named_parameters()], gradients(alone, batch_of(16, 16), 16)[1], strict=True)
    )
    again, _ = classified(16)
    for name, w in again.named_parameters():
        if not name.startswith("classifier"):
            torch.testing.assert_close(w.grad, expected[name], rtol=1e-12, atol=1e-14)
