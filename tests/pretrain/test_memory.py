"""What a step needs of memory, and the chunk that fits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from simclr.pretrain import memory
from simclr.pretrain.companies import companies_of_a_kind
from simclr.pretrain.memory import Need, equal_chunk, is_out_of_memory, largest_chunk, measure

GB = 10**9
NEED = Need(fixed=GB, per_image=10**6, per_view=10**8)


def test_a_view_costs_what_its_graph_holds():
    """Of each view the input, hidden values before and after the sigmoid, and the gradient of either, all at once when the
    gradient goes through the sigmoid; of the weights' gradients, larger than all of that, nothing."""
    model = nn.Sequential(nn.Linear(100, 500, bias=False), nn.Sigmoid(), nn.Linear(500, 10, bias=False))
    need = measure(model, lambda views: model(torch.zeros(views, 100)), image_size=8, projection=10)
    assert need.fixed == 4 * 4 * (50_000 + 5_000)
    assert need.per_image == 2 * (3 * 64 + 120)
    assert need.per_view == pytest.approx(4 * (100 + 3 * 500), rel=0.01)


def test_measuring_leaves_gradients_as_found():
    model = nn.Linear(3, 2)
    model.weight.grad = torch.full((2, 3), 7.0)
    measure(model, lambda views: model(torch.ones(views, 3)), image_size=8, projection=2)
    assert torch.equal(model.weight.grad, torch.full((2, 3), 7.0))
    assert model.bias.grad is None


def test_a_batch_that_fits_goes_in_one_piece():
    """2 * 100 views of 0.1 GB, 1 GB fixed, 0.1 GB of batch: 21.1 of 80 % of 26.4 GB."""
    assert largest_chunk(NEED, int(26.4 * GB), batch_size=100) == 100


def test_what_does_not_fit_goes_in_the_fewest_equal_parts():
    """0.8 * 26.3 - 1.1 GB are 199 views: first and second views one after the other, 100 at a time."""
    assert largest_chunk(NEED, int(26.3 * GB), batch_size=100) == 50


@pytest.mark.parametrize("views", [4, 7, 10, 33, 64, 99, 100, 150])
@pytest.mark.parametrize("batch_size", [50, 100, 101])
def test_no_company_is_larger_than_what_fits_and_no_fewer_would_do(views, batch_size):
    free = int((NEED.of(images=batch_size, views=views) + 1000) / memory.USABLE) + 1
    chunk = largest_chunk(NEED, free, batch_size=batch_size)
    if views >= 2 * batch_size:
        assert chunk == batch_size
        return
    companies = companies_of_a_kind(batch_size, chunk)
    assert -(-batch_size // companies) <= views
    assert companies == 1 or -(-batch_size // (companies - 1)) > views - 1


def test_where_nothing_fits_the_smallest_chunk_is_tried():
    assert largest_chunk(NEED, GB // 2, batch_size=100) == 2


@pytest.mark.parametrize(
    ("batch_size", "chunk", "equal"), [(100, 50, 50), (100, 40, 25), (100, 26, 25), (13, 5, 4), (5, 2, 2)]
)
def test_a_chunk_is_made_equal(batch_size, chunk, equal):
    """As few companies as `chunk` would make, all of about one size."""
    assert equal_chunk(batch_size, chunk=chunk) == equal
    assert companies_of_a_kind(batch_size, equal) <= companies_of_a_kind(batch_size, chunk)


def test_running_out_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(RuntimeError("The size of tensor a (3) must match"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits memory as Linux does")
def test_a_run_that_meets_a_limit_of_memory_halves_its_chunk_and_goes_on(noise_photos, tmp_path):
    """A real limit on the process's address space, set once the run has chosen to take 16 images at a time."""
    script = f"""
import resource, torch
from pathlib import Path
from simclr.pretrain import PretrainConfig, attempts, run
real = attempts.accumulate_gradients
def limited(model, batch, **rest):
    if len(batch.companies) == 1 and resource.getrlimit(resource.RLIMIT_AS)[0] == -1:
        size = next(int(x.split()[1]) * 1024 for x in open("/proc/self/status") if x.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, (size + 60_000_000, -1))
    return real(model, batch, **rest)
attempts.accumulate_gradients = limited
config = PretrainConfig(data={str(noise_photos)!r}, encoder="test_resnet", image_size=224, batch_size=16, epochs=1,
    workers=0, threads=1, device="cpu", head_out=16, chunk=16)
run(config, out=Path({str(tmp_path / "run")!r}), note=print)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ
        # huge pages take whole ones, and a thread that begins late would take 64 MB of addresses for a heap of its own
        | {"OMP_NUM_THREADS": "1", "THP_MEM_ALLOC_ENABLE": "0", "MALLOC_ARENA_MAX": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (
        "warning: cpu: out of memory with 16 images of 224 pixels at a time; going on with chunk 8"
        in done.stdout
    )
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
