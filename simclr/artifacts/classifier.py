"""What a classifier was learned from, and how good it is."""

from dataclasses import dataclass
from typing import Any

from simclr.artifacts.base import Artifact
from simclr.preprocess import Recipe


@dataclass(frozen=True, kw_only=True)
class ClassifierInfo(Artifact):
    """A classifier and the store that it was learned from."""

    KIND = "classifier"
    MADE_BY = "classify fit"
    SEALED = True

    method: str
    """probe or knn."""
    classes: tuple[str, ...]
    """Names in code-point order."""
    counts: tuple[int, ...]
    """Images of each class that were learned from."""
    identity: str
    """Of the encoder that made the vectors."""
    width: int
    recipe: Recipe
    """How the encoder's images are prepared."""
    store: str
    """Path of the store, relative to the folder that the classifier lies in."""
    store_uid: str
    seed: int
    strength: float | None
    """Of a probe's regularisation: scikit-learn's C."""
    voters: int | None
    """Neighbours that vote."""
    temperature: float
    """By which logits, or logarithms of votes, are divided, so that probabilities mean what they say."""
    floor: float
    """Share of the probability that is spread over all classes; 0 for a probe."""
    nearest: int
    """The how many-th nearest image that was learned from tells how unlike these an image is."""
    measured: dict[str, Any]
    """How good it is, on images that were left out, and how that was found."""
    tensors_sha256: str
    tensors_size: int
    """Bytes."""

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(self.counts) != len(self.classes):
            raise ValueError("classes and counts do not fit")
        if not (0 < self.temperature < float("inf") and 0 <= self.floor < 1 and self.nearest >= 1):
            raise ValueError("its calibration is out of range")
