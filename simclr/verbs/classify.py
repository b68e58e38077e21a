"""The verbs `classify fit`, `classify predict`, `classify score` and `classify export`."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simclr import progress
from simclr.console import note, user_errors

if TYPE_CHECKING:
    from simclr.classify.classifier import Classifier
    from simclr.classify.predicting import Prediction

Labels = Annotated[
    str,
    typer.Option(
        metavar="folders|TABLE",
        help="Class folders, or a CSV with the columns path, label and perhaps split.",
    ),
]
Model = Annotated[
    Path | None,
    typer.Option(
        help="Export folder.  [default: the encoder of the store that the classifier was fitted to]"
    ),
]
Fitted = Annotated[
    Path, typer.Argument(metavar="CLASSIFIER", help="Folder written by `simclr classify fit`.")
]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="A store, or what `simclr embed` takes: folders, lists, archives; also single images.",
    ),
]
Precision = Annotated[
    str, typer.Option(help="Of the encoder in the graph: fp32, or another that was exported.")
]


def fit(
    store: Annotated[Path, typer.Argument(help="Store written by `simclr embed`.")],
    labels: Labels = "folders",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write.  [default: out.classifier beside out.store]")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="probe|knn", help="A linear probe, or a vote among the nearest labelled images."
        ),
    ] = "probe",
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours vote.")] = 20,
    seed: Annotated[int, typer.Option(help="Decides what is held out.")] = 0,
    onnx: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also join encoder and probe into one graph: images in, classes out."
        ),
    ] = None,
    precision: Precision = "fp32",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Fit a classifier to the vectors of a store, calibrate it, and measure it on images that were left out.

    Example: simclr classify fit photos.store --labels labels.csv
    """
    with user_errors("stopped: nothing was written."):
        from simclr.classify.classifier import refuse_foreign
        from simclr.classify.fitting import fit_classifier
        from simclr.embed.store import Store

        path = out or store.with_suffix(".classifier")
        refuse_foreign(path)
        if onnx is not None:
            from simclr.classify.deploy import refuse_vote

            refuse_vote(method)
        fitted = fit_classifier(
            Store.open(store), labels, path, method=method, voters=k, seed=seed, note=note
        )
        info, found = fitted.info, fitted.info.measured
        if as_json:
            typer.echo(json.dumps(_said(path, fitted), ensure_ascii=False))
        else:
            kind = "linear probe" if info.method == "probe" else f"vote of the {info.voters} nearest"
            typer.echo(f"{path}: {kind} on {sum(info.counts):,} images of {len(info.classes):,} classes")
            typer.echo(f"accuracy {_accuracy(found)} on {found['images']:,} images ({found['how']})")
            typer.echo(_worth(found))
        if onnx is not None:
            _join(fitted, path, onnx, None, precision)
        note(f"next: simclr classify predict {path} PHOTOS")


