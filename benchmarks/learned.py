"""How much of the classes an encoder has learned: votes of neighbours, and a linear probe. Not part of the package."""

import resource
from typing import Any

import numpy as np
from labelled_sets import LabelledSet
from numpy.typing import NDArray

from simclr.classify.knn import knn_predict
from simclr.classify.probe import fit_probe

NEIGHBOURS = 20


def features(
    encoder: Any, pixels: NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...]
) -> NDArray[np.float32]:
    """(N, F) unit rows."""
    import torch

    encoder.eval()
    parts = []
    scale = [torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std)]
    with torch.no_grad():
        for start in range(0, len(pixels), 500):
            views = torch.from_numpy(pixels[start : start + 500]).permute(0, 3, 1, 2).float() / 255
            parts.append(
                encoder(((views - scale[0]) / scale[1]).contiguous(memory_format=torch.channels_last))
            )
    encoder.train()
    return torch.nn.functional.normalize(torch.cat(parts), dim=1).numpy()


def centred_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, F) unit rows: the picture itself, around mid-grey, which is better than around black."""
    rows = pixels.reshape(len(pixels), -1).astype(np.float32) - 127.5
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def knn_accuracy(
    bank: NDArray[np.float32], queries: NDArray[np.float32], data: LabelledSet, *, every: int = 1
) -> float:
    """Share of the test images whose class the nearest training images, or every so many of them, vote for."""
    predicted = knn_predict(bank, data.labels["train"][::every], queries, k=NEIGHBOURS)
    return float((predicted == data.labels["test"]).mean())


def probe_accuracy(
    bank: NDArray[np.float32], queries: NDArray[np.float32], data: LabelledSet, *, every: int = 1
) -> float:
    """Share that logistic regression on the training images' features gets right; its strength is chosen on a fifth of them."""
    labels = data.labels["train"]
    probe = fit_probe(bank, labels[::every], int(labels.max()) + 1)
    return float((probe.predict(queries) == data.labels["test"]).mean())


def measured(
    encoder: Any, data: LabelledSet, mean: tuple[float, ...], std: tuple[float, ...], *, every: int = 1
) -> dict[str, float]:
    """Both accuracies; the probe learns from `every`-th training images."""
    bank = features(encoder, data.pixels["train"], mean, std)
    queries = features(encoder, data.pixels["test"], mean, std)
    return {
        "knn": knn_accuracy(bank, queries, data),
        "probe": probe_accuracy(bank[::every], queries, data, every=every),
    }


def cpu_seconds() -> float:
    """That this process and its ended children have computed: what others do on the machine hardly counts."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
