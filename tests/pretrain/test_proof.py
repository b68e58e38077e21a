"""The shipped proof, run: one gradient, however a batch is divided. And the proof can fail."""

import dataclasses

import pytest
import torch

from simclr.pretrain import proof
from simclr.pretrain.proof import BOUND, PROOF, Division, Finding, prove, trajectory


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    """About half a minute: 1, 2, 3 and 4 processes."""
    return {finding.division.words: finding for finding in prove()}


@pytest.mark.parametrize(
    "division", [d for d, _ in PROOF if d.variant in ("", "recompute")], ids=lambda d: d.words
)
def test_a_divided_batch_has_the_loss_gradients_and_statistics_of_one_piece(findings, division):
    finding = findings[division.words]
    assert max(finding.loss, finding.gradients, finding.statistics) <= 1e-9
    assert finding.passed


@pytest.mark.parametrize("variant", ["local batch norm", "gather without gradient"])
def test_what_is_wrong_on_purpose_is_caught(findings, variant):
    (finding,) = [f for f in findings.values() if f.division.variant == variant]
    assert finding.gradients > 1e-3
    assert finding.passed


def test_every_number_of_processes_and_share_of_the_batch_is_proved():
    divided = [d for d, _ in PROOF if not d.variant]
    assert {d.processes for d in divided} == {1, 2, 3, 4}
    assert {d.batch / d.chunk for d in divided if d.batch == 16} == {1, 2, 4, 8}
    assert any(d.batch % d.chunk for d in divided) and any(d.batch % d.processes for d in divided)


def test_a_difference_in_one_gradient_fails():
    """One entry of one weight's gradient off by 1e-6 of its largest."""
    division = Division(8, 8)
    whole, off = trajectory(division), trajectory(division)
    g = off.gradients[1]["encoder.conv1.0.weight"]
    g.view(-1)[3] += 1e-6 * g.abs().max()
    finding = proof._compare(division, off, division, whole)
    assert finding.loss == 0
    assert finding.gradients == pytest.approx(1e-6, rel=0.5)
    assert not finding.passed


def test_small_gradients_are_measured_against_the_models_largest():
    """A gradient of rounding errors around zero may differ by all of itself."""
    largest = torch.ones(2, dtype=torch.float64)
    one = proof._Trajectory(
        [1.0], [{"a": largest, "b": torch.tensor([1e-18], dtype=torch.float64)}], {"m": largest}
    )
    other = dataclasses.replace(one, gradients=[{"a": largest, "b": -one.gradients[0]["b"]}])
    division = Division(8, 8)
    assert proof._compare(division, other, division, one).gradients == pytest.approx(2e-10)


@pytest.mark.parametrize("which", ["loss", "gradients", "statistics"])
def test_each_difference_counts(which):
    division = Division(8, 8)
    values = {"loss": 0.0, "gradients": 0.0, "statistics": 0.0}
    assert Finding(division, division, **values).passed
    assert not Finding(division, division, **(values | {which: 2 * BOUND})).passed


def test_a_wrong_variant_that_is_not_caught_fails():
    wrong = Division(8, 8, 2, "local batch norm")
    assert not Finding(wrong, Division(8, 8), 0.0, 1e-4, 0.0).passed


@pytest.mark.parametrize("which", ["losses", "gradients", "statistics"])
def test_a_number_that_is_none_fails_wherever_it_stands(which):
    """Python's max(0.0, nan) is 0.0."""
    one = torch.ones(2, dtype=torch.float64)
    whole = proof._Trajectory([1.0, 1.0], [{"a": one, "b": one}] * 2, {"m": one, "n": one})
    bad = {
        "losses": [1.0, float("nan")],
        "gradients": [whole.gradients[0], {"a": one, "b": one * float("nan")}],
    }
    bad["statistics"] = {"m": one, "n": one * float("nan")}
    division = Division(8, 8)
    finding = proof._compare(division, dataclasses.replace(whole, **{which: bad[which]}), division, whole)
    assert not finding.passed
    assert proof._compare(division, whole, division, whole).passed
