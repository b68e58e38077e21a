"""Embedding with an exported ResNet-50: every backend that starts here against eager and compiled torch, in one run.

All take uint8 from the host and give float32 to the host, so that copying counts for each. A backend that does not start is a
row with the reason.
"""

import tempfile
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gpu_checks.rows import Goal, Place, Row, Skipped
from gpu_checks.timing import free, seconds
from simclr.encoder import build_encoder, default_recipe
from simclr.errors import SimclrError
from simclr.export import ExportConfig, export_model
from simclr.export.graph import EncoderGraph
from simclr.runtime import Encoder

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def check(place: Place) -> Iterator[Row]:
    name, size, batches = ("test_resnet", 32, (1, 8)) if place.quick else ("resnet50", 224, (1, 32, 256))
    rng = np.random.default_rng(place.seed)
    pixels = {batch: rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8) for batch in batches}
    with tempfile.TemporaryDirectory() as work:
        try:
            config = ExportConfig(precisions=("fp16", "bf16"))
            export_model(f"timm:{name}", config, out=Path(work) / "export", image_size=size, pretrained=False)
        except ModuleNotFoundError as exc:
            raise Skipped(f"{exc.name} is not installed") from exc
        eager = _eager(place, name, size)
        slow = yield from _rates(place, "torch eager, bf16", eager, pixels)
        best = dict.fromkeys(batches, 0.0)
        free()
        compiled = _eager(place, name, size, compiled=True)
        yield from _rates(place, "torch compiled, bf16", compiled, pixels)
        for backend in ("ort-cpu",) if place.device == "cpu" else ("ort-cuda", "ort-trt", "trt"):
            for precision in ("fp32",) if place.device == "cpu" else ("fp32", "fp16", "bf16"):
                try:
                    encoder = Encoder.open(Path(work) / "export", backend=backend, precision=precision)
                except SimclrError as exc:
                    yield Row(f"{backend}, {precision}", (), "images/s", note=str(exc))
                    continue
                found = yield from _rates(place, f"{backend}, {precision}", encoder, pixels)
                best = {batch: max(best[batch], found[batch]) for batch in batches}
    for batch in batches:
        times = (best[batch] / slow[batch],) if best[batch] else ()
        yield Row(
            f"batch {batch}: best backend against torch eager, bf16", times, "times", Goal("at least", 2)
        )


def _eager(place: Place, name: str, size: int, *, compiled: bool = False) -> Embed:
    recipe = default_recipe(name, image_size=size)
    graph = EncoderGraph(build_encoder(name), mean=recipe.mean, std=recipe.std, dtype=torch.bfloat16)
    graph = graph.to(place.device).to(memory_format=torch.channels_last)
    run = torch.compile(graph, backend=place.backend) if compiled else graph

    @torch.inference_mode()
    def embed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = run(torch.from_numpy(pixels).to(place.device)).cpu().numpy()
        return vectors

    return embed


def _rates(
    place: Place, name: str, embed: Embed, pixels: dict[int, NDArray[np.uint8]]
) -> Generator[Row, None, dict[int, float]]:
    """A row a batch size; returns images a second, the median, by batch size."""
    found = {}
    for batch, images in pixels.items():
        embed(images)
        times = 1 if place.quick else max(3, 512 // batch)
        rates = [
            batch / seconds(partial(embed, images), place.device, times=times) for _ in range(place.rounds)
        ]
        yield Row(f"batch {batch}, {name}", tuple(rates), "images/s")
        found[batch] = sorted(rates)[len(rates) // 2]
    return found
