import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr.export.rounding import rounded
from simclr.preprocess import Recipe

RECIPE = Recipe(size=6, crop=1.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)


class Chain(nn.Module):
    """Convolution, in-place ReLU, a view, a sum in place, a matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.conv(x))
        y += 0.1
        return self.head(y.view(len(y), 8, 16).mean(2))


def by_hand(model: Chain, dtype: torch.dtype) -> np.ndarray:
    """Each operation written out, each result narrowed."""

    def narrow(value: Tensor) -> Tensor:
        return value.to(dtype).float()

    x = (torch.from_numpy(PIXELS) / 255 - torch.tensor(RECIPE.mean)) / torch.tensor(RECIPE.std)
    with torch.no_grad():
        y = narrow(
            F.conv2d(narrow(x.permute(0, 3, 1, 2)), narrow(model.conv.weight), narrow(model.conv.bias))
        )
        y = narrow(narrow(torch.relu(y)) + 0.1)
        y = narrow(y.reshape(len(y), 8, 16).mean(2))
        return F.normalize(
            narrow(F.linear(y, narrow(model.head.weight), narrow(model.head.bias))), dim=1
        ).numpy()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_operation_is_rounded_as_if_written_out(dtype: torch.dtype) -> None:
    model = Chain().eval()
    assert np.allclose(rounded(model, RECIPE, dtype)(PIXELS), by_hand(model, dtype), atol=1e-6)
    assert np.abs(by_hand(model, dtype) - by_hand(model, torch.float32)).max() > 1e-5


def test_the_encoder_stays_as_it_was() -> None:
    model = Chain().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rounded(model, RECIPE, torch.bfloat16)(PIXELS)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_overflows_in_fp16_is_seen_on_a_cpu() -> None:
    """65,504 is the largest number of fp16; a CPU that computes in float32 never meets it."""
    model = Chain().eval()
    with torch.no_grad():
        model.conv.weight *= 1e5
    assert not np.isfinite(rounded(model, RECIPE, torch.float16)(PIXELS)).all()
    assert np.isfinite(rounded(model, RECIPE, torch.bfloat16)(PIXELS)).all()
