"""Every check that needs a GPU, one after the other, with a dated report: `make gpu`.

Each runs in a process of its own and the report is rewritten after each number, so that what was found stays whatever comes
next. `--only NAME` runs some again and leaves the others' results in the report. Exit code 1 if a check failed; a goal that
was missed is a result.
"""

import argparse
import datetime
import sys
import tempfile
import time
from pathlib import Path

from gpu_checks.child import describe, run_check
from gpu_checks.report import Report, slug
from gpu_checks.rows import Place, Row, Skipped

CHECKS = {
    "limits": "bytes copied and multiply-adds a second",
    "step": "a step of ResNet-50 at 224 px against the baseline",
    "big_batch": "batch 4096 on one card",
    "loss": "NT-Xent alone, up to B 65,536",
    "waits": "no host synchronisation in a step",
    "cifar": "ResNet-18 at 32 px from a cache on the device",
    "compiled": "same gradients compiled, and compiled once",
    "inference": "an exported ResNet-50 on every backend against eager and compiled torch",
}


def main() -> int:
    options = _options()
    place = Place(options.device, options.quick, options.seed, options.cifar)
    machine = describe(place)
    if isinstance(machine, str):
        print(machine, file=sys.stderr)
        return 2
    now = datetime.datetime.now()
    head = {**machine, "seed": place.seed, "sizes": "quick: not for comparison" if place.quick else "full"}
    device = "cpu" if place.device == "cpu" else slug(machine["device"])
    report = Report(_folder(options) / f"gpu_{device}_{now:%Y-%m}", head, place)
    if options.only:
        report.keep_others()
    shown = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    command = " ".join(["python", "benchmarks/gpu.py", *shown])
    names = [name for name in CHECKS if not options.only or name in options.only]
    for name in names:
        print(f"{name}: {CHECKS[name]}", file=sys.stderr)
        started = time.monotonic()
        report.begin(name, date=f"{datetime.datetime.now():%Y-%m-%d %H:%M}", command=command)
        for told in run_check(name, place, minutes=options.minutes):
            report.add(name, told)
            print(f"  {_words(told, place)}", file=sys.stderr)
        report.end(name, seconds=time.monotonic() - started)
    print(f"{report.path}.md")
    return 1 if set(report.failed) & set(names) else 0


def _words(told: Row | Skipped | str, place: Place) -> str:
    if isinstance(told, Skipped):
        return f"skipped: {told}"
    if isinstance(told, str):
        return f"FAILED: {told}"
    row = told.as_json(place)
    value = row["note"] if row["value"] is None else f"{row['value']:.4g} {row['unit']}"
    goal = f", {row['goal']}: {row['verdict']}" if told.goal else ""
    return f"{told.name}: {value}{goal}"


def _folder(options: argparse.Namespace) -> Path:
    """Figures of tiny sizes do not belong beside those that count."""
    if options.out:
        return Path(options.out)
    return Path(tempfile.mkdtemp(prefix="simclr-gpu-")) if options.quick else Path(__file__).parent


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="GPU checks of pretraining and inference, with a dated report.",
        epilog="checks: " + "; ".join(f"{name}, {what}" for name, what in CHECKS.items()),
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tries the script, measures nothing")
    parser.add_argument("--only", action="append", choices=list(CHECKS), help="this check; may be repeated")
    parser.add_argument("--out", help="folder of the report [benchmarks/; with --quick a temporary one]")
    parser.add_argument("--cifar", help="class folders or an .npz of JPEGs: also a short real run on them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20, help="at most for one check [20]")
    options = parser.parse_args()
    if options.device == "cpu" and not options.quick:
        parser.error("full sizes would take a CPU days, and more memory than it has. Add --quick.")
    return options


if __name__ == "__main__":
    sys.exit(main())
