"""A training step of ResNet-50 at 224 pixels, in views a second: the baseline, and ours with one thing after the other.

Contenders run in turn in one process. "Complete" is what a run does between two batches of crops: views made on the device,
gradients, LARS, every reported number.
"""

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

from gpu_checks.limits import matmul_tflops
from gpu_checks.rows import Goal, Place, Row
from gpu_checks.timing import free, peak_bytes, seconds, training_flops
from gpu_checks.workload import Baseline, Ours, ReadyViews, build, fits, random_crops

BASELINE, COMPLETE = "baseline: eager, plain layout, views ready", "ours complete: views made on the device"
LAYOUT, COMPILED = "ours eager, channels last, views ready", "ours compiled, views ready"


def check(place: Place) -> Iterator[Row]:
    encoder, size = ("test_resnet", 32) if place.quick else ("resnet50", 224)
    flops = training_flops(build(place, encoder, size), size)
    limit = 1e12 * median(matmul_tflops(place)) / flops
    best, best_ratio = 0.0, 0.0
    for batch in (8, 16) if place.quick else (256, 512, 1024):
        free()
        rates, peaks = _measure(place, encoder, size, batch)
        for name, values in rates.items():
            if not values:
                yield Row(f"batch {batch}, {name}", (), "views/s", note="does not fit into memory")
                continue
            share = f"{median(values) / limit:.0%} of the matmul rate at {flops / 1e9:.3g} GFLOP a view"
            yield Row(f"batch {batch}, {name}", values, "views/s", limit=share)
            note = "with the weights of the other three"
            yield Row(f"batch {batch}, {name}: peak", (peaks[name] / 1e9,), "GB", note=note)
        best = max(best, median(rates[COMPLETE] or (0.0,)))
        if rates[BASELINE]:
            for name in (LAYOUT, COMPILED, COMPLETE):
                # of the same round, so that what slows the machine down for a while hits both
                ratios = tuple(a / b for a, b in zip(rates[name], rates[BASELINE], strict=False))
                yield Row(f"batch {batch}, {name}: against the baseline", ratios, "x")
            best_ratio = max(best_ratio, median(ratios or (0.0,)))
    yield Row("complete, best batch", (best,), "views/s", Goal("at least", 4000))
    yield Row("complete against the baseline, best batch", (best_ratio,), "x", Goal("at least", 1.5))


def _measure(
    place: Place, encoder: str, size: int, batch: int
) -> tuple[dict[str, tuple[float, ...]], dict[str, int]]:
    """Views a second of each round, and bytes at most, by contender. One that does not fit has no rounds."""
    crops = random_crops(place, batch, size)
    baseline = Baseline(place, encoder, size, batch)
    ready = ReadyViews(baseline.views)
    eager = Ours(place, encoder, size, batch, compiled=False)
    compiled = Ours(place, encoder, size, batch, compiled=True)
    complete = Ours(place, encoder, size, batch, compiled=True)
    contenders: dict[str, Callable[[], None]] = {
        BASELINE: baseline.step,
        LAYOUT: partial(eager.step, ready),
        COMPILED: partial(compiled.step, ready),
        COMPLETE: partial(complete.whole_step, crops, batch),
    }
    rates: dict[str, tuple[float, ...]] = {}
    peaks = {}
    fitting = {}
    for name, step in contenders.items():
        rates[name] = ()
        if fits(lambda step=step: [step() for _ in range(3)]):  # compiles, and lets cudnn choose
            fitting[name] = step
            peaks[name] = peak_bytes(step, place.device)
    times = 1 if place.quick else max(3, 4096 // batch)
    for _ in range(place.rounds):
        for name, step in fitting.items():
            rates[name] += (2 * batch / seconds(step, place.device, times=times),)
    return rates, peaks
