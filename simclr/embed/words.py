"""What a run of `simclr embed` did, or would do, and what an index is, as lines for a person."""

from pathlib import Path

from simclr.artifacts import IndexInfo, TrainedInfo
from simclr.embed.carry_out import Report
from simclr.embed.forecast import Forecast
from simclr.embed.index.budgets import in_bytes
from simclr.embed.store import SKIPPED_FILE

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


def of_index(info: IndexInfo, path: Path) -> str:
    """One line."""
    measured = info.measured
    return (
        f"{path}: {info.size:,} vectors, {info.factory}, recall@10 {measured['recall@10']:.3f}, {measured['latency_ms']:.2f} ms a query, "
        f"{measured['queries_per_second']:,.0f} a second in batches, {in_bytes(measured['bytes'])}"
    )


def of_choice(info: IndexInfo | TrainedInfo) -> str:
    """The table of what was considered, if anything was, and the reason of the choice."""
    lines = []
    if info.trials:
        lines = [
            f"{'index type':<22}{'recall@10':>10}{'queries/s':>11}{'latency':>10}{'memory':>10}{'build':>12}  verdict"
        ]
        lines += [
            f"{trial.factory:<22}{_or_dash(trial.recall, '.3f'):>10}{_or_dash(trial.queries_per_second, ',.0f'):>11}"
            f"{_or_dash(trial.latency, '.2f', ' ms'):>10}{in_bytes(trial.memory):>10}"
            f"{'-' if trial.build_seconds is None else _time(trial.build_seconds):>12}  {trial.verdict}"
            for trial in info.trials
        ]
        lines.append("foretold for all vectors by trials with a sample; the index built is measured itself:")
    lines.append(f"{info.factory}: {info.reason}")
    return "\n".join(lines)


def of_details(info: IndexInfo) -> str:
    """What its sidecar says of an index, beside the line and the table."""
    measured, wish = info.measured, info.wish
    asked = {name: f"{value:g}" for name, value in info.search_parameters.items()}
    dead = f", {info.buried:,} dead entries wait for the next building" if info.buried else ""
    memory = "half of the free memory" if wish.memory is None else in_bytes(wish.memory)
    return "\n".join(
        [
            f"  store      {info.store}, generation {info.generation}, encoder {info.identity[:8]}",
            f"  holds      {info.size:,} vectors of {info.width} numbers{dead}",
            f"  asked for  {wish.index_type}, recall {wish.recall:g}, {wish.latency:g} ms, {memory}",
            f"  searched   with {', '.join(f'{name} {value}' for name, value in asked.items())}",
            f"  measured   {measured['how']}",
            f"             on {measured['threads']} threads with {measured['vectors']:,} vectors; {measured['changed_since']:,} added or dropped since",
        ]
    )


def _or_dash(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
