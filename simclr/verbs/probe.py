"""The verb `probe`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from simclr import progress
from simclr.console import note, user_errors
from simclr.errors import ConfigError


def probe(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN]",
            help="Run folder, or any with encoder.safetensors and encoder.json.  [default: the newest run]",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of labelled images: class folders, perhaps below train/ and test/ or val/, or a labels.csv."
        ),
    ] = None,
    fine_tune: Annotated[
        bool,
        typer.Option("--fine-tune", help="Train all weights, from the encoder's; it stays as it is in RUN."),
    ] = False,
    labels: Annotated[
        int, typer.Option(metavar="1|10|100", help="Percent of the labels to train with.")
    ] = 100,
    epochs: Annotated[
        int | None, typer.Option(help="[default: 90; --fine-tune 30, and 60 with 1 % of the labels]")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="[default: 4096, or the whole set]")] = None,
    seed: Annotated[int, typer.Option(help="Decides which labels, what is held out, order and crops.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode.  [default: one a core, at most 16]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: result and settings.")] = False,
) -> None:
    """Measure an encoder as the paper does: a linear classifier on its frozen features, on labelled images.

    Example: simclr probe runs/first --data labelled/
    """
    with user_errors("stopped: nothing was written."):
        from simclr.pretrain import probe as probing
        from simclr.pretrain.run_folder import newest_run

        if data is None:
            raise ConfigError(
                "--data is missing. Give a folder of labelled images: simclr probe --data FOLDER"
            )
        if run is None:
            if (run := newest_run()) is None:
                raise ConfigError(
                    "runs/: no run in it. Start one with `simclr pretrain --data FOLDER`, or name what to probe."
                )
            note(f"probing {run}")
        config = probing.ProbeConfig(
            data=data,
            fine_tune=fine_tune,
            labels=labels,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            device=device,
            workers=workers,
        )
        with progress.show("probe") as update:
            result = probing.probe(run, config, progress=update, note=note)
    typer.echo(json.dumps(asdict(result), ensure_ascii=False) if as_json else result.words)
    note(f"kept in {run / probing.PROBE_FOLDER / config.name}.json")
