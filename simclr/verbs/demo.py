"""The verb `demo`."""

from pathlib import Path
from typing import Annotated

import typer

from simclr.console import note, user_errors


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for images, run, index and gallery; replaced if a demo made it.")
    ] = Path("demo"),
    seed: Annotated[
        int, typer.Option(min=0, help="Decides the images, the initial weights and the views.")
    ] = 0,
) -> None:
    """Run the whole path on small images it draws itself.

    Example: simclr demo --out demo
    """
    with user_errors():
        from simclr.demo import run_demo

        run_demo(out, seed=seed, say=typer.echo, note=note)
