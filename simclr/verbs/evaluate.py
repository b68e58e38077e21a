"""The verb `evaluate`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from simclr import progress
from simclr.console import note, user_errors


def evaluate(
    store: Annotated[
        list[Path],
        typer.Argument(
            metavar="STORE...", help="Stores written by `simclr embed`; several are compared with the first."
        ),
    ],
    labels: Annotated[
        str,
        typer.Option(
            metavar="folders|TABLE",
            help="Class folders, or a CSV with the columns path, label and perhaps split.",
        ),
    ] = "folders",
    seed: Annotated[int, typer.Option(help="Decides what is held out, and which labels are few.")] = 0,
    pixels: Annotated[
        bool,
        typer.Option(
            "--pixels", help="Also measure the raw pixels of the images, which an encoder must beat."
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Also write a page with pictures to this file: curves, confusions, a map, each class."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object, with the measures of each class and the confusion matrix."
        ),
    ] = False,
) -> None:
    """Measure how well the vectors of a store tell classes apart: votes among neighbours, a linear probe, retrieval.

    Example: simclr evaluate photos.store --labels labels.csv
    """
    with user_errors():
        from simclr.classify import evaluation, words
        from simclr.classify.examples import examples, split_stores
        from simclr.classify.pixels import pixel_examples
        from simclr.embed.store import Store

        opened = [Store.open(path) for path in store]
        splits = split_stores(opened, labels, seed=seed, note=note)
        names = [path.name for path in store]
        identities: list[str | None] = [each.info.identity for each in opened]
        data = [examples(each, split) for each, split in zip(opened, splits, strict=True)]
        if pixels:
            names.append("raw pixels")
            identities.append(None)
            with progress.show("reading") as update:
                data.append(pixel_examples(opened[0], splits[0], progress=update))
        measured = [evaluation.evaluate(each, seed=seed, note=note) for each in data]
        if html is not None:
            from simclr.classify.report import write_report

            note("drawing")
            write_report(html, names, splits[0], measured, data)
        if as_json:
            typer.echo(
                json.dumps(words.as_object(names, identities, splits[0], measured), ensure_ascii=False)
            )
            return
        typer.echo(words.split_words(splits[0]))
        for line in words.table(names, measured):
            typer.echo(line)
