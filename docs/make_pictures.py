"""Makes docs/pictures/, the tool's own views, curves, gallery and search page, and docs/session.txt, what its commands print:
on a thousand drawn landscapes (scenes.py).

    .venv/bin/python docs/make_pictures.py --work FOLDER     # a quarter of an hour on two cores; what FOLDER has is not made again

Needs Chromium (`make browser`). What README.md and the tutorial show is taken from session.txt, which a test compares.
"""

import argparse
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from scenes import KINDS, draw_scenes, scene

from simclr.pretrain.config import Augmentation
from simclr.pretrain.views import crop, crop_boxes, draw, recolour

PICTURES = Path(__file__).parent / "pictures"
COUNT = 1000
HOME = "/home/ann"
"""What the folder of the session is called."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SESSION = """
pretrain --data photos --out runs/first --recipe small-images --encoder resnet10t --image-size 64 --batch-size 200 --epochs 20 --set small_stem=false --eval photos
export runs/first
embed photos --index photos.faiss
search photos.faiss photos/balloons/000.jpg -k 5 --exclude-self
search photos.faiss photos/sea/003.jpg -k 3 --where "path not like '%/sea/%'"
search photos.faiss photos/balloons/000.jpg photos/sea/003.jpg photos/forest/007.jpg -k 6 --exclude-self --html gallery.html
index info photos.faiss
evaluate photos.store --pixels
classify fit photos.store
classify predict photos.classifier photos/night/001.jpg photos/city/002.jpg
duplicates photos.store
clusters photos.store -n 8 --html clusters.html
"""
"""Words after `simclr`, in the order in which they are run."""


def views_sheet(photo: Image.Image, *, pairs: int = 6, size: int = 128) -> Image.Image:
    """A photo and random pairs of its views, by the paper's settings."""
    augmentation = Augmentation()
    drawn = draw(7, 0, batch_size=pairs, augmentation=augmentation)
    sizes = np.tile(np.array([photo.size]), (2 * pairs, 1))
    boxes = crop_boxes(sizes, drawn.crop, crop_min=augmentation.crop_min, crop_ratio=augmentation.crop_ratio)
    crops = np.stack([crop(photo, tuple(box), size) for box in boxes])
    views = (recolour(torch.from_numpy(crops), drawn).permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    gap, left = 8, photo.width * (2 * size + 8) // photo.height + 24
    sheet = Image.new("RGB", (left + pairs * (size + gap), 2 * size + gap), "white")
    sheet.paste(photo.resize((left - 24, 2 * size + gap), Image.Resampling.LANCZOS), (0, 0))
    for number, view in enumerate(views):
        row, column = divmod(number, pairs)
        sheet.paste(Image.fromarray(view), (left + column * (size + gap), row * (size + gap)))
    return sheet


def session(work: Path) -> str:
    """What the commands print, as in a shell. Kept, so that none is run twice."""
    parts = []
    for number, words in enumerate(SESSION.strip().splitlines()):
        log = work / f"{number:02}.txt"
        if not log.exists():
            command = [sys.executable, "-m", "simclr", *shlex.split(words)]
            done = subprocess.run(
                command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            print(f"$ simclr {words}\n{done.stdout}", file=sys.stderr)
            done.check_returncode()
            log.write_text(without_progress(done.stdout))
        parts.append(f"$ simclr {words}\n{log.read_text()}")
    return "\n".join(parts).replace(f"{work.resolve()}/", f"{HOME}/")


def without_progress(printed: str) -> str:
    """Of lines that say how far a command is, the last."""
    lines = printed.splitlines(keepends=True)
    moving = [re.match(r"(\w+): [\d,]+ of [\d,]+ images, ", line) for line in lines]
    return "".join(
        line
        for number, line in enumerate(lines)
        if not (moving[number] and number + 1 < len(lines) and moving[number + 1])
    )


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of `simclr serve` on the folder's index."""
    words = ["serve", "photos.faiss", "--classifier", "photos.classifier", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "simclr", *words], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        yield next(
            found[1] for line in process.stderr if (found := re.search(r"serving at (http://\S+)", line))
        )
    finally:
        process.terminate()
        process.communicate()


def shoot(page: Page, name: str, address: str, ready: Callable[[Page], Any], *, height: int = 800) -> None:
    """A picture of what is at an address, once it is ready."""
    page.set_viewport_size({"width": 1280, "height": height})
    page.goto(address)
    ready(page)
    page.wait_for_timeout(800)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(PICTURES / f"{name}.jpg", quality=82)
    print(f"{name}.jpg", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    work: Path = parser.parse_args().work
    if not (work / "photos").exists():
        draw_scenes(work / "photos", COUNT)
    (PICTURES.parent / "session.txt").write_text(session(work))

    PICTURES.mkdir(exist_ok=True)
    views_sheet(scene("sea", 0)).save(PICTURES / "views.jpg", quality=88)
    with sync_playwright() as driver, served(work) as address:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()

        def tiles(page: Page) -> None:
            page.wait_for_selector("img")
            page.wait_for_load_state("networkidle")

        shoot(page, "page", f"{address}/#id={list(KINDS).index('balloons')}", tiles)
        shoot(page, "map", f"{address}/#view=map", lambda page: page.wait_for_timeout(25_000))
        shoot(page, "report", (work / "runs/first/report.html").as_uri(), lambda page: None, height=1000)
        shoot(page, "gallery", (work / "gallery.html").as_uri(), tiles, height=700)
        shoot(page, "clusters", (work / "clusters.html").as_uri(), tiles, height=900)
        browser.close()


if __name__ == "__main__":
    main()
