"""The verb `serve`."""

from pathlib import Path
from typing import Annotated

import typer

from simclr.console import note, user_errors


def serve(
    index: Annotated[Path, typer.Argument(help="Index written by `simclr embed`.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's need a --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="SIMCLR_TOKEN",
            show_envvar=False,
            metavar="TEXT",
            help="What clients must know; better given as SIMCLR_TOKEN, which `ps` does not show.",
        ),
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="Classifier written by `simclr classify fit`: adds classes.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Exported encoder.  [default: the one in the store]")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Store of the index.  [default: the one it was built from]")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="Requests a second of one client; 0 is no limit.  [default: 0 on this machine, else 100]",
        ),
    ] = None,
) -> None:
    """Serve a search page and an HTTP API. Opens the index again when `simclr embed` replaces it.

    Example: simclr serve out.faiss --classifier out.classifier
    """
    with user_errors("stopped."):
        from simclr.serve.server import serve as run

        run(
            index, host=host, port=port, token=token, store=store, model=model, classifier=classifier,
            rate=rate, note=note,
        )  # fmt: skip
