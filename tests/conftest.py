"""Small images, a fake encoder exported once, seeded vectors."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import draw
from fake_nvidia import Nvidia, nvidia
from PIL import Image
from torch import Tensor, nn

from simclr.artifacts import EncoderInfo
from simclr.cpus import available_cpus
from simclr.encoder import weights_sha256
from simclr.export.folder import write_export
from simclr.preprocess import Recipe

torch.set_num_threads(available_cpus())


class GridColours(nn.Module):
    """Mean colour of each cell of a 2x2 grid: 12 numbers, by which neighbours can be worked out by hand."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor(gain))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) * self.gain + 1e-3


def export_grid_colours(out: Path, *, gain: float = 1.0) -> Path:
    """The fake encoder as an export folder; another gain is another encoder with the same vectors."""
    model = GridColours(gain)
    info = EncoderInfo(
        name="grid_colours",
        small_stem=False,
        width=12,
        weights_sha256=weights_sha256(model.state_dict()),
        recipe=Recipe(size=16, crop=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    )
    return write_export(model, info, out).folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or fills the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("SIMCLR_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def hurry() -> Iterator[None]:
    """An export times each batch size once: its speed is nobody's business here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simclr.export.measure._SECONDS", 1e-9)
        yield


@pytest.fixture(params=["10.13.3.9", "11.4.0.106"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvidia]:
    """A machine that has a GPU and TensorRT, old and new; it computes, and records."""
    with nvidia(monkeypatch, request.param) as machine:
        yield machine


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export folder of the fake encoder."""
    return export_grid_colours(tmp_path_factory.mktemp("model") / "export")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export folder of a fake encoder with another identity."""
    return export_grid_colours(tmp_path_factory.mktemp("other") / "export", gain=2.0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve plain images, see `drawn.py`."""
    return draw(tmp_path / "photos")


@pytest.fixture
def noise_photos(tmp_path: Path) -> Path:
    """Sixteen 40x40 JPEGs of smooth noise, to train on."""
    folder = tmp_path / "noise"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(16):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.jpg")
    return folder


@pytest.fixture
def vectors() -> np.ndarray:
    """(500, 32) unit vectors."""
    values = np.random.default_rng(1).standard_normal((500, 32)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)
