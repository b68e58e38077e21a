"""What a run of `simclr embed` did, or would do, as lines for a person."""

from pathlib import Path

from simclr.embed.forecast import Forecast
from simclr.embed.store import SKIPPED_FILE
from simclr.embed.sync import Report

_REASONS = 4
"""Kinds of reason that are named; the file has all."""


def of_report(report: Report, store: Path) -> str:
    counts = {
        "added": report.added,
        "changed": report.changed,
        "moved": report.moved,
        "copied": report.copied,
        "unchanged": report.kept,
        "dropped": report.dropped,
        "skipped": report.skipped,
    }
    lines = [f"{store}: {report.there:,} images of these sources"]
    lines += [f"  {name:<10}{count:>10,}" for name, count in counts.items()]
    if report.skipped:
        named = sorted(report.reasons.items(), key=lambda item: -item[1])
        reasons = [f"{reason} {count:,}" for reason, count in named[:_REASONS]]
        if len(named) > _REASONS:
            reasons.append(f"other {sum(count for _, count in named[_REASONS:]):,}")
        lines[-1] += f"   {', '.join(reasons)}; each is in {store / SKIPPED_FILE}"
    if report.embedded and report.seconds:
        rate = f"  {report.embedded / report.seconds:,.1f} images/s in {_time(report.seconds)}"
        lines.append(rate + (f", bound by {report.bound}" if report.bound else ""))
    return "\n".join(lines)


def of_forecast(forecast: Forecast, store: Path) -> str:
    lines = [
        f"{store}: would become",
        f"  {'new':<10}{forecast.new:>10,}   to embed, but for those whose content the store has: moved and copied files",
        f"  {'changed':<10}{forecast.changed:>10,}",
        f"  {'unchanged':<10}{forecast.kept:>10,}",
        f"  {'gone':<10}{forecast.gone:>10,}   to drop, but for those that turn up as moved",
        f"  {'skipped':<10}{forecast.skipped:>10,}   by name and kind; damaged ones show when they are decoded",
    ]
    if forecast.images_per_second and forecast.seconds is not None:
        lines.append(
            f"  time     {_time(forecast.seconds):>11}   at {forecast.images_per_second:,.1f} images/s, bound by {forecast.bound}, "
            f"found by {forecast.sampled:,} images"
        )
    elif forecast.sampled:
        lines.append("  time                 too few images to tell")
    lines.append(f"  disk     {forecast.disk_bytes / 1e6:>8,.1f} MB   more")
    lines.append(f"  memory   {forecast.memory_bytes / 1e6:>8,.0f} MB")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
