"""An evaluation as one self-contained HTML page. Takes what was measured, gives text; measures nothing itself but where images lie on the map."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import write_atomically
from simclr.classify import figures
from simclr.classify.evaluation import Evaluation
from simclr.classify.examples import Examples, Split
from simclr.classify.metrics import class_scores
from simclr.classify.words import cells, split_words
from simclr.errors import ArtifactError, MissingExtra

MAPPED = 2000
"""Test images on the map: t-SNE of so many takes some seconds."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }}
h2 {{ margin: 2.2rem 0 .4rem; font-size: 1.15rem; }}
p {{ margin: .2rem 0 .8rem; max-width: 60rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .25rem 1.1rem .25rem 0; white-space: nowrap;
  border-bottom: 1px solid color-mix(in srgb, currentColor 15%, transparent); }}
.wide {{ overflow-x: auto; }}
.side {{ display: flex; flex-wrap: wrap; gap: 2rem; }}
svg {{ max-width: 100%; height: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{split}</p>
{sections}
</body>
</html>
"""


def write_report(
    path: Path,
    names: Sequence[str],
    split: Split,
    evaluations: Sequence[Evaluation],
    examples: Sequence[Examples],
) -> None:
    """Raises ArtifactError if the file cannot be written, MissingExtra without matplotlib or scikit-learn."""
    text = report(names, split, evaluations, examples)
    try:
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as exc:
        raise ArtifactError(
            f"{path}: cannot be written ({exc.strerror or exc}). Give another --html."
        ) from exc


def report(
    names: Sequence[str], split: Split, evaluations: Sequence[Evaluation], examples: Sequence[Examples]
) -> str:
    """The page: all measures, curves of few labels, and of each encoder its classes, its confusions and a map of the test images."""
    sections = [
        _section(
            "Measures",
            "With 95 % intervals over test images.",
            figures.measures(names, evaluations) + _table(cells(names, evaluations)),
        ),
    ]
    if evaluations[0].few:
        words = "Solid: the linear probe. Dashed: a vote of the 20 nearest."
        sections.append(_section("With fewer labels", words, figures.few_labels(names, evaluations)))
    for name, evaluation, each in zip(names, evaluations, examples, strict=True):
        ending = f": {name}" if len(names) > 1 else ""
        pair = (
            f'<div class="side">{figures.confusion(evaluation.confusion_CC, split.classes)}{_map(each)}</div>'
        )
        words = "The matrix: what the linear probe takes each class for, as shares. The map: test images, near those with like vectors (t-SNE); distances between groups mean nothing."
        sections.append(_section(f"Confusions and map{ending}", words, pair))
        sections.append(
            _section(f"Classes{ending}", "Of the linear probe, the worst first.", _classes(evaluation, split))
        )
    title = "Evaluation of " + " and ".join(names)
    return _PAGE.format(
        title=html.escape(title), split=html.escape(split_words(split)), sections="\n".join(sections)
    )


def _section(title: str, words: str, body: str) -> str:
    return f'<h2>{html.escape(title)}</h2>\n<p>{words}</p>\n<div class="wide">{body}</div>'


def _classes(evaluation: Evaluation, split: Split) -> str:
    scores = sorted(
        zip(split.classes, class_scores(evaluation.confusion_CC), strict=True), key=lambda each: each[1].f1
    )
    rows = [
        [name, f"{s.count:,}", f"{s.precision:.3f}", f"{s.recall:.3f}", f"{s.f1:.3f}"] for name, s in scores
    ]
    return _table([["class", "test images", "precision", "recall", "F1"], *rows])


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the head."""
    tags = ["th", *["td"] * (len(rows) - 1)]
    lines = [
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for tag, row in zip(tags, rows, strict=True)
    ]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _map(examples: Examples) -> str:
    """t-SNE (van der Maaten and Hinton 2008) of the test images' vectors, by cosine, begun from their two principal axes."""
    step = -(-len(examples.test_Q) // MAPPED)
    vectors_QD, labels_Q = examples.test_QD[::step], examples.test_Q[::step]
    if len(vectors_QD) < 5:
        return ""
    places_Q2 = _tsne(vectors_QD)
    return figures.scatter(places_Q2, labels_Q, examples.classes)


def _tsne(vectors_QD: NDArray[np.float32]) -> NDArray[np.float32]:
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise MissingExtra("scikit-learn", "classify") from None
    method: Any = TSNE(
        init="pca", perplexity=min(30, (len(vectors_QD) - 1) / 3), metric="cosine", random_state=0
    )
    places_Q2: NDArray[np.float32] = method.fit_transform(vectors_QD)
    return places_Q2
