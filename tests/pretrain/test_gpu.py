"""What only a GPU can show; elsewhere these skip."""

import contextlib
import time
from functools import partial

import pytest
import torch

from simclr.encoder import build_encoder, feature_width
from simclr.pretrain import memory
from simclr.pretrain.batch import Batch
from simclr.pretrain.clock import Clock, peak_memory
from simclr.pretrain.config import Augmentation
from simclr.pretrain.guard import covariance
from simclr.pretrain.lars import LARS, lars_groups
from simclr.pretrain.loss import nt_xent
from simclr.pretrain.model import SimCLR
from simclr.pretrain.monitor import contrastive_scores
from simclr.pretrain.norm import RunningStatistics
from simclr.pretrain.quality import alignment, gradient_norm, uniformity
from simclr.pretrain.step import Contrast, accumulate_gradients, contrast

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
BATCH, SIZE = 32, 32


def model_on(device: str) -> SimCLR:
    torch.manual_seed(0)
    encoder = build_encoder("test_resnet")
    model = SimCLR(encoder, width=feature_width(encoder, SIZE), out=16).to(device)
    return model.to(memory_format=torch.channels_last).train()


def step(model: SimCLR, device: str, *, chunk: int) -> Contrast:
    crops = torch.randint(0, 256, (2, BATCH, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(0))
    pixels = crops.to(torch.uint8)
    if device == "cuda":
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    batch = Batch(
        pixels, seed=0, step=0, batch_size=BATCH, chunk=chunk, augmentation=Augmentation(),
        mean=MEAN.to(device), std=STD.to(device),
    )  # fmt: skip
    return accumulate_gradients(
        model, batch, contrast=partial(contrast, batch_size=BATCH, temperature=0.1),
        statistics=RunningStatistics(model), precision=contextlib.nullcontext, seed=0,
    )  # fmt: skip


MEAN, STD = torch.full((1, 3, 1, 1), 0.45), torch.full((1, 3, 1, 1), 0.25)


@pytest.mark.parametrize("chunk", [BATCH, BATCH // 4])
def test_a_step_is_that_of_the_cpu(chunk):
    torch.backends.cudnn.allow_tf32 = False
    losses = [float(step(model_on(device), device, chunk=chunk).loss) for device in ("cpu", "cuda")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_step_never_waits_for_the_gpu():
    """Gradients, optimiser, scores: all is queued; only `_record` reads back."""
    model = model_on("cuda")
    optimizer = LARS(lars_groups(model, weight_decay=1e-6), lr=0.1)
    mean, std = MEAN.to("cuda"), STD.to("cuda")
    statistics = RunningStatistics(model)
    crops = torch.zeros(2, BATCH, SIZE, SIZE, 3, dtype=torch.uint8).pin_memory()

    def whole_step() -> None:
        batch = Batch(
            crops.to("cuda", non_blocking=True), seed=0, step=0, batch_size=BATCH, chunk=BATCH // 4,
            augmentation=Augmentation(), mean=mean, std=std,
        )  # fmt: skip
        found = accumulate_gradients(
            model, batch, contrast=partial(contrast, batch_size=BATCH, temperature=0.1),
            statistics=statistics, precision=lambda: torch.autocast("cuda", torch.bfloat16), seed=0,
        )  # fmt: skip
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        contrastive_scores(*found.unit_ND.chunk(2), temperature=0.1)
        covariance(found.unit_ND)

    whole_step()  # the first one may set things up
    torch.cuda.set_sync_debug_mode("error")
    try:
        whole_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_loss_of_65536_images_needs_less_than_two_gigabytes():
    z1, z2 = torch.randn(2, 65_536, 128, device="cuda")
    leaves = z1.requires_grad_(), z2.requires_grad_()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    nt_xent(*leaves).backward()
    assert torch.cuda.max_memory_allocated() - before < 2e9


def test_what_a_view_costs_is_measured_on_the_gpu():
    """Twice as many views need twice as much, and what is predicted for 256 is what they take within a fifth."""
    model = model_on("cuda")

    def forward(views: int) -> torch.Tensor:
        return model(torch.rand(views, 3, SIZE, SIZE, device="cuda"))

    need = memory.measure(model, forward, image_size=SIZE, projection=16)
    assert need.per_view * 256 == pytest.approx(memory._peak(model, forward, 256), rel=0.2)


def test_a_gpus_step_is_timed_without_waiting_for_it():
    """Loading takes 0.3 s a step, the work less: the rest of it is waiting, and nothing waits for the GPU until read."""
    device = torch.device("cuda", torch.cuda.current_device())
    clock = Clock(device)
    torch.cuda._sleep(1)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            with clock.waiting():
                time.sleep(0.3)
            torch.cuda._sleep(200_000_000)  # cycles: 0.1 to 0.2 s on cards of 1 to 2 GHz
            clock.done()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    times = [clock.pop() for _ in range(3)]
    for seconds, waited in times[1:]:
        work = seconds - waited
        assert 0.05 < work < 0.3
        assert seconds == pytest.approx(0.3, abs=0.03)
        assert waited == pytest.approx(0.3 - work, abs=0.03)


def test_alignment_uniformity_and_gradient_norm_never_wait_for_the_gpu():
    z1, z2 = torch.randn(2, 4096, 128, device="cuda")
    model = model_on("cuda")
    for w in model.parameters():
        w.grad = torch.ones_like(w)
    alignment(z1, z2), uniformity(z1), gradient_norm(model.parameters())
    torch.cuda.set_sync_debug_mode("error")
    try:
        numbers = [alignment(z1, z2), uniformity(z1), gradient_norm(model.parameters())]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [number.device.type for number in numbers] == ["cuda"] * 3
    assert float(numbers[0]) == pytest.approx(float(alignment(z1.cpu(), z2.cpu())), rel=1e-5)
    assert float(numbers[1]) == pytest.approx(float(uniformity(z1.cpu())), rel=1e-4)


def test_peak_memory_is_that_of_tensors_on_the_gpu():
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.reset_peak_memory_stats(device)
    before = peak_memory(device)
    torch.zeros(2**28, dtype=torch.uint8, device=device)  # given back at once
    assert peak_memory(device) - before <= 2**28
    assert peak_memory(device) >= 2**28
