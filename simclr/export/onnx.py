"""A pretrained encoder -> an export folder: encoder.onnx, probe.npz, manifest.json.

Takes a run folder, a weights file or `timm:NAME`. The folder appears whole, after the parity check passed, and is
byte for byte the same when exported again: one file, no external data, no local paths, no dates.
"""

import gc
import importlib.metadata
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

import simclr
from simclr.artifacts import EncoderInfo, ModelFile, ModelInfo, file_sha256
from simclr.cpus import available_cpus
from simclr.errors import ConfigError, ImageError
from simclr.export.graph import EncoderGraph
from simclr.export.parity import check_parity
from simclr.export.source import Channels, open_source
from simclr.images import decode
from simclr.preprocess import Recipe
from simclr.runtime import COSINE_FLOOR, MANIFEST_FILE, MODEL_FILE, PROBE_FILE, open_session
from simclr.sources import list_images, read

OPSET = 18
"""Newer ones put Resize and ReduceMax on the CPU under ONNX Runtime's CUDA provider, and stop static INT8."""
MAX_BATCH = 256
PROBE_IMAGES = 16


def export_model(
    source: str | Path,
    *,
    out: Path | None = None,
    encoder: str | None = None,
    image_size: int | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    pretrained: bool = True,
    check: Path | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Path:
    """Export an encoder; returns the export folder (default: RUN/export, or export/NAME).

    `source`: a run folder; `timm:NAME`, with its pretrained weights unless `pretrained` is False; or a weights
    file (.safetensors, torch), for which `encoder` names the timm model. `image_size`, and `mean` and `std` of values
    in 0..1, are for the latter two. `check`: a folder whose first images join the parity check. `note` is told what
    was taken from a weights file. Raises ExportMismatch if the exported model does not agree, and writes nothing then.
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
    return write_export(model, info, out or default_out, check=check)


def write_export(model: nn.Module, info: EncoderInfo, out: Path, *, check: Path | None = None) -> Path:
    """Export a built encoder, normalised (N, 3, size, size) -> (N, width), under the given description."""
    ours = (out / MANIFEST_FILE).exists() and (out / MODEL_FILE).exists()  # a store has a manifest, too
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists and is no export. Use another --out.")
    images, names = probe_images(info.recipe)
    if check is not None:
        own, own_names = _check_images(check, info.recipe)
        images, names = np.concatenate([images, own]), names + own_names
    expected = _embed(model.eval(), info.recipe, images)
    graph = EncoderGraph(model, mean=info.recipe.mean, std=info.recipe.std)

    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        _save_onnx(graph, info, unfinished / MODEL_FILE)
        del graph
        gc.collect()
        session, _ = open_session(unfinished / MODEL_FILE, threads=available_cpus())
        floor = COSINE_FLOOR["fp32"]
        parity = check_parity(
            lambda pixels: session.run(None, {"images": pixels})[0],
            images,
            expected,
            names=names,
            max_batch=MAX_BATCH,
            floor=floor,
        )
        np.savez(unfinished / PROBE_FILE, images=images[:PROBE_IMAGES], embeddings=expected[:PROBE_IMAGES])
        ModelInfo(
            encoder=info,
            files={
                MODEL_FILE: ModelFile(
                    sha256=file_sha256(unfinished / MODEL_FILE), precision="fp32", opset=OPSET
                )
            },
            probe_sha256=file_sha256(unfinished / PROBE_FILE),
            max_batch=MAX_BATCH,
            parity=parity,
            versions={
                name: importlib.metadata.version(name) for name in ("torch", "timm", "onnx", "onnxruntime")
            },
        ).save(unfinished / MANIFEST_FILE)
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
    return out


def probe_images(recipe: Recipe) -> tuple[NDArray[np.uint8], list[str]]:
    """Sixteen drawn images with structure at every scale, as photos have, always the same; and their names."""
    rng = np.random.Generator(np.random.PCG64(2002_05709))
    size = recipe.size
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)) + 1 / size
    images = []
    for _ in range(PROBE_IMAGES):
        noise = np.fft.rfft2(rng.standard_normal((3, size, size)))
        field = np.fft.irfft2(noise / frequency ** rng.uniform(0.8, 1.6), s=(size, size))
        field = (field - field.mean()) / (field.std() + 1e-9) * rng.uniform(30, 70) + rng.uniform(
            70, 180, (3, 1, 1)
        )
        images.append(np.clip(np.rint(field), 0, 255).astype(np.uint8).transpose(1, 2, 0))
    return np.stack(images), [f"probe image {i}" for i in range(PROBE_IMAGES)]


def _check_images(folder: Path, recipe: Recipe, limit: int = 64) -> tuple[NDArray[np.uint8], list[str]]:
    """The first readable images of a folder. Raises ImageError if there is none."""
    pixels, names = [], []
    for path in list_images(folder):
        try:
            pixels.append(recipe.apply(decode(read(folder, path)).image))
        except ImageError:
            continue  # parity needs some images, not all; embedding reports the bad ones
        names.append(str(folder / path))
        if len(names) == limit:
            break
    if not names:
        raise ImageError(f"{folder}: none of its images can be read.")
    return np.stack(pixels), names


@torch.inference_mode()
def _embed(model: nn.Module, recipe: Recipe, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the encoder itself makes of the images: no part of the exported graph is used, so all of it is checked."""
    mean, std = torch.tensor(recipe.mean), torch.tensor(recipe.std)
    parts = []
    for i in range(0, len(images), 8):
        x = (torch.from_numpy(images[i : i + 8]) / 255 - mean) / std
        parts.append(F.normalize(model(x.permute(0, 3, 1, 2)), dim=1))
    return torch.cat(parts).numpy()


def _save_onnx(graph: EncoderGraph, info: EncoderInfo, path: Path) -> None:
    """One file whose bytes depend on the encoder and the library versions alone."""
    size = info.recipe.size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are not the user's business
        program = torch.onnx.export(
            graph,
            (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["embedding"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}},
        )
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces with local paths
    program.model.metadata_props.update(
        {
            "simclr.identity": info.identity,
            "simclr.encoder": info.name,
            "simclr.version": simclr.__version__,
            "simclr.input": f"images: (batch, {size}, {size}, 3) uint8 RGB, not normalised",
            "simclr.output": f"embedding: (batch, {info.width}) float32, unit length",
        }
    )
    program.save(str(path), external_data=False)
    onnx.checker.check_model(str(path))
