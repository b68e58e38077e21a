"""`simclr search` with each of its options: what it prints, and what it says when something is wrong."""

import json
from pathlib import Path

import pytest
from test_cli import run

from simclr.embed import Lane, Store, build_index, embed_sources
from simclr.runtime import Encoder

KEYS = ["query", "rank", "id", "path", "similarity"]


@pytest.fixture
def index(model, photos, tmp_path) -> Path:
    """The twelve photos, indexed in this process."""
    embed_sources([photos], tmp_path / "out.store", Lane(Encoder.open(model)), model=model)
    build_index(Store.open(tmp_path / "out.store"), tmp_path / "out.faiss")
    return tmp_path / "out.faiss"


@pytest.fixture
def red(photos) -> Path:
    return photos / "warm/red_dark.png"


@pytest.fixture
def blue(photos) -> Path:
    return photos / "cold/blue_dark.png"


def objects(*words: object) -> list[dict]:
    code, out, _ = run(*words, "--json")
    assert code == 0
    return [json.loads(line) for line in out.splitlines()]


def id_of(index: Path, path: Path) -> int:
    return objects("search", index, path, "-k", 1, "--where", f"path = '{path}'")[0]["id"]


def paths(out: str) -> list[str]:
    """Of the lines that plain text has for hits."""
    return [line.split("  ", 1)[1] for line in out.splitlines() if "  " in line]


# ---- ids


def test_an_id_is_answered_as_its_image_is(index, red):
    words = ("-k", 5, "--where", "path not like '%red%'")
    assert run("search", index, "--id", id_of(index, red), *words) == run("search", index, red, *words)


def test_an_id_finds_itself_first_with_similarity_one(index, red):
    code, out, err = run(
        "search", index, "--id", id_of(index, red), "-k", 1, "--where", "path like '%_dark%'"
    )
    assert (code, out, err) == (0, f"1.000  {red}\n", "")


def test_several_queries_each_have_a_heading_images_before_ids_in_their_order(index, red, blue):
    ids = id_of(index, blue), id_of(index, red)
    out = run("search", index, "--id", ids[0], red, "--id", ids[1], "-k", 1)[1]
    assert [line for line in out.splitlines() if line.endswith(":")] == [f"{red}:", f"{blue}:", f"{red}:"]


def test_one_query_has_no_heading(index, red):
    assert len(run("search", index, "--id", id_of(index, red), "-k", 3)[1].splitlines()) == 3


def test_an_id_in_json_has_the_documented_keys_and_its_path_as_query(index, red):
    found = objects("search", index, "--id", id_of(index, red), "-k", 2)
    assert [list(line) for line in found] == [KEYS, KEYS]
    assert [(line["query"], line["rank"]) for line in found] == [(str(red), 1), (str(red), 2)]


def test_an_id_needs_no_encoder(index, red):
    (index.with_suffix(".store") / "model/manifest.json").write_text("damaged")
    assert run("search", index, "--id", 3, "-k", 1)[0] == 0
    assert run("search", index, red, "-k", 1)[0] == 1


# ---- several as one


def test_all_images_as_one_give_one_list_without_a_heading(index, red, blue):
    code, out, err = run("search", index, red, blue, "--mean", "-k", 5)
    assert (code, err, len(out.splitlines()), len(paths(out))) == (0, "", 5, 5)


def test_images_and_ids_are_one_together(index, red, blue):
    both = run("search", index, red, blue, "--mean", "-k", 5)[1]
    assert run("search", index, red, "--id", id_of(index, blue), "--mean", "-k", 5)[1] == both


def test_one_image_as_one_is_that_image(index, red):
    assert run("search", index, red, "--mean", "-k", 5) == run("search", index, red, "-k", 5)


def test_several_as_one_in_json_have_the_documented_keys(index, red, blue):
    found = objects("search", index, red, blue, "--mean", "--unlike-id", 0, "-k", 2)
    assert [list(line) for line in found] == [KEYS, KEYS]
    assert [(line["query"], line["rank"]) for line in found] == [
        (f"{red} + {blue}", 1),
        (f"{red} + {blue}", 2),
    ]