def predict(
    classifier: Fitted,
    source: Sources,
    model: Model = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name, the likeliest first.")] = 1,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a table instead of printing.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Say which class each image is of, how probable that is, and how unlike all it learned from the image is.

    Example: simclr classify predict photos.classifier new/ --csv classes.csv
    """
    with user_errors():
        from simclr.artifacts import check_writable
        from simclr.classify.classifier import Classifier
        from simclr.classify.predicting import SURELY_UNLIKE, model_of, predict, stored

        if csv_file is not None:
            check_writable(csv_file, "--csv")
        opened = Classifier.open(classifier)
        with (
            progress.show("classify") as update,
            stored(opened, source, lambda: model_of(opened, classifier, model), progress=update, note=note) as (store, stays),
        ):  # fmt: skip
            found = predict(opened, store, stays=stays, top=top)
            if csv_file is not None:
                _write_csv(csv_file, found, min(top, len(opened.info.classes)))
                note(f"table: {csv_file}")
                return
            for each in found:
                if as_json:
                    typer.echo(json.dumps(_line(each), ensure_ascii=False))
                    continue
                named = "  ".join(f"{chance:.3f} {label}" for label, chance in each.best)
                mark = "  unlike anything seen" if each.unlike >= SURELY_UNLIKE else ""
                typer.echo(f"{named}  {each.path}{mark}")


def score(
    classifier: Fitted,
    source: Sources,
    labels: Labels = "folders",
    model: Model = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object, with the confusion matrix.")
    ] = False,
) -> None:
    """Measure a classifier on labelled images.

    Example: simclr classify score photos.classifier new/ --labels new.csv
    """
    with user_errors():
        from simclr.classify.classifier import Classifier
        from simclr.classify.metrics import class_scores
        from simclr.classify.predicting import model_of, stored
        from simclr.classify.scoring import score

        opened = Classifier.open(classifier)
        with (
            progress.show("classify") as update,
            stored(opened, source, lambda: model_of(opened, classifier, model), progress=update, note=note) as (store, _),
        ):  # fmt: skip
            found = score(opened, store, labels, note=note)
        rows = list(zip(opened.info.classes, class_scores(found.confusion_CC), strict=True))
        if as_json:
            per_class = [
                {"class": name, "images": s.count, "precision": s.precision, "recall": s.recall, "f1": s.f1}
                for name, s in rows
            ]
            said = found.measured | {"per_class": per_class, "confusion": found.confusion_CC.tolist()}
            typer.echo(json.dumps(said, ensure_ascii=False))
            return
        typer.echo(f"accuracy {_accuracy(found.measured)} on {found.measured['images']:,} images")
        typer.echo(_worth(found.measured))
        typer.echo(f"unlike what it learned from: {found.measured['unlike']:.2f} on average; 0.5 is usual")
        width = max(len(name) for name, _ in rows)
        typer.echo(f"{'':{width}}  images  precision  recall     F1")
        for name, s in sorted(rows, key=lambda row: row[1].f1):
            if s.count:
                typer.echo(f"{name:{width}}  {s.count:6,}  {s.precision:9.3f}  {s.recall:6.3f}  {s.f1:5.3f}")


def export(
    classifier: Fitted,
    onnx: Annotated[Path, typer.Option(metavar="FILE", help="ONNX file to write.")],
    model: Model = None,
    precision: Precision = "fp32",
) -> None:
    """Join the encoder and a linear probe into one ONNX graph: uint8 images in, probabilities of classes out.

    Example: simclr classify export photos.classifier --onnx photos.onnx
    """
    with user_errors():
        from simclr.classify.classifier import Classifier

        _join(Classifier.open(classifier), classifier, onnx, model, precision)


def _join(fitted: "Classifier", path: Path, onnx: Path, model: Path | None, precision: str) -> None:
    from simclr.classify.deploy import join
    from simclr.classify.predicting import model_of

    worst = join(fitted, model_of(fitted, path, model), onnx, precision=precision)
    note(f"graph: {onnx}, probabilities within {worst:.1g} of encoder and classifier one after the other")


def _said(path: Path, fitted: "Classifier") -> dict[str, Any]:
    info = fitted.info
    return {
        "classifier": str(path),
        "method": info.method,
        "classes": dict(zip(info.classes, info.counts, strict=True)),
        "identity": info.identity,
        "temperature": info.temperature,
        "measured": info.measured,
    }


def _accuracy(found: dict[str, Any]) -> str:
    return f"{found['accuracy']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _worth(found: dict[str, Any]) -> str:
    return f"probabilities are off by {found['calibration_error']:.3f} on average; log loss {found['log_loss']:.3f}"


def _line(each: "Prediction") -> dict[str, Any]:
    label, chance = each.best[0]
    return {
        "path": each.path,
        "id": each.id,
        "label": label,
        "probability": round(chance, 6),
        "unlike": round(each.unlike, 4),
        "best": [{"label": label, "probability": round(chance, 6)} for label, chance in each.best],
    }


def _write_csv(path: Path, found: "Iterable[Prediction]", top: int) -> None:
    from simclr.artifacts import write_atomically

    heads = [f"{name}_{place}" if place > 1 else name for place in range(1, top + 1) for name in ("label", "probability")]  # fmt: skip

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", *heads, "unlike"])
            for each in found:
                numbers = [cell for label, chance in each.best for cell in (label, f"{chance:.6f}")]
                table.writerow([each.path, *numbers, f"{each.unlike:.4f}"])

    write_atomically(path, write)
