"""A store with labels -> a classifier, and how good it is on images that it was not fitted to.

Where the labels name images to test on, these are only tested on. Where they do not, a fifth of each class is held out: what is
chosen and measured comes from the rest, and then all images are learned from.

Shape letters: N = images learned from, Q = test images, D = width, C = classes.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import ClassifierInfo, ModelInfo
from simclr.classify.calibration import calibration_error, log_loss, vote_calibration
from simclr.classify.classifier import METHODS, Classifier, Tensors
from simclr.classify.examples import Examples, examples, split_stores
from simclr.classify.knn import neighbours, votes
from simclr.classify.metrics import bootstrap
from simclr.classify.novelty import NEAREST, usual_similarities
from simclr.classify.probe import LinearProbe, fit_probe, refit
from simclr.classify.splits import at_most
from simclr.embed.store import Store
from simclr.errors import ConfigError
from simclr.runtime.model_files import open_folder

VOTERS = 20
"""Neighbours that vote, where nothing else is said."""
KEPT = 10_000
"""Vectors that a probe keeps, to tell what is unlike them; each class gives its share. kNN keeps all it learned from."""
CALIBRATED = 5_000
"""Images by whose votes among the others kNN is calibrated, and by which is told what is usual."""
UNEVEN = 20
"""Times as many images in one class as in another, from where on it is remarked."""

Note = Callable[[str], None]


@dataclass(frozen=True)
class _Fit:
    """What is learned from some images."""

    tensors: Tensors
    strength: float | None
    temperature: float
    floor: float
    probe: LinearProbe | None


def fit_classifier(
    store: Store,
    where: str | Path,
    out: Path,
    *,
    method: str = "probe",
    voters: int = VOTERS,
    seed: int = 0,
    note: Note = lambda line: None,
) -> Classifier:
    """Fit, measure, and save at `out`. `where`: class folders or a table, as in `labels.read_labels`.

    Raises ConfigError where labels or settings make no sense, ArtifactError where the store is damaged, MissingExtra.
    """
    if method not in METHODS:
        raise ConfigError(f"method {method!r} is unknown. Use one of: {', '.join(METHODS)}.")
    if voters < 1:
        raise ConfigError(f"k ({voters}) must be at least 1.")
    (split,) = split_stores([store], where, seed=seed, note=note)
    data = examples(store, split)
    _remark_uneven(data, note=note)
    note(f"{method}: {len(data.train_N):,} images to learn from, {len(data.test_Q):,} to test on")
    fitted = _fit(data, method=method, voters=voters, seed=seed)
    trial = Classifier(
        _info(store, out, data, fitted, method=method, voters=voters, seed=seed), fitted.tensors
    )
    measured = _measure(trial, data, held_out=split.held_out)
    if split.held_out:
        data = _all_of(data)
        fitted = _again(fitted, data, voters=voters)
    info = _info(store, out, data, fitted, method=method, voters=voters, seed=seed, measured=measured)
    return Classifier(info, fitted.tensors).save(out)


def measures(
    probabilities_QC: NDArray[np.float64], labels_Q: NDArray[np.int64], unlike_Q: NDArray[np.float64]
) -> dict[str, Any]:
    """Accuracy with a 95 % interval over images, and what the probabilities are worth."""
    accuracy = bootstrap((probabilities_QC.argmax(1) == labels_Q).astype(np.float64))
    return {
        "accuracy": round(accuracy.value, 6),
        "low": round(accuracy.low, 6),
        "high": round(accuracy.high, 6),
        "log_loss": round(log_loss(probabilities_QC, labels_Q), 6),
        "calibration_error": round(calibration_error(probabilities_QC, labels_Q), 6),
        "unlike": round(float(unlike_Q.mean()), 6),
        "images": len(labels_Q),
    }


def _remark_uneven(data: Examples, *, note: Note) -> None:
    counts_C = np.bincount(data.train_N, minlength=len(data.classes))
    most, least = int(counts_C.argmax()), int(counts_C.argmin())
    if counts_C[most] >= UNEVEN * counts_C[least]:
        note(
            f"uneven labels: {counts_C[most]:,} images of {data.classes[most]!r}, {counts_C[least]:,} of {data.classes[least]!r}. "
            "Probabilities expect the same shares of what they are asked about; where these differ, even out the labels."
        )
    if len(single := [data.classes[i] for i in np.flatnonzero(counts_C == 1)]):
        note(
            f"{len(single):,} classes have one image to learn from ({single[0]!r}): nothing of them could be left out to choose by"
        )


def _fit(data: Examples, *, method: str, voters: int, seed: int) -> _Fit:
    if method == "probe":
        probe = fit_probe(data.train_ND, data.train_N, len(data.classes), seed=seed)
        return _Fit(_probe_tensors(probe, data), probe.strength, probe.temperature, 0.0, probe)
    asked = at_most(data.train_N, CALIBRATED)
    votes_QC, usual = _among_others(data, asked, voters)
    temperature, floor = vote_calibration(votes_QC, data.train_N[asked])
    return _Fit(_knn_tensors(data, usual), None, temperature, floor, None)


def _again(fitted: _Fit, data: Examples, *, voters: int) -> _Fit:
    """With more images, and what was chosen before."""
    if fitted.probe is None:
        return _Fit(
            _knn_tensors(data, _usual(data.train_ND, data.train_N)),
            None,
            fitted.temperature,
            fitted.floor,
            None,
        )
    probe = refit(fitted.probe, data.train_ND, data.train_N)
    return _Fit(_probe_tensors(probe, data), probe.strength, probe.temperature, 0.0, probe)


def _among_others(
    data: Examples, rows: NDArray[np.int64], voters: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """(rows, C) the vote of each of these by its nearest among all others, and what `_usual` says of them, by one search.

    A query finds itself first, or a copy, and leaves out one of them.
    """
    parts, similarities, start = [], [], 0
    nearest = min(NEAREST, len(data.train_N) - 1)
    for similarities_QK, places_QK in neighbours(
        data.train_ND, data.train_ND[rows], k=max(voters, nearest) + 1
    ):
        own_Q = rows[start : start + len(places_QK)]
        start += len(places_QK)
        similarities.append(similarities_QK[:, nearest])
        order = np.argsort(places_QK == own_Q[:, None], axis=1, kind="stable")[
            :, : max(1, min(voters, places_QK.shape[1] - 1))
        ]
        parts.append(
            votes(
                np.take_along_axis(similarities_QK, order, 1),
                data.train_N[np.take_along_axis(places_QK, order, 1)],
                len(data.classes),
            )
        )
    return np.concatenate(parts), np.sort(np.concatenate(similarities))


def _probe_tensors(probe: LinearProbe, data: Examples) -> Tensors:
    """Standardising is part of weights and biases here, in float64 on the way."""
    weight_CD = probe.weight_CD.astype(np.float64) / probe.scale_D
    bias_C = probe.bias_C - weight_CD @ probe.mean_D
    kept = at_most(data.train_N, KEPT)
    vectors_ND = data.train_ND[kept]
    return {
        "learned": vectors_ND.astype(np.float16),
        "usual": _usual(vectors_ND, data.train_N[kept]),
        "weight": np.ascontiguousarray(weight_CD, np.float32),
        "bias": bias_C.astype(np.float32),
    }


def _knn_tensors(data: Examples, usual: NDArray[np.float32]) -> Tensors:
    return {
        "learned": data.train_ND.astype(np.float16),
        "usual": usual,
        "labels": data.train_N.astype(np.int32),
    }


def _usual(vectors_ND: NDArray[np.float32], labels_N: NDArray[np.int64]) -> NDArray[np.float32]:
    rows = at_most(labels_N, CALIBRATED)
    return usual_similarities(vectors_ND, rows, nearest=min(NEAREST, len(vectors_ND) - 1))


def _info(
    store: Store,
    out: Path,
    data: Examples,
    fitted: _Fit,
    *,
    method: str,
    voters: int,
    seed: int,
    measured: dict[str, Any] | None = None,
) -> ClassifierInfo:
    model: ModelInfo = open_folder(store.model)[1]
    counts_C = np.bincount(data.train_N, minlength=len(data.classes))
    return ClassifierInfo(
        method=method,
        classes=data.classes,
        counts=tuple(counts_C.tolist()),
        identity=store.info.identity,
        width=store.info.width,
        recipe=model.encoder.recipe,
        store=os.path.relpath(store.folder.resolve(), out.resolve().parent),
        store_uid=store.info.uid,
        seed=seed,
        strength=fitted.strength,
        voters=min(voters, len(data.train_N)) if method == "knn" else None,
        temperature=fitted.temperature,
        floor=fitted.floor,
        nearest=min(NEAREST, len(fitted.tensors["learned"]) - 1),
        measured=measured or {},
        tensors_sha256="",
        tensors_size=0,
    )


def _measure(trial: Classifier, data: Examples, *, held_out: bool) -> dict[str, Any]:
    found = trial.predict(data.test_QD)
    how = "a fifth of each class, held out; then learned from, too" if held_out else "as the labels say"
    return measures(found.probabilities_QC, data.test_Q, found.unlike_Q) | {"how": how}


def _all_of(data: Examples) -> Examples:
    """All of them to learn from."""
    return Examples(
        data.classes,
        np.concatenate([data.train_ND, data.test_QD]),
        np.concatenate([data.train_N, data.test_Q]),
        data.test_QD,
        data.test_Q,
    )
