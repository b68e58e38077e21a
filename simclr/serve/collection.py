"""What is served: an index with its store and, if given, a classifier. Opened again when `simclr embed` has replaced it.

Requests keep the one they began with, so that none is dropped; it goes when the last of them is answered.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simclr.artifacts import IndexInfo
from simclr.classify.classifier import Classifier
from simclr.embed import Index
from simclr.embed.index.files import sidecar
from simclr.embed.store import MANIFEST_FILE, Store
from simclr.errors import ArtifactError, ConfigError, SimclrError

LOOK = 1.0
"""Seconds between two looks at the files."""
_REST = 10.0
"""A new state is looked for no sooner than after this many times what opening took: a writer commits every few seconds."""

Note = Callable[[str], None]
_Stamps = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Served:
    """One state of a collection. Nothing in it changes."""

    index: Index
    classifier: Classifier | None
    without: str = ""
    """Why there is no classifier."""

    @property
    def store(self) -> Store:
        return self.index.store

    @property
    def generation(self) -> int:
        """Of the store: grows whenever its images change."""
        return self.store.info.generation


class Collection:
    """The present state, and the thread that keeps it so. Make one with `Collection.open`."""

    def __init__(self, path: Path, store: Path | None, model: Path | None, classifier: Path | None) -> None:
        self.path, self._store, self._model, self._classifier = path, store, model, classifier
        self.reloads = 0
        self._stop = threading.Event()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        store: Path | None = None,
        model: Path | None = None,
        classifier: Path | None = None,
    ) -> "Collection":
        """Everything that a search needs, the encoder too, is loaded now.

        Raises ArtifactError (missing, damaged), EncoderMismatch (model or classifier of another encoder), ConfigError
        (an empty store), MissingExtra.
        """
        opened = cls(path, store, model, classifier)
        opened._seen = opened._stamps()
        served = opened._opened()
        if served.classifier is None and classifier is not None:
            raise ArtifactError(served.without)
        opened._encoder_ready(served, None)
        opened.now = served
        return opened

    now: Served
    """The present state: one that is kept stays as it is."""
    _seen: _Stamps

    @property
    def name(self) -> str:
        return self.path.stem

    def reload(self) -> bool:
        """Open what has been replaced since; whether anything was. Raises SimclrError, and keeps what it has, where that fails."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        served = self._opened()
        self._encoder_ready(served, self.now)
        self.now, self._seen = served, stamps
        self.reloads += 1
        return True

    def watch(self, note: Note) -> None:
        """Keep it up to date from now on, in a thread of its own. `note` hears what went wrong, once."""
        threading.Thread(target=self._watch, args=(note,), name="reload", daemon=True).start()

    def close(self) -> None:
        self._stop.set()

    def _watch(self, note: Note) -> None:
        said, rest = "", LOOK
        while not self._stop.wait(rest):
            began, problem, changed = time.monotonic(), "", False
            try:
                changed = self.reload()
            except (SimclrError, OSError) as exc:
                problem = f"{exc} The images of before are served on."
            if problem and problem != said:
                note(problem)
            if changed:
                note(f"now {len(self.now.store):,} images, generation {self.now.generation}")
                if self.now.without:
                    note(self.now.without)
            said = problem
            rest = max(LOOK, _REST * (time.monotonic() - began) if changed or problem else 0.0)

    def _opened(self) -> Served:
        index = Index.open(self.path, store=self._store, model=self._model)
        if not len(index.store):
            raise ConfigError(
                f"{index.store.folder}: holds no vectors, so there is nothing to serve. See {index.store.folder}/skipped.csv."
            )
        index.search(np.eye(1, index.info.width, dtype=np.float32), k=1)  # the first one reads ids,
        index.lookup.sizes(index.lookup.ids[:1])  # and sizes
        if self._classifier is None:
            return Served(
                index, None, "the server was started without a classifier. Give one with --classifier."
            )
        classifier = Classifier.open(self._classifier)
        try:
            classifier.refuse_other(index.info.identity, index.store.folder)
        except SimclrError as exc:
            return Served(index, None, f"{self._classifier}: {exc}")
        return Served(index, classifier)

    def _encoder_ready(self, served: Served, before: Served | None) -> None:
        """Take that of before: it is the same unless the vectors are of another one. Else load it, or say why not."""
        holder = served
        if before is not None and before.index.info.identity == served.index.info.identity:
            holder = before
        served.index.encoder = holder.index.encoder

    def _stamps(self) -> _Stamps:
        """What tells that a file has been replaced."""
        store = self._store
        if store is None:
            with suppress(SimclrError, OSError):
                store = self.path.parent / IndexInfo.load(sidecar(self.path)).store
        files = [self.path, sidecar(self.path), *([store / MANIFEST_FILE] if store else [])]
        if self._classifier is not None:
            files.append(self._classifier / "classifier.json")
        return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        stat = file.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
