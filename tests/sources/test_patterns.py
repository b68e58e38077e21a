import pytest

from simclr.errors import ConfigError
from simclr.sources.patterns import expand_braces, short_names


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
