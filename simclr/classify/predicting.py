"""Folders, lists, archives, single images or a store -> what a classifier makes of each image.

What is no store becomes one for the time being: so files are decoded ahead of the encoder, odd ones are skipped with the reason, and a
decoder that hangs costs one file.
"""

import csv
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from simclr.artifacts import ModelInfo
from simclr.classify.classifier import Classifier
from simclr.embed.store import SKIPPED_FILE, Store, is_store
from simclr.embed.sync import embed_sources
from simclr.embed.workers import Workers
from simclr.errors import ArtifactError, ConfigError, ImageError
from simclr.runtime.model_files import open_folder
from simclr.sources import is_url, openable
from simclr.sources.walk import has_image_suffix

SURELY_UNLIKE = 0.99
"""From here on an image is marked: so far off are 1 % of the images learned from."""
_NAMED = 10
"""Skipped files that are named."""

Progress = Callable[[int, int, str], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Prediction:
    """Of one image."""

    path: str
    """Openable."""
    id: int | None
    """Of a store that stays."""
    best: tuple[tuple[str, float], ...]
    """Classes with their probabilities, the likeliest first."""
    unlike: float
    """Share of the images learned from that are closer to each other, in 0..1."""


def model_of(classifier: Classifier, path: Path, model: Path | None) -> Path:
    """The export folder whose encoder the classifier needs; of the store it was fitted to, if none is given.

    Raises EncoderMismatch if it is another encoder's, ArtifactError if there is none.
    """
    folder = model or path.resolve().parent / classifier.info.store / "model"
    try:
        folder, found = open_folder(folder)
    except ArtifactError as exc:
        if model is not None:
            raise
        raise ArtifactError(
            f"{folder}: the encoder of the store that {path} was fitted to is not there any more. Give it with --model."
        ) from exc
    info: ModelInfo = found
    classifier.refuse_other(info.encoder.identity, folder)
    return folder


@contextmanager
def stored(
    classifier: Classifier,
    sources: Sequence[str],
    model: Callable[[], Path],
    *,
    progress: Progress = lambda done, total, words: None,
    note: Note = lambda line: None,
) -> Iterator[tuple[Store, bool]]:
    """A store of the sources, and whether it stays: the one that is named, or one that is made and goes at the end.

    `model` is asked where images are to be embedded. Raises EncoderMismatch, ConfigError (a store among other sources), ImageError.
    """
    if is_store(Path(sources[0])) and len(sources) == 1:
        store = Store.open(sources[0])
        classifier.refuse_other(store.info.identity, store.folder)
        yield store, True
        return
    if stores := [source for source in sources if is_store(Path(source))]:
        raise ConfigError(f"{stores[0]}: is a store, and stands for itself only. Name it alone.")
    with tempfile.TemporaryDirectory(prefix="simclr-") as temporary:
        words = _with_single_images(sources, Path(temporary) / "images.txt")
        folder = Path(temporary) / "images.store"
        lane = Workers(model(), note=note)
        report = embed_sources(words, folder, lane, model=lane.model, progress=progress, note=note)
        for line in _skipped(folder, report.skipped):
            note(line)
        if not report.there:
            raise ImageError(f"{' '.join(sources)}: none of the images could be read. See `simclr embed`.")
        yield Store.open(folder), False


def predict(
    classifier: Classifier, store: Store, *, stays: bool = True, top: int = 1
) -> Iterator[Prediction]:
    """Each image of a store, in its order, a shard in memory at a time; the `top` likeliest classes of each."""
    classes = np.array(classifier.info.classes)
    top = min(top, len(classes))
    for table, vectors_SD in store.parts(["id", "source", "image_path"], verify=True):
        found = classifier.predict(vectors_SD)
        best_ST = np.argsort(-found.probabilities_QC, axis=1, kind="stable")[:, :top]
        chances_ST = np.take_along_axis(found.probabilities_QC, best_ST, 1)
        rows = zip(
            table["id"].to_pylist(),
            table["source"].to_pylist(),
            table["image_path"].to_pylist(),
            classes[best_ST].tolist(),
            chances_ST.tolist(),
            found.unlike_Q.tolist(),
            strict=True,
        )
        for id, number, name, labels, chances, unlike in rows:
            source = store.info.sources[number]
            yield Prediction(
                path=openable(source.kind, source.root, name),
                id=id if stays else None,
                best=tuple(zip(labels, chances, strict=True)),
                unlike=unlike,
            )


def _skipped(store: Path, count: int) -> Iterator[str]:
    """The first of the files that were not embedded, with the reason, and how many more there are."""
    with open(store / SKIPPED_FILE, encoding="utf-8", newline="") as file:
        for row in islice(csv.DictReader(file), _NAMED):
            yield f"skipped: {row['path']}: {row['reason']}"
    if count > _NAMED:
        yield f"skipped: {count - _NAMED:,} more. `simclr embed` lists all in the skipped.csv of a store."


def _with_single_images(sources: Sequence[str], file: Path) -> list[str]:
    """Images that are named one by one become a list of files."""
    single = [
        word for word in sources if not is_url(word) and Path(word).is_file() and has_image_suffix(word)
    ]
    if not single:
        return list(sources)
    file.write_text("".join(f"{Path(word).absolute()}\n" for word in single), encoding="utf-8")
    return [*(word for word in sources if word not in single), str(file)]
