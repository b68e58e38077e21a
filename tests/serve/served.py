"""What tests read out of answers, and what they send. Collected by nobody."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

RED, BLUE = (220, 30, 30), (40, 60, 220)
"""As `photos` has them."""


def photo(colour: tuple[int, int, int], kind: str = "PNG", size: tuple[int, int] = (20, 20)) -> bytes:
    """A plain image as a file."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def names(answer: Any) -> list[str]:
    """Of the images of an answer, in their order."""
    found = answer.json()
    return [Path(image["path"]).stem for image in found.get("hits", found.get("images"))]


def detail(answer: Any) -> str:
    assert list(answer.json()) == ["detail"] and "\n" not in answer.json()["detail"]
    return answer.json()["detail"]
