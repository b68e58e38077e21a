"""What goes wrong in a route -> an answer of one line. `Edge` answers what comes to it from further out."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from simclr.errors import ArtifactError, ConfigError
from simclr.serve import answers, models
from simclr.serve.uploads import first_problem

log = logging.getLogger("simclr.serve")


def add_problems(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, exc: RequestValidationError) -> Response:
        return _problem(422, first_problem(exc.errors()))

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, exc: HTTPException) -> Response:
        return _problem(exc.status_code, f"{request.method} here: {exc.detail}.", exc.headers)

    @app.exception_handler(ConfigError)
    async def unfit(request: Request, exc: ConfigError) -> Response:
        return _problem(422, str(exc))

    @app.exception_handler(ArtifactError)
    async def gone(request: Request, exc: ArtifactError) -> Response:
        """A shard that a writer has replaced a while ago, so that the next state is about to be opened; or one that is damaged."""
        log.warning("%s", exc)
        return _problem(503, "the collection is being changed. Try again in a second.", {"retry-after": "1"})


def _problem(status: int, detail: str, headers: Any = None) -> Response:
    body = models.Problem(detail=answers.printable(detail)).model_dump_json()
    return Response(body, status_code=status, media_type="application/json", headers=headers)
