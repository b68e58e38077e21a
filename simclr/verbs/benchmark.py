"""The verb `benchmark`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from simclr.console import user_errors
from simclr.errors import ConfigError


def benchmark(
    model: Annotated[Path, typer.Argument(help="Export folder, or the run folder that holds one.")],
    backend: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Some of trt, ort-trt, ort-cuda, ort-cpu.  [default: what may start here]"
        ),
    ] = "",
    precision: Annotated[
        str, typer.Option(metavar="LIST", help="Some of the exported.  [default: all that the backend runs]")
    ] = "",
    batch: Annotated[str, typer.Option(metavar="LIST", help="Images a call.")] = "1,8,32,256",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Measure how fast an export is here: backend, precision and batch size, with memory and fidelity.

    Example: simclr benchmark runs/first --batch 1,8,32
    """
    with user_errors():
        from simclr import benchmark as measuring

        if not all(word.isdigit() and int(word) for word in batch.split(",")):
            raise ConfigError(f"--batch {batch!r}: give whole numbers with commas between, such as 1,8,32.")
        measured = False
        rows = measuring.benchmark(
            model,
            backends=backend.replace(" ", "").split(",") if backend else (),
            precisions=precision.replace(" ", "").split(",") if precision else (),
            batches=[int(word) for word in batch.split(",")],
        )
        for number, row in enumerate(rows):
            if number == 0 and not as_json:
                typer.echo(measuring.HEAD)
            line = {"kind": type(row).__name__.lower(), **asdict(row)}
            typer.echo(json.dumps(line, ensure_ascii=False) if as_json else row.words)
            measured |= isinstance(row, measuring.Speed)
        if not measured:
            raise typer.Exit(1)
