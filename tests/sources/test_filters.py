"""Patterns against a slow twin, which goes name by name."""

import fnmatch
import pickle
import random

import pytest

from simclr.errors import ConfigError
from simclr.sources import Patterns


def fits(parts: list[str], names: list[str]) -> bool:
    """Whether the whole of a path fits the parts of a pattern."""
    if not parts:
        return not names
    if parts[0] == "**":
        if len(parts) == 1:
            return bool(names)
        return any(fits(parts[1:], names[start:]) for start in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and fits(parts[1:], names[1:])


def slowly(pattern: str, path: str) -> bool:
    parts, names = pattern.rstrip("/").split("/"), path.split("/")
    if len(parts) == 1 and parts != ["**"]:
        parts = ["**", *parts]
    ends = range(1, len(names) + (not pattern.endswith("/")))
    return any(fits(parts, names[:end]) for end in ends)


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("*.png", ["a.png", "x/a.png", "x.png/a.jpg"], ["a.PNG", "a.pngx", "a.jpg"]),
        ("thumbs", ["thumbs", "thumbs/a", "x/thumbs/y/a"], ["thumbs2/a", "athumbs", "Thumbs/a"]),
        ("thumbs/", ["thumbs/a", "x/thumbs/y/a"], ["thumbs", "x/thumbs"]),
        ("raw/a.png", ["raw/a.png"], ["x/raw/a.png", "raw/a_png"]),
        ("raw/*", ["raw/a", "raw/x/a"], ["raw", "x/raw/a"]),
        ("raw/*.png", ["raw/a.png"], ["raw/x/a.png"]),
        ("raw/**/*.png", ["raw/a.png", "raw/x/y/a.png"], ["a.png", "raw/a.jpg"]),
        ("**/raw/a", ["raw/a", "x/y/raw/a"], ["xraw/a"]),
        ("raw/**", ["raw/a", "raw/x/a"], ["raw", "x/raw/a"]),
        ("**", ["a", "x/a"], []),
        ("/raw", ["raw", "raw/a"], ["x/raw"]),
        ("?.png", ["a.png", "ä.png"], [".png", "ab.png"]),
        ("[a-c]1", ["a1", "x/c1"], ["d1", "-1"]),
        ("[!a]1", ["b1"], ["a1", "1"]),
        ("[]1", ["[]1"], ["]1"]),
        ("[^a]1", ["^1", "a1"], ["b1"]),
        ("a.b+(c)$", ["a.b+(c)$"], ["aXb+(c)$"]),
    ],
)
def test_a_pattern_means_what_the_documentation_says(
    pattern: str, matches: list[str], others: list[str]
) -> None:
    only, but = Patterns(include=(pattern,)), Patterns(exclude=(pattern,))
    assert [path for path in matches + others if only.takes(path)] == matches
    assert [path for path in matches + others if not but.takes(path)] == matches


def test_any_pattern_agrees_with_its_slow_twin_on_any_path() -> None:
    rng = random.Random(0)
    pieces = ["*", "?", "a", "b", "[ab]", "[!a]", "ab", ".", "a*"]
    for _ in range(3000):
        parts = [
            "**" if rng.random() < 0.2 else "".join(rng.choices(pieces, k=rng.randint(1, 2)))
            for _ in range(rng.randint(1, 3))
        ]
        parts = [part if part != "." else "a" for part in parts]
        parts = ["a" if "**" in part and part != "**" else part for part in parts]
        pattern = "/".join(parts) + rng.choice(["", "", "/"])
        path = "/".join("".join(rng.choices("ab.", k=rng.randint(1, 3))) for _ in range(rng.randint(1, 4)))
        if any(name == "." for name in path.split("/")):
            continue
        patterns = Patterns(exclude=(pattern,))
        assert patterns.takes(path) != slowly(pattern, path), (pattern, path)
        if patterns.closes(path):
            for below in ("a", "b/a", "a/b/.a"):
                assert slowly(pattern, f"{path}/{below}"), (pattern, path)


def test_exclude_wins_over_include_and_nothing_given_takes_all() -> None:
    patterns = Patterns(("*.png", "keep/**"), ("bad*",))
    taken = [
        name for name in ("a.png", "bad.png", "keep/a.jpg", "a.jpg", "bad/a.png") if patterns.takes(name)
    ]
    assert taken == ["a.png", "keep/a.jpg"]
    assert Patterns().takes("anything") and not Patterns().closes("anything")


@pytest.mark.parametrize(
    ("pattern", "closed", "opened"),
    [
        ("raw", ["raw", "x/raw"], ["rawer"]),
        ("raw/*", ["raw"], ["x/raw"]),
        ("raw/**", ["raw", "raw/x"], []),
        ("*.png", [], ["raw"]),
        ("raw/*.png", [], ["raw"]),
    ],
)
def test_a_folder_is_closed_where_all_below_it_is_excluded(
    pattern: str, closed: list[str], opened: list[str]
) -> None:
    patterns = Patterns(exclude=(pattern,))
    assert [folder for folder in closed + opened if patterns.closes(folder)] == closed


@pytest.mark.parametrize("pattern", ["", "/", "."])
def test_a_pattern_that_matches_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"^pattern '.*': matches no name. Give one such as"):
        Patterns(include=(pattern,))


def test_brackets_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^pattern '\[z-a\]': cannot be read \(.*\). Mend its brackets.$"):
        Patterns(exclude=("[z-a]",))


def test_patterns_travel_and_compare() -> None:
    patterns = Patterns(("a",), ("b",))
    assert pickle.loads(pickle.dumps(patterns)) == patterns == Patterns(("a",), ("b",))
