"""A classifier on frozen vectors: vectors in, probabilities out, and how unlike all that it learned from they are. Saved without pickle.

    NAME.classifier/  classifier.json              what it is, and the digest of the other file; sealed, replaced last
                      tensors.DIGEST.safetensors   its numbers

Shape letters: N = images learned from, Q = others, D = width, C = classes.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import ClassifierInfo, write_atomically
from simclr.classify.calibration import softmax, vote_probabilities
from simclr.classify.knn import neighbours, votes
from simclr.classify.novelty import nth_similarity, unlike
from simclr.errors import ArtifactError, ConfigError, EncoderMismatch, reason

MANIFEST_FILE = "classifier.json"
METHODS = ("probe", "knn")

Tensors = dict[str, NDArray[Any]]
"""Of both: `learned` (N, D) float16 unit vectors, `usual` (N,) float32, rising. Of a probe: `weight` (C, D) and `bias` (C,) float32, of logits
of vectors as they are. Of kNN: `labels` (N,) int32 of `learned`."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """Of some images."""

    probabilities_QC: NDArray[np.float64]
    unlike_Q: NDArray[np.float64]
    """Share of the images learned from that have their own neighbours closer, in 0..1."""


class Classifier:
    """Make one with `fit_classifier` or `Classifier.open`."""

    def __init__(self, info: ClassifierInfo, tensors: Tensors) -> None:
        self.info = info
        self.tensors = tensors

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Raises ArtifactError if there is none, or it is damaged."""
        folder = Path(path)
        if not is_classifier(folder):
            raise ArtifactError(
                f"{folder}: no classifier there. Make one with `simclr classify fit STORE --out {folder}`."
            )
        info = ClassifierInfo.load(folder / MANIFEST_FILE)
        file = folder / _tensors_name(info)
        try:
            data = file.read_bytes()
        except OSError as exc:
            raise ArtifactError(
                f"{file}: cannot be read ({exc.strerror or exc}). Fit the classifier again."
            ) from exc
        if len(data) != info.tensors_size or hashlib.sha256(data).hexdigest() != info.tensors_sha256:
            raise ArtifactError(
                f"{file}: damaged, its SHA-256 is not the one in {MANIFEST_FILE}. Fit the classifier again."
            )
        return cls(info, _loaded(file, data, info))

    def save(self, path: str | Path) -> Self:
        """Write it whole, or leave what was there. Raises ConfigError where another thing is."""
        folder = Path(path)
        refuse_foreign(folder)
        folder.mkdir(parents=True, exist_ok=True)
        from safetensors.numpy import save

        data = save(self.tensors)
        info = replace(self.info, tensors_sha256=hashlib.sha256(data).hexdigest(), tensors_size=len(data))
        write_atomically(folder / _tensors_name(info), lambda temporary: temporary.write_bytes(data))
        info.save(folder / MANIFEST_FILE)
        for other in folder.glob("tensors.*.safetensors"):
            if other.name != _tensors_name(info):
                other.unlink()
        return type(self)(info, self.tensors)

    def logits(self, vectors_QD: NDArray[np.float32]) -> NDArray[np.float32]:
        """(Q, C) of a probe, its temperature applied."""
        assert self.info.method == "probe"
        found: NDArray[np.float32] = (
            vectors_QD @ self.tensors["weight"].T + self.tensors["bias"]
        ) / np.float32(self.info.temperature)
        return found

    def predict(self, vectors_QD: NDArray[np.float32]) -> Predicted:
        """(Q, D) unit vectors of the same encoder."""
        if self.info.method == "probe":
            probabilities_QC = softmax(self.logits(vectors_QD))
        else:
            probabilities_QC = vote_probabilities(
                vote_shares(
                    self._learned_ND,
                    self.tensors["labels"].astype(np.int64),
                    vectors_QD,
                    classes=len(self.info.classes),
                    voters=self.info.voters or 1,
                ),
                temperature=self.info.temperature,
                floor=self.info.floor,
            )
        similarities_Q = nth_similarity(self._learned_ND, vectors_QD, nearest=self.info.nearest)
        return Predicted(probabilities_QC, unlike(similarities_Q, self.tensors["usual"]))

    def refuse_other(self, identity: str, what: Path) -> None:
        """Raises EncoderMismatch unless `what`, a store or an export folder, is of the encoder that made the vectors."""
        if identity != self.info.identity:
            raise EncoderMismatch(
                f"{what}: is of encoder {identity[:8]}, but the classifier learned vectors of {self.info.identity[:8]}. "
                "Give the encoder it was fitted with, or fit a classifier to a store of this one."
            )

    @cached_property
    def _learned_ND(self) -> NDArray[np.float32]:
        """In float32, at unit length: float16 rounds it."""
        vectors_ND = self.tensors["learned"].astype(np.float32)
        vectors_ND /= np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
        return vectors_ND


def vote_shares(
    learned_ND: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    queries_QD: NDArray[np.float32],
    *,
    classes: int,
    voters: int,
) -> NDArray[np.float64]:
    """(Q, C) what share of the votes of the nearest each class gets."""
    parts = [
        votes(similarities_QK, labels_N[places_QK], classes)
        for similarities_QK, places_QK in neighbours(learned_ND, queries_QD, k=voters)
    ]
    return np.concatenate([np.empty((0, classes)), *parts])


def is_classifier(folder: Path) -> bool:
    return (folder / MANIFEST_FILE).is_file()


def refuse_foreign(folder: Path) -> None:
    """Raises ConfigError where a classifier cannot be written because something else is there."""
    if folder.exists() and not is_classifier(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists and is no classifier. Give another --out.")


def _tensors_name(info: ClassifierInfo) -> str:
    return f"tensors.{info.tensors_sha256[:16]}.safetensors"


def _loaded(file: Path, data: bytes, info: ClassifierInfo) -> Tensors:
    from safetensors.numpy import load

    try:
        tensors: Tensors = load(data)
        count, classes = len(tensors["learned"]), len(info.classes)
        wanted = {"learned": (count, info.width), "usual": tensors["usual"].shape}
        wanted |= (
            {"weight": (classes, info.width), "bias": (classes,)}
            if info.method == "probe"
            else {"labels": (count,)}
        )
        if {name: tensor.shape for name, tensor in tensors.items()} != wanted:
            raise ValueError("its tensors are not those of a classifier")
    except Exception as exc:  # safetensors raises anything on damaged files
        raise ArtifactError(f"{file}: damaged ({reason(exc)}). Fit the classifier again.") from exc
    return tensors
