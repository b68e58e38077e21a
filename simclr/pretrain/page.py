"""The page that shows a run: state, alarms, newest numbers with what to read them against, curves, settings. Pure.

Takes numbers, gives one self-contained HTML text, readable in light and dark; writes nothing.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from simclr.pretrain.curves import Curve, Curves
from simclr.pretrain.plot import Level, Line, Panel, svg

_RELOAD = 30
"""Seconds after which a live page loads itself again."""
_ALARMS = 20
"""Newest alarms on the page; all are in notes.jsonl."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">{reload}
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1d2430; --soft: #667085; --edge: #e4e7ec; --card: #fff; --back: #f7f8fa;
  --tone1: #2563eb; --tone2: #d9480f; --tone3: #0f9d6b; --alarm: #b42318; --alarm-back: #fef3f2; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6e9ef; --soft: #98a2b3; --edge: #2c3340; --card: #171b22; --back: #0f1217;
  --tone1: #6ea8fe; --tone2: #ff9d5c; --tone3: #4cd7a1; --alarm: #ff8d80; --alarm-back: #2a1614; }} }}
* {{ box-sizing: border-box; }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 84rem; margin: 0 auto;
  padding: 1.5rem 1rem 3rem; }}
h1 {{ font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.05rem; margin: 2rem 0 .6rem; }}
header {{ display: flex; flex-wrap: wrap; gap: .2rem 1rem; align-items: baseline; justify-content: space-between; }}
header p, .why {{ color: var(--soft); }}
p {{ margin: 0; }}
progress {{ width: 100%; height: .5rem; margin: .8rem 0 1rem; accent-color: var(--tone1); }}
.card, .tiles div, figure {{ background: var(--card); border: 1px solid var(--edge); border-radius: .6rem; }}
.tiles, .panels {{ display: grid; gap: .75rem; }}
.tiles {{ grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr)); }}
.tiles div {{ padding: .6rem .9rem; }}
.tiles span {{ color: var(--soft); font-size: .8rem; display: block; }}
.tiles b {{ font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.alarms {{ list-style: none; margin: .9rem 0 0; padding: .7rem 1rem; border-radius: .6rem; color: var(--alarm);
  background: var(--alarm-back); border: 1px solid color-mix(in srgb, var(--alarm) 35%, transparent); overflow-wrap: anywhere; }}
.card {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; }}
td {{ padding: .32rem .9rem; border-top: 1px solid var(--edge); }}
tr:first-child td {{ border-top: 0; }}
td:nth-child(2) {{ text-align: right; font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.panels {{ grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); }}
figure {{ margin: 0; padding: .6rem .6rem .3rem; }}
figcaption {{ font-weight: 600; padding: 0 .3rem .3rem; display: flex; gap: .9rem; flex-wrap: wrap; }}
figcaption span {{ font-weight: 400; font-size: .82rem; color: var(--soft); }}
figcaption i {{ display: inline-block; width: .9rem; height: .2rem; border-radius: 1px; vertical-align: middle; margin-right: .35rem; }}
svg {{ display: block; width: 100%; height: auto; overflow: hidden; }}
.tick {{ font: 11px system-ui, sans-serif; fill: var(--soft); }}
.over {{ paint-order: stroke; stroke: var(--card); stroke-width: 2.5px; stroke-opacity: .7; }}
.grid {{ stroke: var(--edge); fill: none; }}
.level {{ stroke: var(--soft); stroke-dasharray: 4 3; fill: none; }}
polyline {{ fill: none; stroke-linejoin: round; }}
.raw {{ stroke-width: .7; opacity: .22; }}
.line {{ stroke-width: 1.8; }}
{tones}
pre {{ margin: 0; padding: .9rem; overflow: auto; font-size: .82rem; }}
</style>
</head>
<body>
<header><h1>{title}</h1><p>{written}</p></header>
<progress max="{total}" value="{done}"></progress>
<div class="tiles">{tiles}</div>
{alarms}<h2>Now</h2>
<div class="card"><table>{rows}</table></div>
<h2>Curves over steps</h2>
<div class="panels">{panels}</div>
<h2>Settings</h2>
<div class="card"><pre>{settings}</pre></div>
</body>
</html>
"""
_TONES = "\n".join(
    f"polyline.tone{i} {{ stroke: var(--tone{i}); }} circle.tone{i} {{ fill: var(--tone{i}); }} i.tone{i} {{ background: var(--tone{i}); }}"
    for i in (1, 2, 3)
)


@dataclass(frozen=True, kw_only=True)
class About:
    """What does not change during a run."""

    title: str
    settings: str
    """TOML."""
    total_steps: int
    batch_size: int
    """Images a step, over all processes."""
    dimensions: int | None = None
    """Of a projection."""
    raw_pixels: float | None = None
    """kNN accuracy of plain pixels on the same images, which features must beat."""


def page(
    about: About, curves: Curves, alarms: Sequence[tuple[int, str]], *, now: datetime, live: bool
) -> str:
    """The HTML text. `alarms`: (step, words), oldest first. `live`: the page loads itself again."""
    return _PAGE.format(
        title=html.escape(about.title),
        reload=f'\n<meta http-equiv="refresh" content="{_RELOAD}">' if live else "",
        written=f"{_state(about, curves, live)} · written {now:%Y-%m-%d %H:%M:%S %Z}".rstrip(),
        total=about.total_steps,
        done=curves.steps,
        tiles="".join(
            f"<div><span>{name}</span><b>{value}</b></div>" for name, value in _tiles(about, curves)
        ),
        alarms=_alarms(alarms),
        rows="".join(
            f'<tr><td>{name}</td><td>{value}</td><td class="why">{why}</td></tr>'
            for name, value, why in _rows(about, curves)
        ),
        panels="".join(_figure(panel, curves.steps) for panel in _panels(about, curves.by_name)),
        settings=html.escape(about.settings.strip()),
        tones=_TONES,
    )


def _state(about: About, curves: Curves, live: bool) -> str:
    if curves.steps >= about.total_steps:
        return "finished"
    return f"running, loads again every {_RELOAD} s" if live else "stopped"


def _tiles(about: About, curves: Curves) -> list[tuple[str, str]]:
    now, total = curves.newest(), about.total_steps
    done = curves.steps / total if total else 1.0
    found = [(f"step, {math.floor(100 * done)}% done", f"{curves.steps:,} of {total:,}")]
    if now.get("seconds", 0) > 0:
        found.append(("speed", f"{about.batch_size / now['seconds']:,.1f} images/s"))
        if curves.steps < total:
            found.append(("time left at this speed", duration((total - curves.steps) * now["seconds"])))
        if "waited" in now:
            found.append(
                ("waiting for images", f"{min(1.0, now['waited'] / now['seconds']):.0%} of the time")
            )
    if "memory" in now:
        found.append(("most memory held", size(now["memory"])))
    if now.get("skipped"):
        found.append(("images skipped", f"{now['skipped']:,.0f}"))
    return found


def _rows(about: About, curves: Curves) -> list[tuple[str, str, str]]:
    """(name, newest value, what to read it against); of numbers that the run has."""
    now, images, width = curves.newest(), about.batch_size, about.dimensions
    raw = "" if about.raw_pixels is None else f"plain pixels have {about.raw_pixels:.1%}"
    even = f"about {8 / width - 4:.2f}" if width else "about -4"
    rows = (
        ("loss", "loss", ".3f", f"{math.log(2 * images - 1):.3f} by chance, log(2B − 1)"),
        ("top1", "contrastive top-1", ".1%", f"{short_percent(1 / images)} by chance, 1/B"),
        ("entropy", "contrastive entropy", ".3f", f"{math.log(images):.3f} if all images look alike, log B"),
        ("knn", "kNN accuracy", ".1%", raw),
        ("probe", "probe accuracy", ".1%", "linear head trained beside, on its own batch"),
        (
            "probe_eval",
            "probe accuracy, held out",
            ".1%",
            "linear head trained beside, on the labelled images",
        ),
        ("alignment", "alignment", ".3f", "0 if the two views of an image coincide, 2 if they are unrelated"),
        ("uniformity", "uniformity", ".3f", f"0 if all projections are alike, {even} if evenly scattered"),
        ("rank", "rank", ".1f", "dimensions that projections use" + (f", of {width}" if width else "")),
        ("spread", "spread", ".3f", "1 if evenly scattered, 0 if one point"),
        ("grad_norm", "gradient norm", ".3g", "over all weights"),
        ("lr", "learning rate", ".4g", ""),
    )
    return [(label, f"{now[name]:{form}}", why) for name, label, form, why in rows if name in now]


def _panels(about: About, curves: dict[str, Curve]) -> list[Panel]:
    """Those that have data."""
    images = about.batch_size
    raw = () if about.raw_pixels is None else (Level(about.raw_pixels, "kNN of plain pixels", always=True),)

    def lines(*names: tuple[str, str], scale: float = 1.0) -> tuple[Line, ...]:
        return tuple(Line(label, curves[name], scale) for name, label in names if name in curves)

    found = (
        Panel("Loss", lines(("loss", "loss")), (Level(math.log(2 * images - 1), "chance"),)),
        Panel("Contrastive top-1", lines(("top1", "top-1")), (Level(1 / images, "chance"),), low=0, high=1),
        Panel(
            "Contrastive entropy", lines(("entropy", "entropy")), (Level(math.log(images), "log B"),), low=0
        ),
        Panel(
            "Accuracy",
            lines(("knn", "kNN"), ("probe", "probe"), ("probe_eval", "held out")),
            raw,
        ),
        Panel("Geometry", lines(("alignment", "alignment"), ("uniformity", "uniformity"))),
        Panel(
            "Rank of the projections",
            lines(("rank", "rank")),
            (Level(about.dimensions, "all dimensions"),) if about.dimensions else (),
            low=0,
        ),
        Panel("Spread of the projections", lines(("spread", "spread")), (Level(1, "even"),), low=0),
        Panel("Gradient norm", lines(("grad_norm", "norm")), log=True),
        Panel("Learning rate", lines(("lr", "learning rate")), low=0),
        Panel("Images a second", lines(("rate", "images"), scale=images), low=0),
        Panel("Share of time waiting for images", lines(("waiting", "share")), low=0, high=1),
        Panel("Most memory held, GB", lines(("memory", "GB"), scale=1e-9), low=0),
    )
    return [panel for panel in found if panel.lines]


def _figure(panel: Panel, steps: int) -> str:
    legend = ""
    if len(panel.lines) > 1:
        legend = "".join(
            f'<span><i class="tone{tone}"></i>{line.label}</span>' for tone, line in enumerate(panel.lines, 1)
        )
    return f"<figure><figcaption>{panel.title}{legend}</figcaption>{svg(panel, steps=steps)}</figure>\n"


def _alarms(alarms: Sequence[tuple[int, str]]) -> str:
    if not alarms:
        return ""
    shown = [f"<li>step {step:,}: {html.escape(words)}</li>" for step, words in alarms[-_ALARMS:]]
    earlier = len(alarms) - len(shown)
    more = [f"<li>and {earlier:,} earlier, in notes.jsonl</li>"] if earlier else []
    return f'<ul class="alarms">{"".join(shown[::-1] + more)}</ul>\n'


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def size(count: float) -> str:
    """Bytes in words: `850 MB`, `61.3 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def short_percent(share: float) -> str:
    """`0.024%`, `12.5%`."""
    return f"{100 * share:.2g}%" if share < 0.1 else f"{share:.1%}"
