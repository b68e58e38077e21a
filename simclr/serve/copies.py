"""A collection -> its groups of copies, as the page shows them. Finds none itself: `classify/copy_search.py` does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

from simclr.classify.copy_search import find_duplicates
from simclr.classify.duplicate_words import objects
from simclr.serve import models
from simclr.serve.background import Progress
from simclr.serve.collection import Served

SHOWN = 500
"""Groups that are given."""
_COPIES = 50
"""Copies of a group that are given."""


def copies(served: Served, progress: Progress) -> models.Copies:
    """Raises SimclrError where none can be found, as where there are few images and they have moved."""

    @contextmanager
    def show(doing: str) -> Iterator[Callable[[int, int, str], None]]:
        progress(doing, 0, 0)
        yield lambda done, total, words: progress(doing, done, total)

    found = find_duplicates(served.store, threshold=None, note=lambda line: None, show=show)
    groups = [
        models.Group(
            keeper=_image(group["keeper"]),
            copies=[
                models.Copy(**_image(copy).model_dump(), similarity=copy["similarity"], kind=copy["kind"])
                for copy in group["copies"][:_COPIES]
            ],
        )
        for group in islice(objects(served.store, found), SHOWN)
    ]
    return models.Copies(
        groups=groups, total=len(found.groups), images=found.exact + found.near, threshold=found.threshold
    )


def _image(found: dict[str, object]) -> models.Image:
    return models.Image.model_validate({name: found[name] for name in ("id", "path", "width", "height")})
