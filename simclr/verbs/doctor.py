"""The verb `doctor`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from simclr.console import note, user_errors


def doctor(
    gradients: Annotated[
        bool,
        typer.Option(
            "--gradients",
            help="Prove instead that processes and chunks change no gradient; half a minute.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Say what this machine can do, and the command that adds the rest.

    Example: simclr doctor --gradients
    """
    with user_errors():
        from simclr.doctor import Verdict, examine, prove_gradients

        if gradients:
            note("training a tiny encoder in float64, whole and divided in every way: about half a minute")
        for part in prove_gradients() if gradients else examine():
            line = {"kind": type(part).__name__.lower(), **asdict(part)}
            typer.echo(json.dumps(line, ensure_ascii=False) if as_json else part.words)
            if isinstance(part, Verdict) and not part.passed:
                note(
                    f"error: the gradient proof failed: {part.words}. Do not train with --processes or --chunk here; report the lines above."
                )
                raise typer.Exit(3)
