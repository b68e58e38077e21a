"""The body of a request -> what is asked, and the images that came with it. Decodes; searches nothing."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from simclr.errors import ImageError, TooLarge
from simclr.images import decode, sniff
from simclr.preprocess import Recipe
from simclr.serve import models
from simclr.serve.limits import Refused

_PART = 64 << 10
"""Bytes of a field that is no file."""
_LISTS = ("like", "unlike")
FILES = ("file", "unlike_file")

Asked = TypeVar("Asked", bound=models.Request)
Files = dict[str, list[bytes]]
"""By the names of FILES."""


async def asked(request: Request, kind: type[Asked]) -> tuple[Asked, Files]:
    """JSON, or a form with files. Raises Refused (400 damaged, 415 of another type, 422 not what is asked for)."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return await _form(request, kind)
    if media_type not in ("application/json", ""):
        raise Refused(
            415,
            f"content type {media_type[:80]!r}. Send multipart/form-data with a file, or application/json.",
        )
    body = await request.body()
    return checked(lambda: kind.model_validate_json(body, strict=True)), {name: [] for name in FILES}


def checked(make: Callable[[], Asked]) -> Asked:
    """Raises Refused (422) with the first thing that is wrong."""
    try:
        return make()
    except ValidationError as exc:
        raise Refused(422, first_problem(exc.errors(include_url=False))) from exc


def first_problem(errors: Any) -> str:
    """Of pydantic's list, on one line."""
    where = ".".join(str(part) for part in errors[0]["loc"] if part not in ("body", "query", "path"))
    return f"{where}: {errors[0]['msg']}." if where else f"{errors[0]['msg']}."


async def _form(request: Request, kind: type[Asked]) -> tuple[Asked, Files]:
    try:
        form = await request.form(
            max_files=models.MOST_EXAMPLES, max_fields=2 * models.MOST_EXAMPLES, max_part_size=_PART
        )
    except HTTPException as exc:
        raise Refused(400, f"the form cannot be read: {exc.detail}.") from exc
    async with _closing(form):
        files: Files = {name: [] for name in FILES}
        values: dict[str, Any] = {}
        for name, value in form.multi_items():
            if name in FILES:
                if not isinstance(value, UploadFile):
                    raise Refused(422, f"{name}: no file. Send it as one: curl -F {name}=@photo.jpg")
                files[name].append(await value.read())
            elif isinstance(value, UploadFile):
                raise Refused(422, f"{name[:80]}: is no file. The name for an image is: file")
            elif name in _LISTS:
                values.setdefault(name, []).append(value)
            else:
                values[name] = value
    return checked(lambda: kind.model_validate(values)), files


class _closing:
    """Temporary files of a form are gone afterwards."""

    def __init__(self, form: FormData) -> None:
        self._form = form

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *words: object) -> None:
        await self._form.close()


def pixels(data: bytes, recipe: Recipe, *, limit: int) -> NDArray[np.uint8]:
    """An image file -> (size, size, 3) uint8 as the encoder takes it; `limit` in pixels. Raises Refused."""
    if not data:
        raise Refused(422, "the file is empty.")
    if sniff(data[:32]) is None:
        raise Refused(415, "the file is not an image of a known format.")
    try:
        return recipe.apply(decode(data, enough=recipe.enough, pixel_limit=limit).image)
    except TooLarge as exc:
        raise Refused(413, f"the image is {exc}. Send a smaller one.") from exc
    except ImageError as exc:
        raise Refused(422, f"the image cannot be read: {exc}.") from exc
