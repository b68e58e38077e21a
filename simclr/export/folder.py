"""A pretrained encoder -> an export folder: one ONNX file a precision, probe, manifest, verdict.

    encoder.onnx  encoder.fp16.onnx ...   probe.npz   manifest.json   FIDELITY.md

The folder appears whole, after every file was compared with fp32 and fp32 with PyTorch. All but FIDELITY.md, which
holds times, is byte for byte the same when exported again.
"""

import gc
import importlib.metadata
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from simclr.artifacts import EncoderInfo, ModelFile, ModelInfo, file_sha256
from simclr.cpus import available_cpus
from simclr.errors import ConfigError, ExportMismatch
from simclr.export import pictures
from simclr.export.graph import EncoderGraph
from simclr.export.int8 import Target, quantize
from simclr.export.judging import MAX_BATCH, Judge, Progress
from simclr.export.onnx import DTYPE, OPSET, save_onnx
from simclr.export.report import REPORT_FILE, Row, refuse_failed, to_markdown
from simclr.export.source import Channels, open_source
from simclr.runtime.model_files import FILE_OF, MANIFEST_FILE, MODEL_FILE, PROBE_FILE

Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What is exported, and by which images it is judged."""

    precisions: tuple[str, ...] = ("fp32",)
    """Of fp32, fp16, bf16, int8 (for CPUs), int8-trt (for TensorRT); fp32 always comes along."""
    check: str | None = None
    """Source of images whose neighbours are compared; the run's own data if None."""
    calibrate: str | None = None
    """Source of images that decide the ranges of INT8; the run's own data if None."""
    accept: bool = False
    """Keep files usable whose verdict failed."""
    full_range: bool = False
    """INT8 weights of 8 bits in place of 7: for CPUs that have VNNI or AMX; others add them up wrongly."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.precisions if name not in FILE_OF]:
            raise ConfigError(f"precision {unknown[0]!r} is unknown. Use some of: {', '.join(FILE_OF)}.")

    @property
    def in_order(self) -> tuple[str, ...]:
        return tuple(name for name in FILE_OF if name == "fp32" or name in self.precisions)


@dataclass(frozen=True)
class Exported:
    folder: Path
    rows: tuple[Row, ...]
    """One a precision, fp32 first."""

    def refuse_failed(self) -> None:
        """Raises ExportMismatch if a file is marked unusable."""
        refuse_failed(self.folder, self.rows)


def export_model(
    source: str | Path,
    config: ExportConfig = ExportConfig(),
    *,
    out: Path | None = None,
    encoder: str | None = None,
    image_size: int | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    pretrained: bool = True,
    progress: Progress = lambda done, total, words: None,
    note: Note = lambda line: None,
) -> Exported:
    """Export an encoder into a folder (default: RUN/export, or export/NAME).

    `source`: a run folder; `timm:NAME`, with its pretrained weights unless `pretrained` is False; or a weights
    file (.safetensors, torch), for which `encoder` names the timm model. `image_size`, and `mean` and `std` of values in
    0..1, are for the latter two. `note` is told what was taken from where. Raises ExportMismatch if the fp32 file does
    not compute what PyTorch does, and writes nothing then; a lesser precision that keeps too little is written and
    marked unusable.
    """
    torch.set_num_threads(available_cpus())
    model, info, default_out = open_source(
        str(source),
        encoder=encoder,
        image_size=image_size,
        pretrained=pretrained,
        mean=mean,
        std=std,
        note=note,
    )
    run = Path(source) if Path(source).is_dir() else None
    return write_export(model, info, out or default_out, config, run=run, progress=progress, note=note)


def write_export(
    model: nn.Module,
    info: EncoderInfo,
    out: Path,
    config: ExportConfig = ExportConfig(),
    *,
    run: Path | None = None,
    progress: Progress = lambda done, total, words: None,
    note: Note = lambda line: None,
) -> Exported:
    """Export a built encoder, normalised (N, 3, size, size) -> (N, width), under the given description."""
    model.eval()
    with _appearing_whole(out) as folder:
        images = pictures.gallery_images(config.check, run, info.recipe, note=note)
        judge = Judge(model, info, folder, images, progress)
        if {"int8", "int8-trt"} & set(config.precisions):
            calibration = pictures.calibration_images(config.calibrate, run, info.recipe, note=note)
        files, rows = {}, []
        for precision in config.in_order:
            path = folder / FILE_OF[precision]
            if precision in DTYPE:
                _write_typed(model, info, path, precision)
            else:
                target: Target = "cpu" if precision == "int8" else "trt"
                quantize(
                    folder / MODEL_FILE, path, images=calibration, target=target, full_range=config.full_range
                )
            fidelity, probe_cosine, speed = judge(precision)
            if precision == "fp32" and not fidelity.passed:
                raise ExportMismatch(
                    f"{MODEL_FILE}: does not compute what PyTorch does ({fidelity.failed}). Nothing was written; please report "
                    "the encoder and the versions."
                )
            files[path.name] = ModelFile(
                sha256=file_sha256(path),
                size=path.stat().st_size,
                precision=precision,
                opset=OPSET.get(precision, OPSET["fp32"]),
                probe_cosine=probe_cosine,
                fidelity=fidelity,
                accepted=config.accept and not fidelity.passed,
            )
            rows.append(Row(path.name, files[path.name], speed))
        np.savez(folder / PROBE_FILE, images=judge.probe, embeddings=judge.probe_vectors)
        (folder / REPORT_FILE).write_text(to_markdown(info, rows), encoding="utf-8")
        ModelInfo(
            encoder=info,
            files=files,
            probe_size=(folder / PROBE_FILE).stat().st_size,
            probe_sha256=file_sha256(folder / PROBE_FILE),
            max_batch=MAX_BATCH,
            versions={
                name: importlib.metadata.version(name) for name in ("torch", "timm", "onnx", "onnxruntime")
            },
        ).save(folder / MANIFEST_FILE)
    return Exported(out, tuple(rows))


def _write_typed(model: nn.Module, info: EncoderInfo, path: Path, precision: str) -> None:
    graph = EncoderGraph(model, mean=info.recipe.mean, std=info.recipe.std, dtype=DTYPE[precision])
    save_onnx(graph, info, path, precision=precision, max_batch=MAX_BATCH)
    del graph
    gc.collect()  # the exporter's traces hold copies of the weights until then


@contextmanager
def _appearing_whole(out: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `out` at the end, or leaves it as it was."""
    ours = (out / MANIFEST_FILE).exists() and (out / MODEL_FILE).exists()  # a store has a manifest, too
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists and is no export. Use another --out.")
    out = out.resolve()  # `.` has no name
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        if out.exists():
            replaced = out.with_name(f".{out.name}.old")
            shutil.rmtree(replaced, ignore_errors=True)
            out.rename(replaced)
            unfinished.rename(out)
            shutil.rmtree(replaced)
        else:
            unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