def test_unlike_an_image_and_unlike_its_id_are_the_same(index, red, blue):
    words = ("search", index, red, "--mean", "-k", 12)
    by_path, by_id = objects(*words, "--unlike", blue), objects(*words, "--unlike-id", id_of(index, blue))
    assert [line["path"] for line in by_path] == [line["path"] for line in by_id]
    stored = [line["similarity"] for line in by_id]  # as float16
    assert [line["similarity"] for line in by_path] == pytest.approx(stored, abs=1e-3)


def test_what_hits_shall_be_unlike_comes_last(index, red, photos):
    orange = photos / "warm/orange_dark.png"
    words = ("search", index, red, "--mean", "-k", 12, "--where", "path like '%_dark%'")
    assert paths(run(*words)[1])[1] == str(orange)
    unlike = [
        line["similarity"] for line in objects(*words, "--unlike", orange) if line["path"] == str(orange)
    ]
    like = [line["similarity"] for line in objects(*words) if line["path"] == str(orange)]
    assert unlike[0] < like[0] - 0.01


def test_unlike_may_be_given_several_times(index, red, blue, photos):
    words = ("search", index, red, "--mean", "-k", 12)
    green = photos / "cold/green_dark.png"
    both = run(*words, "--unlike", blue, "--unlike", green)
    assert both == run(*words, "--unlike", green, "--unlike", blue)
    assert both != run(*words, "--unlike", blue)


# ---- conditions, and leaving out


def test_a_condition_keeps_to_what_meets_it_and_k_come_back(index, red, photos):
    out = run("search", index, red, "-k", 6, "--where", "path like '%/cold/%'")[1]
    assert sorted(paths(out)) == sorted(str(path) for path in (photos / "cold").iterdir())


def test_a_condition_holds_for_each_query(index, red, blue):
    found = objects("search", index, red, blue, "-k", 12, "--where", "id in (2, 7)")
    assert [sorted(line["id"] for line in found if line["query"] == str(query)) for query in (red, blue)] == [[2, 7]] * 2  # fmt: skip


def test_a_condition_that_nothing_meets_is_said_and_json_stays_empty(index, red):
    found = run("search", index, red, "--where", "width > 5000", "--json")
    assert found == (0, "", "no image meets the condition\n")


def test_a_condition_that_nothing_meets_leaves_the_headings(index, red, blue):
    code, out, err = run("search", index, red, blue, "--where", "width > 5000")
    assert (code, out, err) == (0, f"{red}:\n{blue}:\n", "no image meets the condition\n")


def test_leaving_out_the_image_itself_still_gives_k(index, red):
    words = ("search", index, red)
    whole = paths(run(*words, "-k", 12)[1])
    assert paths(run(*words, "-k", 11, "--exclude-self")[1]) == [path for path in whole if path != str(red)]


def test_leaving_out_goes_by_id_and_by_a_relative_path_too(index, red, photos):
    by_path = run("search", index, red, "-k", 5, "--exclude-self")[1]
    assert run("search", index, "--id", id_of(index, red), "-k", 5, "--exclude-self")[1] == by_path
    assert run("search", index, "warm/red_dark.png", "-k", 5, "--exclude-self", cwd=photos)[1] == by_path


def test_leaving_out_several_as_one_leaves_out_the_unlike_too(index, red, blue, photos):
    words = ("search", index, red, "--mean", "--unlike", blue, "-k", 12, "--exclude-self")
    expected = {str(path) for path in photos.rglob("*.png")} - {str(red), str(blue)}
    assert set(paths(run(*words)[1])) == expected


def test_an_index_of_the_query_alone_has_nothing_without_it(model, photos, tmp_path):
    (tmp_path / "one").mkdir()
    only = (photos / "warm/red_dark.png").rename(tmp_path / "one/red_dark.png")
    index = tmp_path / "one.faiss"
    assert run("embed", tmp_path / "one", "--index", index, "--model", model)[0] == 0
    assert run("search", index, only, "--exclude-self") == (0, "", "no image found\n")


# ---- mapped, and galleries


@pytest.mark.parametrize("mapped", ["--mapped", "--no-mapped"])
def test_mapped_or_not_the_same_is_printed(index, red, blue, mapped):
    words = ("search", index, red, blue, "-k", 5, "--where", "id > 2", "--json")
    assert run(*words, mapped) == run(*words)


