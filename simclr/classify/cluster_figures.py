"""Clusters -> a table of text, an object for programs, a picture of how their number was chosen, and a page. Groups nothing."""

import html
from collections.abc import Sequence
from typing import Any

from simclr.classify.cluster_count import Choice
from simclr.classify.clusters import Cluster, Clusters, Member
from simclr.classify.figures import INK, as_svg, canvas, tone
from simclr.embed.gallery import Row, Tile, picture_page
from simclr.html_page import html_table

PAGED = 100
"""Clusters with a row on the page: of 1,200 images it has some 20 MB."""


def choice_cells(choice: Choice) -> list[list[str]]:
    """A row for each number tried, below one of names; the chosen one is marked."""
    head = ["clusters", "silhouette", "without groups", "gain", ""]
    return [head] + [
        [
            f"{each.count}",
            f"{each.silhouette:.3f}",
            f"{each.groupless:.3f}",
            f"{each.gain:+.3f}",
            "chosen" if each.count == choice.count else "",
        ]
        for each in choice.trials
    ]


def cluster_cells(found: Clusters) -> list[list[str]]:
    """A row for each cluster, below one of names."""
    head = ["cluster", "images", "tightness", "most typical"]
    return [head] + [
        [f"{each.number}", f"{each.size:,}", f"{each.tightness:.3f}", one_line(each.typical[0].path)]
        for each in found.clusters
    ]


def lines(cells: Sequence[Sequence[str]]) -> list[str]:
    """The same as lines of text: numbers to the right, the last column to the left."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join([*map(str.rjust, row[:-1], widths[:-1]), row[-1]]).rstrip() for row in cells]


def summary(found: Clusters) -> str:
    return f"{len(found.ids_N):,} images in {len(found.clusters):,} clusters, tightness {found.tightness:.3f}"


def one_line(text: str) -> str:
    """A name may hold a line break, which would tear a table."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def as_object(cluster: Cluster) -> dict[str, Any]:
    """One line of `--json`."""
    return {
        "cluster": cluster.number,
        "size": cluster.size,
        "tightness": round(cluster.tightness, 6),
        "typical": [_member(each) for each in cluster.typical],
        "untypical": [_member(each) for each in cluster.untypical],
    }


def _member(member: Member) -> dict[str, Any]:
    return {"id": member.id, "path": member.path, "similarity": round(member.similarity, 6)}


def page(found: Clusters, *, title: str) -> str:
    """HTML: how the number was chosen, then of each cluster the most and the least typical images. Raises MissingExtra without
    matplotlib, if a number was chosen."""
    words = [summary(found) + "."]
    if len(found.clusters) > PAGED:
        words.append(f"The {PAGED} largest are shown; --csv names the cluster of every image.")
    lead = f"<p>{' '.join(words)}</p>\n"
    if found.choice is not None:
        lead += (
            f"<p>{html.escape(found.choice.reason)}</p>\n{picture(found.choice)}\n"
            f"<details><summary>The numbers tried</summary>{html_table(choice_cells(found.choice))}</details>\n"
        )
    return picture_page([_row(each) for each in found.clusters[:PAGED]], title=title, lead=lead)


def _row(cluster: Cluster) -> Row:
    shown = {each.id for each in cluster.typical}
    tiles = [Tile(each.path, f"{each.similarity:.3f}") for each in cluster.typical]
    tiles += [
        Tile(each.path, f"{each.similarity:.3f} least typical", "unlike")
        for each in cluster.untypical
        if each.id not in shown
    ]
    return Row(tiles, f"{cluster.number}: {cluster.size:,} images, tightness {cluster.tightness:.3f}")


def picture(choice: Choice) -> str:
    """Silhouettes against the number of clusters, with those of vectors without groups, as SVG."""
    figure, axes = canvas(7.5, 3.4)
    counts = [each.count for each in choice.trials]
    axes.plot(
        counts, [each.silhouette for each in choice.trials], "o-", ms=4, color=tone(0), label="these vectors"
    )
    axes.plot(
        counts,
        [each.groupless for each in choice.trials],
        "o--",
        ms=4,
        color=INK,
        label="vectors without groups",
    )
    axes.axvline(choice.count, color=tone(1), lw=1, label=f"chosen: {choice.count}")
    axes.set_xscale("log")
    axes.set_xticks(shown := _ticks(counts), [str(count) for count in shown])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.set_xlabel("clusters", color=INK)
    axes.set_ylabel("silhouette", color=INK)
    axes.grid(color=INK, alpha=0.25)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return as_svg(figure)


def _ticks(counts: Sequence[int]) -> list[int]:
    """Powers of two among the numbers tried."""
    return [count for count in counts if count & (count - 1) == 0]
