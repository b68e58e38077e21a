"""An evaluation as one self-contained HTML page. Takes what was measured, gives text; measures nothing itself but where images lie on the map."""

import html
from collections.abc import Sequence
from pathlib import Path

from simclr.classify import figures
from simclr.classify.evaluation import Evaluation
from simclr.classify.examples import Examples, Split
from simclr.classify.metrics import class_scores
from simclr.classify.projection import projected
from simclr.classify.words import cells, split_words
from simclr.html_page import html_page, html_table, write_page

MAPPED = 2000
"""Test images on the map: t-SNE of so many takes some seconds."""

_STYLE = """.wide { overflow-x: auto; }
.side { display: flex; flex-wrap: wrap; gap: 2rem; }
"""


def write_report(
    path: Path,
    names: Sequence[str],
    split: Split,
    evaluations: Sequence[Evaluation],
    examples: Sequence[Examples],
) -> None:
    """Raises ArtifactError if the file cannot be written, MissingExtra without matplotlib."""
    write_page(path, report(names, split, evaluations, examples))


def report(
    names: Sequence[str], split: Split, evaluations: Sequence[Evaluation], examples: Sequence[Examples]
) -> str:
    """The page: all measures, curves of few labels, and of each encoder its classes, its confusions and a map of the test images."""
    sections = [
        _section(
            "Measures",
            "With 95 % intervals over test images.",
            figures.measures(names, evaluations) + html_table(cells(names, evaluations)),
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
    lead = f"<p>{html.escape(split_words(split))}</p>\n"
    return html_page(title, lead + "\n".join(sections), style=_STYLE)


def _section(title: str, words: str, body: str) -> str:
    return f'<h2>{html.escape(title)}</h2>\n<p>{words}</p>\n<div class="wide">{body}</div>'


def _classes(evaluation: Evaluation, split: Split) -> str:
    scores = sorted(
        zip(split.classes, class_scores(evaluation.confusion_CC), strict=True), key=lambda each: each[1].f1
    )
    rows = [
        [name, f"{s.count:,}", f"{s.precision:.3f}", f"{s.recall:.3f}", f"{s.f1:.3f}"] for name, s in scores
    ]
    return html_table([["class", "test images", "precision", "recall", "F1"], *rows])


def _map(examples: Examples) -> str:
    step = -(-len(examples.test_Q) // MAPPED)
    vectors_QD, labels_Q = examples.test_QD[::step], examples.test_Q[::step]
    if len(vectors_QD) < 5:
        return ""
    places_Q2, _ = projected(vectors_QD)
    return figures.scatter(places_Q2, labels_Q, examples.classes)
