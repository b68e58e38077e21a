import fnmatch

import numpy as np
import pytest

from simclr.errors import ConfigError
from simclr.sources.patterns import Patterns, expand_braces, fixed_part, short_names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.tar", ["a.tar"]),
        ("{0..2}.tar", ["0.tar", "1.tar", "2.tar"]),
        ("s{08..11}", ["s08", "s09", "s10", "s11"]),
        ("{0..10..2}", ["{0..10..2}"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("{,x}.tar", [".tar", "x.tar"]),
        ("{whole}{}", ["{whole}{}"]),
    ],
)
def test_braces_stand_for_what_they_stand_for_in_a_shell(text: str, words: list[str]) -> None:
    assert expand_braces(text) == words


@pytest.mark.parametrize("text", ["{0..9999999}", "{0..99999}{0..99999}", "{0..99}{0..99999999999999999999}"])
def test_braces_gone_wild_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"stands for more than 1,000,000 files. Mend its braces.$"):
        expand_braces(text)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["/d/a.tar"], ["a.tar"]),
        (["/d/ab.tar", "/d/ac.tar"], ["ab.tar", "ac.tar"]),
        (["/d/1/0.tar", "/d/12/0.tar"], ["1/0.tar", "12/0.tar"]),
        (["s3://b/x/0.tar", "s3://b/0.tar"], ["x/0.tar", "0.tar"]),
    ],
)
def test_short_names_leave_out_the_folders_that_all_share(files: list[str], names: list[str]) -> None:
    assert short_names(files) == names


# ---- which images are meant


@pytest.mark.parametrize(
    ("pattern", "taken", "not_taken"),
    [
        ("*.jpg", ["a.jpg", "b/c.jpg"], ["a.png", "a.jpg.txt", "A.JPG"]),
        ("thumbs", ["thumbs", "thumbs/a.jpg", "b/thumbs/c/a.jpg"], ["thumbs2/a.jpg", "xthumbs"]),
        ("thumbs/", ["thumbs/a.jpg", "b/thumbs/a.jpg"], ["a.jpg"]),
        ("/thumbs", ["thumbs/a.jpg"], ["b/thumbs/a.jpg"]),
        ("b/*.jpg", ["b/a.jpg"], ["b/c/a.jpg", "a/b/a.jpg", "b/a.png"]),
        ("b/**", ["b/a.jpg", "b/c/d.png"], ["a/b/c.jpg", "bb/a.jpg"]),
        ("b/**/c.jpg", ["b/c.jpg", "b/x/c.jpg", "b/x/y/c.jpg"], ["b/xc.jpg", "c.jpg"]),
        ("**/c.jpg", ["c.jpg", "a/b/c.jpg"], ["xc.jpg"]),
        ("b", ["b/a.jpg", "a/b"], ["bb", "ab/c"]),
        ("img_??.png", ["img_01.png"], ["img_1.png", "img_001.png", "img_a/.png"]),
        ("[ab]*.jpg", ["a.jpg", "b1.jpg", "x/a.jpg"], ["c.jpg"]),
        ("[!ab].jpg", ["c.jpg"], ["a.jpg", "b.jpg"]),
        ("a[", ["a["], ["a", "ab"]),
        ("a[]]b", ["a]b"], ["a[b"]),
        ("a+b(1).jpg", ["a+b(1).jpg"], ["aab1.jpg"]),
        ("a\\b*", ["a\\bc"], ["ab"]),
    ],
)
def test_a_pattern_takes(pattern: str, taken: list[str], not_taken: list[str]) -> None:
    for chooser in (Patterns((pattern,)), Patterns(("*.none", pattern))):
        assert [name for name in [*taken, *not_taken] if chooser.takes(name)] == taken
    left = Patterns(exclude=(pattern,))
    assert [name for name in [*taken, *not_taken] if left.takes(name)] == not_taken
    assert [name for name in [*taken, *not_taken] if left.enters(name)] == not_taken


def test_what_is_excluded_is_not_taken_though_included() -> None:
    chooser = Patterns(("*.jpg",), ("a*",))
    assert [name for name in ("a.jpg", "b.jpg", "b.png") if chooser.takes(name)] == ["b.jpg"]


def test_star_is_fnmatch_within_a_name() -> None:
    """A slow twin: name by name, as the standard library matches them."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        pattern = "".join(rng.choice(list("ab*?[]!-x"), rng.integers(1, 6)))
        name = "".join(rng.choice(list("ab[]!-x"), rng.integers(1, 5)))
        if "**" not in pattern:
            assert Patterns((pattern,)).takes(name) == fnmatch.fnmatchcase(name, pattern), (pattern, name)


@pytest.mark.parametrize(
    ("word", "folder"),
    [
        ("/a/b/{0..9}.tar", "/a/b"),
        ("/a/b*/x.tar", "/a"),
        ("/a/x.tar", "/a"),
        ("s3://bucket/a/{0..9}.tar", "s3://bucket/a"),
        ("s3://bucket/a/x.tar", "s3://bucket/a"),
    ],
)
def test_the_fixed_part_of_a_word_is_the_folder_before_its_first_brace_or_glob(
    word: str, folder: str
) -> None:
    assert fixed_part(word) == folder
