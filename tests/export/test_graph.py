from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, fx, nn

from simclr.encoder import build_encoder
from simclr.export.graph import EncoderGraph, fold_bn


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with batch norms as training leaves them: no mean at 0, no variance at 1."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.eval()


def norms_called(model: fx.GraphModule) -> int:
    modules = dict(model.named_modules())
    called = [modules[str(node.target)] for node in model.graph.nodes if node.op == "call_module"]
    return sum(isinstance(module, nn.BatchNorm2d) for module in called)


class Block(nn.Module):
    """Convolutions and norms, called as the test says."""

    def __init__(self, call: Callable[["Block", Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.other = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.norm2 = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["resnet10t", "test_resnet"])
@torch.inference_mode()
def test_folding_changes_no_feature(name: str, images: Tensor) -> None:
    model = settled(timm.create_model(name, num_classes=0))
    expected = model(images)
    folded = fold_bn(model)
    assert isinstance(folded, fx.GraphModule)
    assert norms_called(folded) == 0
    assert (folded(images) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_folding_leaves_the_encoder_as_found(images: Tensor) -> None:
    model = settled(timm.create_model("resnet10t", num_classes=0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = [type(module) for module in model.modules()]
    fold_bn(model)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert [type(module) for module in model.modules()] == modules


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: m.norm(m.conv(x)),
        lambda m, x: m.norm2(m.other(m.norm(m.conv(x)))),
        lambda m, x: m.norm(m.conv(x)) + m.norm2(m.conv(x)),  # one convolution, two norms
        lambda m, x: m.norm(m.conv(m.conv(x))),  # one convolution, twice
        lambda m, x: m.norm(m.conv(x)) + m.norm(m.other(x)),  # one norm, twice
        lambda m, x: (lambda y: m.norm(y) + y)(m.conv(x)),  # the convolution's own result is used, too
        lambda m, x: m.conv(m.norm(x)),  # the norm comes first
    ],
    ids=["plain", "chain", "two norms", "conv twice", "norm twice", "own result", "norm first"],
)
@torch.inference_mode()
def test_folding_is_right_however_the_layers_are_wired(
    call: Callable[[Block, Tensor], Tensor], images: Tensor
) -> None:
    torch.manual_seed(1)
    model = settled(Block(call))
    assert torch.allclose(fold_bn(model)(images), model(images), atol=1e-5)


def test_an_encoder_that_cannot_be_traced_comes_back_unchanged() -> None:
    model = Block(lambda m, x: m.norm(x) if x.sum() > 0 else x).eval()
    assert fold_bn(model) is model


@torch.inference_mode()
def test_normalisation_is_inside_and_vectors_have_unit_length() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    flat = nn.Flatten()
    found = EncoderGraph(flat, mean=mean, std=std)(torch.from_numpy(pixels)).numpy()
    plain = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).reshape(3, -1)
    assert np.allclose(found, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)


@torch.inference_mode()
def test_a_vector_of_zeros_does_not_become_nan() -> None:
    graph = EncoderGraph(nn.Flatten(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert graph(torch.zeros(1, 2, 2, 3, dtype=torch.uint8)).tolist() == [[0.0] * 12]


@torch.inference_mode()
def test_timms_norm_with_activation_is_folded_as_well() -> None:
    """Left in place, the exporter folds it with float32 weights into bf16 convolutions."""
    torch.manual_seed(0)
    model = build_encoder("test_efficientnet").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    folded = fold_bn(model)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert norms > 10 and left == 0
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(folded(images), model(images), rtol=1e-3, atol=1e-4)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == norms
