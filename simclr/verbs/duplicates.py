"""The verb `duplicates`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from simclr import progress
from simclr.console import note, user_errors
from simclr.errors import ConfigError


def duplicates(
    store: Annotated[Path, typer.Argument(help="Store written by `simclr embed`.")],
    other: Annotated[
        Path | None,
        typer.Argument(
            help="Another one, such as that of a test set: which of its images have a copy in STORE?"
        ),
    ] = None,
    threshold: Annotated[
        str,
        typer.Option(
            metavar="auto|COSINE",
            help="From which cosine on two images are copies; auto looks at the images, and finds out with copies that it makes of some.",
        ),
    ] = "auto",
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write all copies to this file, one a row.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE",
            help="Also write a gallery to this file, with a picture of where the threshold cuts.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for each group.")] = False,
    index: Annotated[
        Path | None,
        typer.Option(help="Index of STORE.  [default: NAME.faiss beside it, or one for the moment]"),
    ] = None,
) -> None:
    """Find exact and near copies in a store, or images of another store that have a copy in it. Deletes nothing.

    Example: simclr duplicates photos.store --html copies.html
    """
    with user_errors("stopped: nothing was written."):
        from simclr.artifacts import check_writable
        from simclr.classify import duplicate_report as report
        from simclr.classify import duplicate_words as words
        from simclr.classify.copy_search import find_duplicates, find_leaks, threshold_of
        from simclr.classify.figures import check_drawing
        from simclr.embed.store import Store
        from simclr.html_page import write_page

        cosine = threshold_of(threshold)
        if html is not None:
            check_drawing()
        for path, option in ((csv, "--csv"), (html, "--html")):
            if path is not None:
                check_writable(path, option)
        if csv is not None and csv == html:
            raise ConfigError(f"{csv}: is where the page goes, too. Give another --csv.")
        opened = Store.open(store)
        if other is None:
            found = find_duplicates(opened, threshold=cosine, index=index, note=note, show=progress.show)
            for line in words.cut_lines(found.threshold, found.cut):
                note(line)
            for group in words.objects(opened, found):
                typer.echo(json.dumps(group, ensure_ascii=False) if as_json else words.line(group))
            counts = words.counts(found)
            if csv is not None:
                words.write_groups(csv, words.objects(opened, found))
            if html is not None:
                page = report.groups_page(
                    words.objects(opened, found), len(found.groups), counts, found.threshold, found.cut,
                    found.nearest_M, title=f"Copies in {opened.folder.name}",
                )  # fmt: skip
                write_page(html, page)
        else:
            second = Store.open(other)
            leaks = find_leaks(opened, second, threshold=cosine, index=index, note=note, show=progress.show)
            for line in words.cut_lines(leaks.threshold, leaks.cut):
                note(line)
            for leak in words.leak_objects(opened, second, leaks):
                typer.echo(json.dumps(leak, ensure_ascii=False) if as_json else words.leak_line(leak))
            counts = words.leak_counts(opened, second, leaks)
            if csv is not None:
                words.write_leaks(csv, words.leak_objects(opened, second, leaks))
            if html is not None:
                page = report.leaks_page(
                    words.leak_objects(opened, second, leaks), len(leaks.others), counts, leaks.threshold, leaks.cut,
                    leaks.nearest_M, title=f"Copies of {second.folder.name} in {opened.folder.name}",
                )  # fmt: skip
                write_page(html, page)
        if as_json:
            note(counts)
        else:
            typer.echo(counts)
