"""Encoders and what is exported of them."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from simclr.artifacts.base import Artifact
from simclr.preprocess import Recipe


@dataclass(frozen=True, kw_only=True)
class EncoderInfo(Artifact):
    """An encoder's weights and how to feed them."""

    KIND = "encoder"
    MADE_BY = "pretrain"

    name: str
    """timm model name."""
    small_stem: bool
    """First convolution 3x3 with stride 1 and no max-pool, for small images."""
    width: int
    """Length of an embedding."""
    weights_sha256: str
    """Of the tensors, see `encoder.weights_sha256`; independent of the file they lie in."""
    recipe: Recipe
    parents: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from: run, step, data; or the file or timm name they were taken from."""

    @property
    def identity(self) -> str:
        """SHA-256 of what decides a vector: architecture, weights, preprocessing."""
        parts = [self.name, self.small_stem, self.weights_sha256, self.recipe.to_dict()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How close the vectors of one precision come to those of fp32; fp32's own, to those of PyTorch."""

    images: int
    """Compared: the user's own, or the probe where there are none."""
    cosine_min: float
    cosine_low: float
    """That 1 % of the images stay below."""
    cosine_mean: float
    max_difference: float
    """Largest of any number of a vector."""
    recall_1: float | None
    """Share of the nearest neighbours that are kept, in 0..1; None where there were too few images to say."""
    recall_10: float | None
    """Of the ten nearest."""
    top_1: float | None
    """Share of images whose nearest neighbour is the very same."""
    batches: tuple[int, ...]
    """Sizes that were run."""
    batch_cosine: float | None
    """Smallest cosine between vectors of one image in batches of these sizes; None where nothing here can run the file."""
    measured_on: str
    """What computed the vectors: a provider as read back, or PyTorch rounding after every operation."""
    passed: bool
    failed: str
    """The threshold that was missed, in words; empty where all were met."""

    @property
    def words(self) -> str:
        """One line for a person."""
        recall = "recall not measured" if self.recall_10 is None else f"recall@10 {self.recall_10:.3f}"
        return self.failed or f"smallest cosine {self.cosine_min:.6f}, {recall}"


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One exported graph."""

    sha256: str
    size: int
    """Bytes."""
    precision: str
    opset: int
    probe_cosine: float
    """Smallest cosine of the probe's images to their fp32 vectors, at export. A load may be twice as far from 1."""
    fidelity: Fidelity
    accepted: bool
    """Whether a person took it in spite of its verdict."""

    @property
    def usable(self) -> bool:
        return self.fidelity.passed or self.accepted


@dataclass(frozen=True, kw_only=True)
class ModelInfo(Artifact):
    """An export folder: graphs that take (N, size, size, 3) uint8 RGB and give (N, width) unit-length float32."""

    KIND = "model"
    MADE_BY = "export"

    encoder: EncoderInfo
    files: dict[str, ModelFile]
    """File name -> what it is; one for each precision."""
    probe_size: int
    """Bytes."""
    probe_sha256: str
    max_batch: int
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class PlanInfo(Artifact):
    """A TensorRT plan, and all that a plan is bound to."""

    KIND = "plan"

    sha256: str
    """Of the plan."""
    size: int
    """Bytes."""
    precision: str
    onnx_sha256: str
    """Of the file it was built from."""
    profiles: tuple[tuple[int, ...], ...]
    """Smallest, best and largest batch of each optimisation profile."""
    tensorrt: str
    cuda: str
    """Runtime version."""
    driver: str
    gpu: str
    compute_capability: str
    fidelity: Fidelity | None
    """Its verdict, where one was given: a plan that is built anew at a load has images for a probe only."""
    accepted: bool

    @property
    def usable(self) -> bool:
        return self.accepted or self.fidelity is None or self.fidelity.passed
