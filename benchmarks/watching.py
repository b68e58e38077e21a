"""A verb of ours as a user runs it, and the memory it takes while it runs, from /proc. Not part of the package."""

import subprocess
import sys
import time
from pathlib import Path

EVERY = 0.05
"""Seconds between looks."""


def watched(words: list[str]) -> tuple[float, float, float]:
    """Seconds of `simclr WORDS`; its largest resident set in MB, and how much of it was its own at most: pages of files that it has mapped,
    which the system takes back when it needs them, are not. Both above those of an empty interpreter."""
    return watched_program(["-m", "simclr", *words])


def watched_program(words: list[str]) -> tuple[float, float, float]:
    """The same of any words to a Python interpreter."""
    seconds, peak, own = _run(words)
    _, empty, empty_own = _run(["-c", "import time; time.sleep(0.3)"])
    return seconds, peak - empty, own - empty_own


def table(commands: list[list[str]], *, store: Path) -> tuple[str, dict[str, dict[str, float]]]:
    """Each of these verbs with the store, once; and the figures by command."""
    lines, figures = ["| command | seconds | extra MB | its own |", "|---|---|---|---|"], {}
    for verb, *options in commands:
        seconds, peak, own = watched([verb, str(store), *options])
        shown = " ".join(["simclr", verb, store.name, *(Path(word).name for word in options)])
        figures[shown] = {"seconds": seconds, "extra MB": peak, "its own": own}
        lines.append(f"| `{shown}` | {seconds:.0f} | {peak:,.0f} | {own:,.0f} |")
        print(lines[-1], file=sys.stderr)
    text = "\n".join(lines) + (
        "\n\nMeasured once each; above an empty interpreter, looked at every 50 ms. What is not its own are pages of the store and of an index, mapped, "
        "which the system takes back when it needs them."
    )
    return text, figures


def _run(words: list[str]) -> tuple[float, float, float]:
    started, peak, own = time.perf_counter(), 0, 0
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            continue  # it has just ended
        sizes = {line.split(":")[0]: line.split() for line in status.splitlines()}
        if "RssAnon" in sizes:  # no more of an ended one
            peak, own = max(peak, int(sizes["VmHWM"][1])), max(own, int(sizes["RssAnon"][1]))
        time.sleep(EVERY)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: failed")
    return time.perf_counter() - started, peak * 1024 / 1e6, own * 1024 / 1e6
