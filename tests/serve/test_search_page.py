"""The search page in a real Chromium: a user's session by mouse, by keys and on a phone; what it says when something is wrong; who can use it.

1,050 small images, half of them reddish in `warm/`, half bluish in `cold/`, three of them copies; a classifier tells the two apart.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from served import BLUE, photo
from test_cli import run

from simclr.embed import Lane, Store, build_index, embed_sources
from simclr.runtime import Encoder

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium here: `make browser` installs Debian's", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api")

EACH = 525
"""Images of a class."""
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def collection(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    for group, colour in (("warm", (200, 60, 40)), ("cold", (40, 70, 200))):
        (folder / "photos" / group).mkdir(parents=True)
        for number in range(EACH):
            pixels = np.clip(np.array(colour) + rng.integers(-40, 40, (2, 2, 3)), 0, 255).astype(np.uint8)
            width, height = [(48, 32), (32, 48), (40, 40), (64, 24)][number % 4]
            image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
            image.save(folder / "photos" / group / f"{number:04d}.png")
    for number in range(3):
        shutil.copy(folder / "photos/warm/0000.png", folder / f"photos/warm/copy{number}.png")
    embed_sources([folder / "photos"], folder / "photos.store", Lane(Encoder.open(model)), model=model)
    build_index(Store.open(folder / "photos.store"), folder / "photos.faiss")
    assert run("classify", "fit", folder / "photos.store")[0] == 0
    return folder / "photos.faiss"


def started(index: Path, *words: str) -> tuple[subprocess.Popen[str], str]:
    """The process, and its address."""
    command = [sys.executable, "-m", "simclr", "serve", str(index), "--port", "0", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"serving at (http://\S+)", line):
            return process, found[1]
    raise AssertionError("the server has ended")


@pytest.fixture(scope="module")
def address(collection: Path) -> Iterator[str]:
    process, where = started(collection, "--classifier", str(collection.with_suffix(".classifier")))
    yield where
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page_of(browser) -> Iterator[Callable]:
    """Address -> a page. At the end: nothing was said on the console, and nobody else was asked for anything."""
    contexts, problems = [], []
    expected: list[str] = []

    def page_of(where: str, *, size=DESK, scheme="light", allow=(), **options):
        context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        expected.extend(allow)
        page.on("console", lambda said: said.type in ("error", "warning") and problems.append(said.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda asked: hosts_of(asked, where, problems))
        page.goto(where)
        return page

    yield page_of
    for context in contexts:
        context.close()
    assert [problem for problem in problems if not any(word in problem for word in expected)] == []


def hosts_of(asked, where: str, problems: list[str]) -> None:
    if not asked.url.startswith((where.split("#")[0].rstrip("/"), "blob:")):
        problems.append(f"asked {asked.url}")


@pytest.fixture
def page(page_of, address):
    return at_the_start(page_of(address))


def at_the_start(page):
    page.locator("#status", has_text="shuffled").wait_for()
    return page


def results(page, words: str = "the best"):
    """Once they are there."""
    page.locator("#status", has_text=words).wait_for()
    return page.locator("#grid .tile")


def paths(page) -> list[str]:
    return page.locator("#grid .tile").evaluate_all("tiles => tiles.map(tile => tile.title)")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- a session with the mouse


def test_at_the_start_there_is_a_sample_of_the_collection_and_what_to_do(page):
    assert page.locator("#grid .tile").count() == 60
    assert page.locator("#status").inner_text() == "60 of 1,053 images, shuffled"
    assert page.locator("#lead").inner_text().startswith("Drop an image here, paste one or choose one")
    assert page.title() == "photos"
    assert "/warm/" in str(paths(page)) and "/cold/" in str(paths(page))


def test_a_click_on_an_image_finds_images_like_it_and_the_address_says_so(page):
    first = page.locator("#grid .tile").first
    group = "warm" if "/warm/" in first.get_attribute("title") else "cold"
    first.click()
    results(page)
    assert re.search(r"#id=\d+$", page.url)
    assert len(paths(page)) == 60 and all(f"/{group}/" in path for path in paths(page))


def test_more_like_this_and_less_like_that(page):
    page.locator("#grid .tile").first.click()
    results(page)
    before = page.url
    second, third = page.locator("#grid .tile").nth(1), page.locator("#grid .tile").nth(2)
    ids = [tile.get_attribute("data-id") for tile in (second, third)]
    second.hover()
    second.locator("[data-act=like]").click()
    wait_until(lambda: page.locator("#like li").count() == 2)
    results(page)
    third = page.locator(f'#grid .tile[data-id="{ids[1]}"]')
    third.hover()
    third.locator("[data-act=unlike]").click()
    wait_until(lambda: page.locator("#unlike li").count() == 1)
    assert re.search(rf"#like=\d+,{ids[0]}&unlike={ids[1]}$", page.url)
    page.go_back()
    page.go_back()
    wait_until(lambda: page.locator("#like li").count() == 1)
    assert page.url == before
    page.locator("#clear").click()
    at_the_start(page)


def test_a_condition_narrows_what_is_found_and_a_wrong_one_is_explained_in_its_place(page_of, address):
    page = at_the_start(page_of(address, allow=["422"]))
    page.fill("#where", "path like '%/cold/%' and width > 60")
    page.keyboard.press("Enter")
    page.locator("#status", has_text="that meet the condition").wait_for()
    assert paths(page) and all("/cold/" in path for path in paths(page))
    page.locator("#grid .tile").first.click()
    results(page)
    assert all("/cold/" in path for path in paths(page))
    page.fill("#where", "colour = 'red'")
    page.keyboard.press("Enter")
    problem = page.locator("#where-problem")
    problem.wait_for()
    assert "no such column: colour" in problem.inner_text()
    page.fill("#where", "width > 5000")
    page.keyboard.press("Enter")
    page.locator("#notice", has_text="No image meets the condition.").wait_for()
    page.locator("#notice-action").click()
    results(page)


def test_predicted_classes_can_be_shown_and_picked(page):
    chip = page.locator("#chips button", has_text="warm")
    chip.click()
    page.locator("#status", has_text="of 60 results").wait_for()
    assert all("/warm/" in path for path in paths(page))
    page.locator("#classes").uncheck()
    at_the_start(page)
    assert page.locator("#chips").is_hidden()


def test_more_are_shown_up_to_a_thousand_and_only_those_in_sight_are_fetched(page_of, address):
    asked = set()
    page = at_the_start(page_of(address))
    page.on("request", lambda each: "/thumbnails/" in each.url and asked.add(each.url))
    page.locator("#grid .tile").first.click()
    results(page)
    page.select_option("#k", "1000")
    page.locator("#status", has_text="1,000 results").wait_for()
    assert page.locator("#grid .tile").count() == 1000
    page.wait_for_timeout(500)
    assert 0 < len(asked) < 300
    page.locator("#grid .tile").nth(990).scroll_into_view_if_needed()
    last = page.locator("#grid .tile").nth(990)
    wait_until(lambda: last.locator("img").evaluate("image => image.naturalWidth") > 0)
    assert len(asked) < 700


def test_images_stand_in_rows_of_one_height_and_nothing_sticks_out(page):
    boxes = page.locator("#grid .tile").evaluate_all(
        "tiles => tiles.map(tile => { const box = tile.getBoundingClientRect(); return [box.top, box.left, box.right, box.height]; })"
    )
    rows: dict[float, list] = {}
    for top, left, right, height in boxes:
        rows.setdefault(round(top), []).append((left, right, height))
    full = list(rows.values())[:-1]
    assert len(full) >= 3
    for row in full:
        assert max(each[2] for each in row) - min(each[2] for each in row) < 1.5
        assert all(before[1] <= after[0] + 1 for before, after in pairwise(row))
    rights = [row[-1][1] for row in full]
    assert max(rights) - min(rights) < 2 and max(rights) <= DESK["width"]


# ---- images from this computer


def test_an_image_that_is_chosen_is_looked_for(page):
    page.set_input_files("#pick", {"name": "sky.png", "mimeType": "image/png", "buffer": photo(BLUE)})
    results(page)
    assert all("/cold/" in path for path in paths(page))
    assert page.locator("#like li img").get_attribute("src").startswith("blob:")
    assert "cold" in page.locator("#examples").inner_text()


def give(page, kind: str, target: str) -> None:
    """An event of the browser that carries an image, as a person's drag or paste does."""
    page.evaluate(
        """async ([kind, target, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "sky.png", { type: "image/png" }));
            const where = document.querySelector(target);
            if (kind === "paste") where.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
            else for (const each of ["dragenter", "dragover", "drop"])
                where.dispatchEvent(new DragEvent(each, { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        [kind, target, list(photo(BLUE))],
    )


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_an_image_that_is_pasted_or_dropped_is_looked_for(page, kind):
    give(page, kind, "#main")
    results(page)
    assert all("/cold/" in path for path in paths(page))


def test_what_is_no_image_is_refused_in_words(page_of, address):
    page = at_the_start(page_of(address, allow=["415"]))
    page.set_input_files("#pick", {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    page.locator("#notice", has_text="not an image of a known format").wait_for()


def test_a_file_that_is_too_large_is_not_even_sent(page_of, address):
    page = at_the_start(page_of(address))
    sent = []
    page.on("request", lambda asked: asked.method == "POST" and sent.append(asked.url))
    big = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": bytes(34 << 20)}
    page.set_input_files("#pick", big)
    page.locator("#notice", has_text="MB").wait_for()
    assert sent == []


# ---- details, links, and the way back


def test_details_tell_all_and_give_the_focus_back(page):
    tile = page.locator("#grid .tile").first
    tile.locator(".look").focus()
    page.keyboard.press("i")
    dialog = page.locator("#details")
    dialog.wait_for()
    path = tile.get_attribute("title")
    wait_until(lambda: page.locator("#details-path").inner_text() == path)
    wait_until(lambda: page.locator("#details-image").evaluate("image => image.naturalWidth") > 0)
    facts = page.locator("#details-facts").inner_text()
    assert re.search(r"\d+ × \d+ pixels", facts) and tile.get_attribute("data-id") in facts
    assert page.locator("#details-shares li").count() == 2
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.closest('.tile').title") == path


def test_a_link_leads_to_what_was_shown(page, page_of, address):
    page.locator("#grid .tile").first.click()
    results(page)
    other = page_of(page.url)
    results(other)
    assert paths(other) == paths(page)


def test_a_link_that_makes_no_sense_is_read_as_far_as_it_does(page_of, address):
    page = page_of(f"{address}/#id=abc&k=-5&view=nothing&where=&unlike=1e9")
    wait_until(lambda: page.locator("#status").inner_text() != "")
    assert page.locator("#status").is_visible()


def test_an_id_that_is_gone_is_said_to_be(page_of, address):
    page = page_of(f"{address}/#id=999999", allow=["404"])
    page.locator("#notice", has_text="no image with the id 999999").wait_for()
    page.locator("#notice-action").click()
    at_the_start(page)


# ---- keys alone


def test_a_session_with_keys_alone(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    here = "document.activeElement.closest('.tile').dataset.id"
    first = page.evaluate(here)
    page.keyboard.press("ArrowRight")
    second = page.evaluate(here)
    assert second != first
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    assert page.evaluate(here) == first
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    results(page)
    assert page.url.endswith(f"#id={second}")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "where"
    page.keyboard.type("path like '%/warm/%'")
    page.keyboard.press("Enter")
    wait_until(lambda: "where=" in page.url)
    page.keyboard.press("Escape")
    page.locator("#skip").focus()
    page.keyboard.press("?")
    page.locator("#keys").wait_for()
    page.keyboard.press("Escape")
    page.locator("#keys").wait_for(state="hidden")


def test_plus_and_minus_make_examples(page):
    page.locator("#grid .tile .look").first.focus()
    page.keyboard.press("+")
    results(page)
    page.locator("#grid .tile .look").nth(3).focus()
    page.keyboard.press("-")
    wait_until(lambda: page.locator("#unlike li").count() == 1)
    assert page.locator("#like li").count() == 1


# ---- the map and the copies


def test_the_map_shows_images_where_like_ones_are_and_leads_to_a_search(page_of, address):
    page = at_the_start(page_of(address, allow=["willReadFrequently"]))
    page.locator("[data-view=map]").click()
    page.locator("#status", has_text="1,053").wait_for(timeout=60_000)
    canvas = page.locator("#canvas")
    colours = lambda: canvas.evaluate(  # noqa: E731
        """canvas => { const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const colours = new Set(); for (let i = 0; i < data.length; i += 4) colours.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]); return colours.size; }"""
    )
    wait_until(lambda: colours() > 2)
    assert [chip.split()[0] for chip in page.locator("#legend button").all_inner_texts()] == [
        "All",
        "warm",
        "cold",
    ]
    canvas.focus()
    page.keyboard.press("ArrowRight")
    page.locator("#peek").wait_for()
    wait_until(lambda: ".png" in page.locator("#peek-name").inner_text())  # once it is asked for
    page.keyboard.press("+")
    page.keyboard.press("Enter")
    results(page)
    assert re.search(r"#id=\d+$", page.url)


def test_copies_stand_beside_the_one_to_keep(page):
    page.locator("[data-view=copies]").click()
    page.locator("#status", has_text="Nothing is deleted").wait_for(timeout=60_000)
    group = page.locator("#groups .group", has_text="0000.png")
    assert group.locator(".tile").count() >= 4
    assert group.locator(".score").all_inner_texts()[:4] == ["keep", "exact", "exact", "exact"]


# ---- a token, and a server that is gone


def test_a_token_is_asked_for_once_and_never_stays_in_the_address(page_of, collection):
    process, where = started(collection, "--token", "open sesame")
    try:
        page = page_of(where, allow=["401", "net::"])
        form = page.locator("#token-form")
        form.wait_for()
        page.fill("#token-text", "wrong")
        page.keyboard.press("Enter")
        page.locator("#token-problem").wait_for()
        page.fill("#token-text", "open sesame")
        page.keyboard.press("Enter")
        at_the_start(page)
        page.reload()
        at_the_start(page)
        other = at_the_start(page_of(f"{where}/#token=open%20sesame"))
        assert "sesame" not in other.url and other.evaluate("document.cookie") == ""
        assert "sesame" not in str(
            other.evaluate("[Object.entries(localStorage), Object.entries(sessionStorage)]")
        )
    finally:
        process.kill()
        process.communicate()


def test_a_server_that_is_gone_is_said_to_be_and_can_be_tried_again(page_of, collection):
    process, where = started(collection)
    try:
        page = at_the_start(page_of(where, allow=["ERR_CONNECTION_REFUSED", "net::"]))
    finally:
        process.kill()
        process.communicate()
    page.locator("#grid .tile").first.click()
    page.locator("#notice").wait_for()
    assert page.locator("#notice-action").inner_text() == "Try again"
    again = subprocess.Popen(
        [sys.executable, "-m", "simclr", "serve", str(collection), "--port", where.rsplit(":", 1)[1]],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert again.stderr is not None
        for line in again.stderr:
            if "serving at" in line:
                break
        page.locator("#notice-action").click()
        results(page)
    finally:
        again.kill()
        again.communicate()


# ---- everybody


def states(page) -> Iterator[str]:
    """One state after another."""
    yield "start"
    page.locator("#grid .tile").first.click()
    results(page)
    yield "results"
    page.locator("#grid .tile .look").nth(1).focus()
    page.keyboard.press("-")
    wait_until(lambda: page.locator("#unlike li").count() == 1)
    yield "examples"
    page.locator("#where-help").click()
    yield "condition"
    page.locator("#where-help").click()
    page.locator("#grid .tile .look").nth(1).focus()
    page.keyboard.press("i")
    page.locator("#details-shares li").first.wait_for()
    yield "details"
    page.keyboard.press("Escape")
    page.locator("#help").click()
    yield "keys"
    page.keyboard.press("Escape")
    page.fill("#where", "colour = 1")
    page.keyboard.press("Enter")
    page.locator("#where-problem").wait_for()
    yield "problem"
    page.locator("[data-view=map]").click()
    page.locator("#status", has_text="1,053").wait_for(timeout=60_000)
    yield "map"
    page.locator("[data-view=copies]").click()
    page.locator("#status", has_text="Nothing is deleted").wait_for(timeout=60_000)
    yield "copies"


def violations(page) -> list[tuple[str, list[str]]]:
    """What axe finds, and finds again a second later: a colour that is fading in has little contrast for a moment."""
    from axe_playwright_python.sync_playwright import Axe

    found: list[tuple[str, list[str]]] = []
    for _ in range(2):
        rules = Axe().run(page).response["violations"]
        found = [(rule["id"], [node["html"][:120] for node in rule["nodes"]]) for rule in rules]
        if not found:
            break
        page.wait_for_timeout(1000)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing_to_mend_and_nothing_overflows(page_of, address, size, scheme):
    touch = {"has_touch": True, "is_mobile": True} if size is PHONE else {}
    page = at_the_start(page_of(address, size=size, scheme=scheme, allow=["422"], **touch))
    for state in states(page):
        assert violations(page) == [], state
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, state


def test_on_a_phone_everything_to_touch_is_large_enough(page_of, address):
    page = at_the_start(page_of(address, size=PHONE, has_touch=True, is_mobile=True))
    page.locator("#grid .tile .look").first.tap()
    results(page)
    small = page.locator(
        "button:visible, a.button:visible, select:visible, label.button:visible"
    ).evaluate_all(
        "all => all.filter(each => each.id !== 'skip').map(each => [each.outerHTML.slice(0, 80), each.getBoundingClientRect()])"
        ".filter(([, box]) => box.width && (box.width < 43 || box.height < 43)).map(([html, box]) => `${html} ${box.width}x${box.height}`)"
    )
    assert small == []


def test_the_switch_of_colours_is_remembered(page):
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(background)
    page.locator("#theme").click()
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    at_the_start(page)
    assert page.evaluate(background) == dark


def test_changes_are_said_to_those_who_do_not_see_them(page):
    assert page.locator("#status").get_attribute("role") == "status"
    page.locator("#grid .tile").first.click()
    results(page)
    assert re.fullmatch(r"60 results, the best \d\.\d\d", page.locator("#status").inner_text())
    assert re.search(r"\d{4}\.png, similarity \d\.\d\d", page.locator("#grid img").first.get_attribute("alt"))
