"""The verb `export`."""

from pathlib import Path
from typing import Annotated

import typer

from simclr import progress
from simclr.console import note, user_errors
from simclr.errors import ConfigError


def export(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|timm:NAME|WEIGHTS]",
            help="Run folder, timm model or weights file.  [default: the newest run]",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Export folder.  [default: RUN/export]")] = None,
    encoder: Annotated[str | None, typer.Option(help="timm model name that a weights file is for.")] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size", "--size", min=1, help="Side in pixels, for timm models and weights files."
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B", help="Mean of each channel, in 0..1, likewise.  [default: what timm documents]"
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Standard deviation of each channel, likewise.")
    ] = None,
    no_pretrained: Annotated[
        bool, typer.Option("--no-pretrained", help="timm: random weights, the same every time.")
    ] = False,
    precision: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Some of fp32, fp16, bf16, int8 (for CPUs), int8-trt (for TensorRT), with commas between. fp32 always comes "
            "along.  [default: fp32; with --trt also fp16]",
        ),
    ] = "",
    check: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Images whose neighbours are compared, at least 256.  [default: the run's own data]",
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="A few hundred images that decide the ranges of INT8.  [default: the run's own data]",
        ),
    ] = None,
    full_range: Annotated[
        bool,
        typer.Option(
            "--full-range",
            help="int8: 8 bits for weights in place of 7, for CPUs that have VNNI or AMX; others add them up wrongly.",
        ),
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Keep files usable that keep too few neighbours.")
    ] = False,
    trt: Annotated[
        bool,
        typer.Option(
            "--trt",
            help="Also build TensorRT plans, for the GPU of this machine; SOURCE may be an export folder then.",
        ),
    ] = False,
    parse_only: Annotated[
        bool,
        typer.Option(
            "--parse-only",
            help="With --trt: only ask NVIDIA's parser and builder, through TensorRT-RTX; needs no GPU.",
        ),
    ] = False,
) -> None:
    """Export an encoder to ONNX and TensorRT, and prove what each precision keeps of its neighbours.

    Example: simclr export runs/first --precision fp32,fp16,int8 --check photos/
    """
    with user_errors():
        from simclr.export.report import to_lines
        from simclr.runtime.model_files import MANIFEST_FILE

        if parse_only and not trt:
            raise ConfigError("--parse-only goes with --trt.")
        names = precision.replace(" ", "").split(",") if precision else []
        names += ["int8-trt"] if trt and "int8" in names else []
        if source is None:
            from simclr.pretrain.run_folder import newest_run

            newest = newest_run()
            if newest is None:
                raise ConfigError(
                    "runs/: no run in it. Start one with `simclr pretrain --data FOLDER`, or name what to export."
                )
            source = str(newest)
            note(f"exporting {source}")
        folder, exported = Path(source), None
        if not (trt and (folder / MANIFEST_FILE).exists()):
            from simclr.export import ExportConfig, export_model
            from simclr.export.source import parse_channels

            config = ExportConfig(
                precisions=tuple(names or (["fp16"] if trt else [])),
                check=check,
                calibrate=calibrate,
                accept=accept,
                full_range=full_range,
            )
            with progress.show("export") as update:
                exported = export_model(
                    source,
                    config,
                    out=out,
                    encoder=encoder,
                    image_size=image_size,
                    mean=parse_channels("--mean", mean) if mean is not None else None,
                    std=parse_channels("--std", std) if std is not None else None,
                    pretrained=not no_pretrained,
                    progress=update,
                    note=note,
                )
            folder = exported.folder
            for row in exported.rows:
                typer.echo(folder / row.name)
            for line in to_lines(exported.rows):
                typer.echo(line)
        if parse_only:
            from simclr.export.trt_check import judge_all

            for judgement in judge_all(folder, names):
                typer.echo(judgement.words)
        elif trt:
            from simclr.export.plans import build_plans
            from simclr.export.report import refuse_failed

            run = Path(source) if exported and Path(source).is_dir() else None
            rows = build_plans(folder, names, check=check, run=run, accept=accept, note=note)
            for line in to_lines(rows):
                typer.echo(line)
            refuse_failed(folder, rows)
        if exported:
            exported.refuse_failed()
    note(f"next: simclr embed PHOTOS --model {folder} --index out.faiss")
