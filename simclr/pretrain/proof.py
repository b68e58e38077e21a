"""Proof that the gradient does not depend on how a batch is divided: over processes, or into chunks.

A tiny encoder is trained for a few steps in float64 with the very functions that a run uses, once in one piece and then
divided in every way; losses, the gradient of every weight and batch norm's running statistics are compared. Two variants
that are wrong on purpose, as published code has been, show that the proof can fail.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr.encoder import build_encoder, feature_width
from simclr.errors import SimclrError
from simclr.pretrain import distributed
from simclr.pretrain.batch import Batch
from simclr.pretrain.config import Augmentation
from simclr.pretrain.lars import LARS, lars_groups
from simclr.pretrain.launch import start_together
from simclr.pretrain.loss import nt_xent, unit_rows
from simclr.pretrain.model import SimCLR, recompute_blocks
from simclr.pretrain.norm import RunningStatistics, over_all_processes
from simclr.pretrain.step import Contrast, accumulate_gradients, contrast

BOUND = 1e-9
"""Largest relative difference of what must be equal, in float64."""
WRONG = 1e-3
"""A wrong variant must differ by more than this."""
_STEPS, _SIZE, _TEMPERATURE, _SEED = 3, 32, 0.1, 0


@dataclass(frozen=True)
class Division:
    """One way to compute the same training."""

    batch: int
    chunk: int
    processes: int = 1
    variant: str = ""
    """`one graph`: no second pass; `recompute`; or wrong on purpose: `local batch norm`, `gather without gradient`."""

    @property
    def words(self) -> str:
        parts = [f"{self.processes} process{'es' if self.processes > 1 else ''}"]
        if self.chunk < self.batch:
            parts.append(f"chunk {self.chunk}")
        return f"batch {self.batch}, {', '.join([*parts, self.variant] if self.variant else parts)}"


@dataclass(frozen=True)
class Finding:
    """How far a division is from its reference."""

    division: Division
    reference: Division
    loss: float
    """Largest relative difference of a loss."""
    gradients: float
    """Largest max|difference| / max(max|g|, 1e-8 x the model's largest gradient) over all weights and steps."""
    statistics: float
    """Largest relative difference of batch norm's running statistics at the end."""

    @property
    def wrong_on_purpose(self) -> bool:
        return self.division.variant in _WRONG_ON_PURPOSE

    @property
    def passed(self) -> bool:
        if self.wrong_on_purpose:
            return self.gradients > WRONG
        return all(difference <= BOUND for difference in (self.loss, self.gradients, self.statistics))


_LOCAL_NORM, _NO_GRADIENT = "local batch norm", "gather without gradient"
_WRONG_ON_PURPOSE = (_LOCAL_NORM, _NO_GRADIENT)

WHOLE, ODD = Division(16, 16), Division(13, 13)
PROOF: list[tuple[Division, Division]] = [
    (Division(16, 16, 2), WHOLE),
    (Division(16, 16, 4), WHOLE),
    (Division(13, 13, 3), ODD),
    (Division(16, 16, 1, "recompute"), WHOLE),
    *((Division(16, chunk), Division(16, chunk, 1, "one graph")) for chunk in (8, 4, 2)),
    (Division(13, 5), Division(13, 5, 1, "one graph")),
    (Division(16, 8, 4), Division(16, 8)),
    (Division(16, 4, 4), Division(16, 4)),
    (Division(16, 2, 2), Division(16, 2)),
    (Division(13, 5, 3), Division(13, 5)),
    (Division(16, 16, 2, _LOCAL_NORM), WHOLE),
    (Division(16, 16, 2, _NO_GRADIENT), WHOLE),
]
"""Each division and what it must equal, or differ from: one, two and four processes, and three that do not divide the batch;
chunks of a half, a quarter and an eighth, and one that does not divide it."""


def prove() -> Iterator[Finding]:
    """Run all of PROOF, on the CPU; raises SimclrError if a process fails."""
    divisions = {division for pair in PROOF for division in pair}
    found: dict[Division, _Trajectory] = {}
    for count in sorted({division.processes for division in divisions}):
        found |= _with_processes(count, [d for d in divisions if d.processes == count])
    for division, reference in PROOF:
        yield _compare(division, found[division], reference, found[reference])


@dataclass(frozen=True)
class _Trajectory:
    losses: list[float]
    gradients: list[dict[str, Tensor]]
    """Of each step, by the name of the weight."""
    statistics: dict[str, Tensor]


def trajectory(division: Division) -> _Trajectory:
    """Train as this process's part of a division."""
    torch.manual_seed(_SEED)
    encoder = build_encoder("test_resnet")
    plain = SimCLR(encoder, width=feature_width(encoder, _SIZE), out=16).double()
    if division.variant == "recompute":
        recompute_blocks(encoder, "test_resnet")
    local = division.variant == _LOCAL_NORM
    model = plain if local else over_all_processes(plain, torch.device("cpu"))
    model.train()
    optimizer = LARS(lars_groups(model, weight_decay=1e-4), lr=0.1)
    statistics = RunningStatistics(model)
    images = distributed.share(division.batch)
    losses, gradients = [], []
    for step in range(_STEPS):
        crops = torch.randint(
            0, 256, (2, division.batch, _SIZE, _SIZE, 3), generator=torch.Generator().manual_seed(step)
        )
        batch = Batch(
            crops[:, images.start : images.stop].to(torch.uint8),
            seed=_SEED,
            step=step,
            batch_size=division.batch,
            chunk=division.chunk,
            augmentation=Augmentation(),
            mean=torch.full((1, 3, 1, 1), 0.45, dtype=torch.float64),
            std=torch.full((1, 3, 1, 1), 0.25, dtype=torch.float64),
        )
        if division.variant == "one graph":
            loss = _in_one_graph(model, batch, statistics)
        else:
            how = _without_gradient if division.variant == _NO_GRADIENT else contrast
            loss = accumulate_gradients(
                model,
                batch,
                contrast=partial(how, batch_size=division.batch, temperature=_TEMPERATURE),
                statistics=statistics,
                precision=contextlib.nullcontext,
                seed=step,
            ).loss
        losses.append(float(loss))
        gradients.append({n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None})
        optimizer.step()
        optimizer.zero_grad()
    buffers = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    return _Trajectory(losses, gradients, buffers)


def _in_one_graph(model: torch.nn.Module, batch: Batch, statistics: RunningStatistics) -> Tensor:
    """The slow twin of chunking: every company's graph is kept, and one backward goes through all."""
    parts, total = [], len(batch.companies)
    with statistics.one_update():
        for company in range(total):
            with statistics.counting(batch.shares[company]):
                parts.append(model(batch.views(company)))
        order = torch.cat(batch.companies).argsort()
        z1, z2 = torch.cat(parts)[order].chunk(2)
        loss = nt_xent(z1, z2, temperature=_TEMPERATURE)
        torch.autograd.backward(loss)
    return loss.detach()


def _without_gradient(z_VD: Tensor, *, batch_size: int, temperature: float) -> Contrast:
    """Wrong on purpose: other processes' projections are gathered as constants, so no rival elsewhere pushes back."""
    leaf = z_VD.detach().requires_grad_()
    own = unit_rows(leaf)
    images = distributed.share(batch_size)
    mine = torch.cat([torch.arange(images.start, images.stop) + view * batch_size for view in (0, 1)])
    everyone = distributed.gather_views(own.detach(), batch_size=batch_size).index_put((mine,), own)
    logits = (own @ everyone.T / temperature).index_put(
        (torch.arange(len(mine)), mine), torch.tensor(-torch.inf, dtype=own.dtype)
    )
    loss = F.cross_entropy(logits, (mine + batch_size) % (2 * batch_size), reduction="sum") / (2 * batch_size)
    (grad,) = torch.autograd.grad(loss, leaf)
    return Contrast(distributed.add_up(loss.detach()), grad, everyone.detach())


def _compare(division: Division, found: _Trajectory, reference: Division, expected: _Trajectory) -> Finding:
    losses = [abs(a - b) / abs(b) for a, b in zip(found.losses, expected.losses, strict=True)]
    gradients = []
    for ours, theirs in zip(found.gradients, expected.gradients, strict=True):
        assert ours.keys() == theirs.keys()
        floor = 1e-8 * _largest([float(g.abs().max()) for g in theirs.values()])
        gradients += [
            float((ours[name] - g).abs().max()) / max(float(g.abs().max()), floor)
            for name, g in theirs.items()
        ]
    statistics = [
        float((found.statistics[name] - value).abs().max() / value.abs().max())
        for name, value in expected.statistics.items()
    ]
    return Finding(division, reference, _largest(losses), _largest(gradients), _largest(statistics))


def _largest(values: list[float]) -> float:
    """Unlike Python's max, no number if one of them is none: a proof must not pass over it."""
    return float(torch.tensor(values, dtype=torch.float64).max())


# ---- as several processes


def _with_processes(count: int, divisions: list[Division]) -> dict[Division, _Trajectory]:
    """Run trajectories as so many processes of this machine; the first one's results."""
    if count == 1:
        return {division: trajectory(division) for division in divisions}
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.pt"
        processes = start_together(count, partial(_in_group, divisions, results))
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            codes = ", ".join(str(process.exitcode) for process in processes)
            raise SimclrError(
                f"the {count} processes of the gradient proof ended with codes {codes}; see above."
            )
        loaded = torch.load(results, weights_only=True)
    return {division: _Trajectory(*loaded[i]) for i, division in enumerate(divisions)}


def _in_group(divisions: list[Division], results: Path) -> None:
    torch.set_num_threads(1)
    with distributed.group(torch.device("cpu")):
        found = [trajectory(division) for division in divisions]
        if distributed.rank() == 0:
            torch.save([(t.losses, t.gradients, t.statistics) for t in found], results)
