"""`simclr search` with ids, several images as one, and conditions."""

import json

import pytest
from test_cli import run


@pytest.fixture
def index(model, photos, tmp_path):
    """The twelve photos, indexed."""
    path = tmp_path / "out.faiss"
    assert run("embed", photos, "--index", path, "--model", model)[0] == 0
    return path


def objects(*words) -> list[dict]:
    code, out, _ = run(*words, "--json")
    assert code == 0
    return [json.loads(line) for line in out.splitlines()]


def test_an_id_is_looked_for_and_named_by_its_path(index, photos):
    first = objects("search", index, photos / "warm/red_dark.png", "-k", 1)[0]
    found = objects("search", index, "--id", first["id"], "-k", 2)
    assert [line["query"] for line in found] == [str(photos / "warm/red_dark.png")] * 2
    assert set(found[0]) == {"query", "rank", "id", "path", "similarity"}


def test_ids_come_behind_images(index, photos):
    queries = {
        line["query"] for line in objects("search", index, photos / "warm/red_dark.png", "--id", 0, "--id", 1)
    }
    assert len(queries) == 3


def test_several_images_as_one_give_one_list(index, photos):
    found = objects(
        "search", index, photos / "warm/red_dark.png", photos / "cold/blue_dark.png", "--mean", "-k", 3
    )
    assert [line["rank"] for line in found] == [1, 2, 3]
    assert {line["query"] for line in found} == {
        f"{photos / 'warm/red_dark.png'} + {photos / 'cold/blue_dark.png'}"
    }


def test_unlike_changes_what_comes_first(index, photos):
    words = ("search", index, photos / "warm/red_dark.png", "--mean", "-k", 12)
    last = objects(*words, "--unlike", photos / "warm/orange_dark.png", "--unlike-id", 0)[-1]["path"]
    assert last != objects(*words)[-1]["path"]


def test_a_condition_and_leaving_out_the_query(index, photos):
    found = objects(
        "search",
        index,
        photos / "warm/red_dark.png",
        "--where",
        "path like '%/warm/%'",
        "--exclude-self",
        "-k",
        12,
    )
    assert sorted(line["path"] for line in found) == sorted(
        str(path) for path in (photos / "warm").iterdir() if path.name != "red_dark.png"
    )


def test_a_condition_that_nothing_meets_is_said(index, photos):
    code, out, err = run("search", index, photos / "warm/red_dark.png", "--where", "width > 5000")
    assert (code, out, err) == (0, "", "no image meets the condition\n")


@pytest.mark.parametrize("mapped", ["--mapped", "--no-mapped"])
def test_mapped_or_not_the_answer_is_the_same(index, photos, mapped):
    words = ("search", index, photos / "warm/red_dark.png", "-k", 5)
    assert run(*words, mapped)[1] == run(*words)[1]


WRONG = {
    "nothing to look for": ([], 2, "no image to look for"),
    "unlike alone": (["--id", "1", "--unlike-id", "2"], 2, "--unlike needs --mean"),
    "unknown id": (["--id", "99"], 2, "id 99: "),
    "bad condition": (["--id", "1", "--where", "colour = 'red'"], 2, "no such column: colour"),
    "statement": (
        ["--id", "1", "--where", "1); drop table images; --"],
        2,
        "where '1); drop table images; --'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_its_exit_code(case, index):
    words, expected, message = WRONG[case]
    code, out, err = run("search", index, *words)
    assert (code, out) == (expected, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
