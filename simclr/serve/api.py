"""The routes: check what is asked, call one function, answer. Images are found by their ids in the manifest, never by a path."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import BaseModel

import simclr
from simclr.embed.shards import Row
from simclr.embed.where import COLUMNS
from simclr.serve import answers, models
from simclr.serve.asking import Search
from simclr.serve.collection import Collection
from simclr.serve.edge import Edge
from simclr.serve.guard import COOKIE, Guard
from simclr.serve.limits import Limits, Refused
from simclr.serve.metrics import Metrics
from simclr.serve.openapi import json_body, json_or_form
from simclr.serve.page_files import add_page
from simclr.serve.pictures import SIZES, Shown
from simclr.serve.problems import add_problems
from simclr.serve.services import Services
from simclr.serve.uploads import Files, asked

THUMBNAIL_BYTES = 1 << 30
"""That thumbnails may take on disk."""
_IMAGE_POLICY = {"content-security-policy": "default-src 'none'; sandbox"}

ImageId = Annotated[int, InPath(ge=0, le=(1 << 63) - 1)]


def create_app(
    collection: Collection,
    *,
    thumbnails: Path,
    token: str | None = None,
    hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost", "::1"}),
    limits: Limits | None = None,
) -> FastAPI:
    """An ASGI application. `thumbnails`: a folder of ours alone. `hosts`: see `Guard`."""
    limits = limits or Limits()
    metrics = Metrics(collection)
    services = Services(collection, limits, metrics, kept=thumbnails, kept_bytes=THUMBNAIL_BYTES)
    guard = Guard(token=token, hosts=hosts, rate=limits.rate)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        services.close()

    app = FastAPI(
        title="simclr",
        summary="Visual search by SimCLR.",
        version=simclr.__version__,
        lifespan=lifespan,
        docs_url=None,  # they fetch their scripts from elsewhere
        redoc_url=None,
        responses={400: {"model": models.Problem, "description": "Any answer of 400 and above."}},
    )
    app.state.services = services
    app.add_middleware(Edge, guard=guard, limits=limits, metrics=metrics, most=8 * limits.waiting)
    add_problems(app)
    add_page(app)
    _add_search(app, services)
    _add_images(app, services)
    _add_views(app, services)
    _add_operations(app, services, guard, metrics)
    return app


def _add_search(app: FastAPI, services: Services) -> None:
    @app.post(
        "/search", response_model=models.Found, openapi_extra=json_or_form(models.SearchRequest, several=True)
    )
    async def search(request: Request) -> Response:
        """The images most like some, and unlike others: of the collection by their ids, or uploaded."""
        served = services.now
        body, files = await asked(request, models.SearchRequest)
        like = [*([] if body.id is None else [body.id]), *body.like]
        _check_examples(like, body, files)
        vectors = await services.vectors(served, [*files["file"], *files["unlike_file"]])
        count = len(files["file"])
        answer = await services.search(
            Search(
                served=served,
                k=body.k,
                like=like,
                unlike=body.unlike,
                like_vectors=vectors[:count],
                unlike_vectors=vectors[count:],
                where=body.where or None,
                exclude_self=body.exclude_self,
            )
        )
        one = len(like) + len(vectors) == 1 and not body.unlike
        make = partial(answers.found, served, answer, classes=body.classes, of_query=one)
        # what the classifier makes of a thousand hits may take seconds: others are answered meanwhile
        return _json(make() if served.classifier is None else await services.look_up(make))

    @app.post(
        "/classify",
        response_model=models.Classified,
        openapi_extra=json_or_form(models.ClassifyRequest, several=False),
    )
    async def classify(request: Request) -> Response:
        """What the classifier makes of an image of the collection, or of one that is uploaded."""
        served = services.now
        if served.classifier is None:
            raise Refused(404, served.without)
        body, files = await asked(request, models.ClassifyRequest)
        if files["unlike_file"] or len(files["file"]) + (body.id is not None) != 1:
            raise Refused(422, "give one image: a file, or an id.")
        if body.id is None:
            (vector,) = await services.vectors(served, files["file"])
        else:
            row = await services.row(served, body.id)
            vector = served.index.vectors([row.id])[0]
        return _json(await services.look_up(partial(answers.classified, served, vector)))


def _check_examples(like: list[int], body: models.SearchRequest, files: Files) -> None:
    """Raises Refused."""
    if not like and not files["file"]:
        raise Refused(422, "no image to look for. Give a file, or the id of an image of the collection.")
    count = len(like) + len(body.unlike) + len(files["file"]) + len(files["unlike_file"])
    if count > models.MOST_EXAMPLES:
        raise Refused(422, f"{count} images to look for at once, more than {models.MOST_EXAMPLES}.")


def _add_images(app: FastAPI, services: Services) -> None:
    @app.get("/images", response_model=models.Images)
    async def listing(
        where: Annotated[str | None, Query(description="A condition in SQL, as in: width > 800")] = None,
        limit: Annotated[int, Query(ge=1, le=models.MOST_HITS)] = 60,
        offset: Annotated[int, Query(ge=0, le=1 << 40)] = 0,
        seed: Annotated[
            int | None, Query(ge=0, lt=1 << 32, description="In an order shuffled by it.")
        ] = None,
        classes: Annotated[bool, Query(description="Say the predicted class of each.")] = False,
    ) -> Response:
        """Images of the collection, by id or shuffled."""
        served = services.now

        def work() -> models.Images:
            ids = _page_of(served.index.ids(where or None), offset, limit, seed)
            return models.Images(images=answers.images(served, ids[0], classes=classes), total=ids[1])

        return _json(await services.look_into(work))

    @app.get("/images/{id}", response_class=Response, responses={200: {"content": {"image/*": {}}}})
    async def image(id: ImageId, request: Request) -> Response:
        """The image itself; as JPEG where its kind is one that browsers do not show."""
        served = services.now
        row = await services.row(served, id)
        return await _shown(request, row, "", partial(services.original, served, row))

    @app.get("/images/{id}/details", response_model=models.Details)
    async def details(id: ImageId) -> Response:
        """All that is known of an image."""
        served = services.now
        row = await services.row(served, id)
        return _json(await services.look_up(partial(answers.details, served, row)))

    @app.get("/thumbnails/{id}", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
    async def small(
        id: ImageId,
        request: Request,
        size: Annotated[int, Query(description=f"Longest side, one of {SIZES}.")] = 256,
    ) -> Response:
        """A small JPEG of an image."""
        if size not in SIZES:
            raise Refused(422, f"size {size}: use one of {', '.join(map(str, SIZES))}.")
        served = services.now
        row = await services.row(served, id)
        return await _shown(request, row, f"-{size}", partial(services.thumbnail, served, row, size))


def _page_of(
    ids: NDArray[np.int64], offset: int, limit: int, seed: int | None
) -> tuple[NDArray[np.int64], int]:
    """Some of them, and how many there are."""
    if seed is not None:
        ids = np.random.default_rng(seed).permutation(ids)
    return ids[offset : offset + limit], len(ids)


async def _shown(request: Request, row: Row, variant: str, make: Callable[[], Awaitable[Shown]]) -> Response:
    """With a tag by which a browser asks whether what it has is still right, and no rights of its own."""
    tag = f'"{row.content_hash[:32]}{variant}"'
    headers = _IMAGE_POLICY | {"etag": tag, "cache-control": "private, max-age=300"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    shown = await make()
    return Response(shown.data, media_type=shown.media_type, headers=headers)


def _add_views(app: FastAPI, services: Services) -> None:
    pending: dict[int | str, dict[str, Any]] = {202: {"model": models.Pending}}

    @app.get("/collection", response_model=models.Collection)
    async def collection() -> Response:
        """What is served."""
        served = services.now
        info = served.index.info
        recall = info.measured.get("recall@10")
        return _json(
            models.Collection(
                name=services.collection.name,
                images=len(served.store),
                generation=served.generation,
                stale=served.index.stale,
                width=info.width,
                index=info.factory,
                recall=None if recall is None else float(recall),
                encoder=info.identity,
                classes=list(served.classifier.info.classes) if served.classifier is not None else [],
                columns=list(COLUMNS),
                upload_bytes=services.limits.upload_bytes,
                upload_pixels=services.limits.upload_pixels,
                version=simclr.__version__,
            )
        )

    @app.get("/map", response_model=models.Map, responses=pending)
    async def plane() -> Response:
        """A sample of the collection in the plane; 202 while it is laid out."""
        return _perhaps(services.map.ask(services.now))

    @app.get("/copies", response_model=models.Copies, responses=pending)
    async def groups() -> Response:
        """Groups of copies in the collection; 202 while they are looked for."""
        return _perhaps(services.copies.ask(services.now))


def _perhaps(found: BaseModel) -> Response:
    if isinstance(found, models.Pending):
        return Response(
            found.model_dump_json(),
            status_code=202,
            media_type="application/json",
            headers={"retry-after": "1"},
        )
    return _json(found)


def _add_operations(app: FastAPI, services: Services, guard: Guard, metrics: Metrics) -> None:
    @app.get("/healthz", response_model=models.Health)
    async def health() -> Response:
        """Whether it answers. Needs no token."""
        served = services.now
        return _json(models.Health(status="ok", images=len(served.store), generation=served.generation))

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def numbers() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post("/session", status_code=204, openapi_extra=json_body(models.SessionRequest))
    async def session(request: Request) -> Response:
        """A cookie for a token, so that a browser need not keep it."""
        body, _ = await asked(request, models.SessionRequest)
        if not guard.accepts(body.token):
            raise Refused(401, "wrong token.")
        response = Response(status_code=204)
        if guard.asks_token:
            secure = request.url.scheme == "https"
            response.set_cookie(COOKIE, guard.cookie, httponly=True, samesite="strict", secure=secure)
        return response


def _json(found: BaseModel) -> Response:
    return Response(found.model_dump_json(), media_type="application/json")
