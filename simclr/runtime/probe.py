"""Does this runtime compute what was found at export? A few drawn images, checked at every opening.

Takes anything that embeds, and the probe that lies beside the model; gives nothing, or raises ExportMismatch. Once
for a process and file: the second opening of the same bytes on the same backend costs nothing.
"""

import io
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import ModelInfo
from simclr.errors import ArtifactError, ExportMismatch
from simclr.runtime.model_files import FILE_OF, PROBE_FILE, read_verified

IMAGES = 4
"""Of the probe, at a load: ResNet-50 takes a third of a second for them on two cores."""

SLACK = 1e-5
"""Cosine. Kernels of other processors and versions add in another order: 1e-7 with fp32, 1e-6 with fp16."""

_checked: set[tuple[str, str, str]] = set()
"""SHA-256 of model and of probe, and backend, that agreed in this process."""


class Engine(Protocol):
    backend: str
    provider: str

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]: ...


def check_probe(engine: Engine, folder: Path, info: ModelInfo, precision: str) -> None:
    """Raises ExportMismatch if a probe image is more than twice as far from its fp32 vector as at export."""
    images, expected = read_probe(folder, info)
    file = info.files[FILE_OF[precision]]
    key = (file.sha256, info.probe_sha256, engine.backend)
    if key in _checked:
        return
    cosine = (engine(images[:IMAGES]) * expected[:IMAGES]).sum(1)
    floor = 1 - 2 * (1 - file.probe_cosine) - SLACK
    if not cosine.min() >= floor:  # also catches nan
        raise ExportMismatch(
            f"{folder / FILE_OF[precision]}: on {engine.backend} ({engine.provider}), probe image {int(np.argmin(cosine))} has cosine "
            f"{cosine.min():.6f} to its fp32 embedding, below {floor:.6f}; at export ({_versions(info)}) the smallest was "
            f"{file.probe_cosine:.6f}. This runtime computes something else: use another --backend, or export again."
        )
    _checked.add(key)


def read_probe(folder: Path, info: ModelInfo) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Images (N, size, size, 3) and their fp32 embeddings (N, width). Raises ArtifactError if it is not the manifest's."""
    data = read_verified(folder / PROBE_FILE, size=info.probe_size, sha256=info.probe_sha256)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as probe:
            return probe["images"], probe["embeddings"]
    except (ValueError, KeyError, OSError) as exc:
        raise ArtifactError(
            f"{folder / PROBE_FILE}: holds no probe ({exc}). Run `simclr export` again."
        ) from exc


def _versions(info: ModelInfo) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(info.versions.items()))