@pytest.mark.parametrize(("option", "mapped"), [("--mapped", True), ("--no-mapped", False)])
def test_mapped_is_passed_on(index, monkeypatch, option, mapped):
    from simclr.embed import search as search_module

    asked = []
    load = search_module.load_index
    monkeypatch.setattr(
        search_module,
        "load_index",
        lambda path, *, mapped: (asked.append(mapped), load(path, mapped=mapped))[1],
    )
    run("search", index, "--id", 1, option)
    assert asked == [mapped]


def test_a_gallery_of_an_id_shows_its_image(index, red, tmp_path):
    run("search", index, "--id", id_of(index, red), "-k", 3, "--html", tmp_path / "g.html")
    page = (tmp_path / "g.html").read_text()
    assert f'<figure class="query" title="{red}"><img' in page
    assert page.count("data:image/jpeg;base64,") == 4


def test_a_gallery_of_several_as_one_shows_all_of_them(index, red, blue, photos, tmp_path):
    words = ("--mean", "--unlike", blue, "-k", 3, "--html", tmp_path / "g.html")
    run("search", index, red, "--id", id_of(index, photos / "cold/green_dark.png"), *words)
    page = (tmp_path / "g.html").read_text()
    shown = [("query", red), ("query", photos / "cold/green_dark.png"), ("unlike", blue)]
    places = [page.index(f'<figure class="{kind}" title="{path}"><img') for kind, path in shown]
    assert places == sorted(places)
    assert page.count("data:image/jpeg;base64,") == 6


def test_the_note_of_a_stale_index_comes_beside_the_hits_of_an_id(index, red, photos):
    (photos / "cold/blue_dark.png").unlink()
    run("embed", photos, "--store", index.with_suffix(".store"))
    code, out, err = run("search", index, "--id", id_of(index, red), "-k", 12)
    assert (code, len(paths(out))) == (0, 11)
    assert err.startswith(f"{index} is older than its store; ")


# ---- mistakes


MISTAKES = {
    "nothing to look for": ([], 2, "no image to look for. Name some, or give --id: simclr search INDEX IMAGE"),
    "only unlike": (["--mean", "--unlike", "RED"], 2, "no image to look for"),
    "unlike without mean": (["--id", "1", "--unlike", "RED"], 2, "--unlike needs --mean"),
    "id that is not there": (["--id", "3", "--id", "99"], 2, "id 99: "),
    "negative id": (["--id", "-1"], 2, "id -1: "),
    "unlike id that is not there": (["--id", "3", "--mean", "--unlike-id", "99"], 2, "id 99: "),
    "unlike image that is not there": (["--id", "3", "--mean", "--unlike", "no.png"], 1, "no.png: cannot be read"),
    "image that is not there": (["--id", "3", "no.png"], 1, "no.png: cannot be read"),
    "no condition": (["--id", "3", "--where", ""], 2, "where '': empty"),
    "condition on no column": (["--id", "3", "--where", "colour = 1"], 2, "no such column: colour"),
    "statement for a condition": (["--id", "3", "--where", "1); drop table images; --"], 2, "where '1); drop table images; --'"),
    "half a condition": (["--id", "3", "--where", "width >"], 2, "where 'width >': "),
    "condition that is refused though nothing is found": (["RED", "--mean", "--where", "rowid = 1"], 2, "where 'rowid = 1'"),
    "no such store": (["--id", "3", "--store", "none.store"], 1, "none.store: no store there"),
    "gallery without a folder": (["--id", "3", "--html", "none/g.html"], 1, "none/g.html: cannot be written"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_its_exit_code(mistake, index, red, tmp_path):
    words, expected, message = MISTAKES[mistake]
    words = [str(red) if word == "RED" else word for word in words]
    code, out, err = run("search", index, *words, cwd=tmp_path)
    assert (code, err.count("\n"), err[:7]) == (expected, 1, "error: ")
    assert message.replace("INDEX", str(index)) in err
    assert out == "" or "gallery" in mistake


USAGE = {
    "id that is no number": ["--id", "x"],
    "unlike id that is no number": ["--mean", "--id", "1", "--unlike-id", "x"],
    "no neighbours": ["--id", "1", "-k", "0"],
    "no such option": ["--id", "1", "--like", "2"],
}


@pytest.mark.parametrize("mistake", USAGE)
def test_words_that_are_no_command_are_refused_with_exit_code_two(mistake, index):
    code, out, err = run("search", index, *USAGE[mistake])
    assert (code, out) == (2, "")
    assert "Usage: simclr search" in err
