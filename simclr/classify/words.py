"""What was measured -> lines of text, and an object for programs."""

from collections.abc import Sequence
from typing import Any

from simclr.classify.evaluation import Evaluation, differences, interval
from simclr.classify.examples import Split
from simclr.classify.metrics import Interval, class_scores


def split_words(split: Split) -> str:
    """How many images there are of what, in one line."""
    how = "a fifth of each class, held out" if split.held_out else "as the labels say"
    return f"{len(split.classes):,} classes; {len(split.train_N):,} images to learn from, {len(split.test_Q):,} to test on ({how})"


def cells(names: Sequence[str], evaluations: Sequence[Evaluation]) -> list[list[str]]:
    """A row for each measure below one of names: every encoder's value, and what each has more than the first, with 95 % intervals."""
    first, *others = evaluations
    compared = [differences(first, other) for other in others]
    head = ["", *names, *(f"{name} - {names[0]}" for name in names[1:])]
    return [head] + [
        [
            name,
            *(interval(each.rows[name]).words for each in evaluations),
            *(difference_words(each[name]) for each in compared),
        ]
        for name in first.rows
    ]


def table(names: Sequence[str], evaluations: Sequence[Evaluation]) -> list[str]:
    """The same as lines of text."""
    lines = cells(names, evaluations)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def difference_words(found: Interval) -> str:
    """With its interval, and whether that leaves out 0."""
    beyond = "" if found.low <= 0 <= found.high else " beyond chance"
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f}){beyond}"


def as_object(
    names: Sequence[str], identities: Sequence[str | None], split: Split, evaluations: Sequence[Evaluation]
) -> dict[str, Any]:
    """All of it, for `--json`; the identity of raw pixels is None."""
    return {
        "classes": list(split.classes),
        "train_images": len(split.train_N),
        "test_images": len(split.test_Q),
        "held_out": split.held_out,
        "encoders": [
            {"name": name, "identity": identity} | _one(split, each)
            for name, identity, each in zip(names, identities, evaluations, strict=True)
        ],
        "differences": [
            {name: _numbers(each) for name, each in differences(evaluations[0], other).items()}
            for other in evaluations[1:]
        ],
    }


def _one(split: Split, evaluation: Evaluation) -> dict[str, Any]:
    scores = class_scores(evaluation.confusion_CC)
    return {
        "measures": {name: _numbers(interval(values)) for name, values in evaluation.rows.items()},
        "probe_strength": evaluation.strength,
        "per_class": [
            {
                "class": name,
                "images": score.count,
                "precision": score.precision,
                "recall": score.recall,
                "f1": score.f1,
            }
            for name, score in zip(split.classes, scores, strict=True)
        ],
        "confusion": evaluation.confusion_CC.tolist(),
    }


def _numbers(found: Interval) -> dict[str, float]:
    return {"value": round(found.value, 6), "low": round(found.low, 6), "high": round(found.high, 6)}
