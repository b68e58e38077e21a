"""What every request passes on its way in and out: the guard, the bounds of its body and its time, the headers of its answer.

An answer of 400 and above is one line of JSON. What goes wrong inside is told to the operator, with all that is known, and to
the client as a number of 500.
"""

import asyncio
import json
import logging
import math
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simclr.serve.guard import Guard
from simclr.serve.limits import Limits, Refused
from simclr.serve.metrics import Metrics

log = logging.getLogger("simclr.serve")

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "geolocation=(), microphone=(), payment=()",
}
"""Of every answer."""


class Edge:
    """ASGI middleware. `most`: requests that may be in here at once."""

    def __init__(self, app: ASGIApp, *, guard: Guard, limits: Limits, metrics: Metrics, most: int) -> None:
        self._app, self._guard, self._limits, self._metrics, self._most = app, guard, limits, metrics, most
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        answer = _Answer(send)
        body = _Body(receive, self._limits.upload_bytes)
        self._inside += 1
        try:
            if self._inside > self._most:
                raise Refused(503, "too many requests at once. Try again in a second.", retry_after=1)
            headers = Headers(scope=scope)
            client = scope["client"][0] if scope.get("client") else ""
            self._guard.check(scope["method"], scope["path"], client, headers)
            body.check_declared(headers.get("content-length"))
            async with asyncio.timeout(self._limits.seconds):
                await self._app(scope, body.receive, answer.send)
        except Refused as exc:
            await answer.refuse(exc)
        except TimeoutError:
            await answer.refuse(self._late(body))
        except Exception as exc:
            if body.too_large:  # what read it made another error of that
                await answer.refuse(body.refusal)
            else:
                log.exception("%s %s", scope["method"], scope["path"])
                await answer.refuse(Refused(500, f"something went wrong here ({type(exc).__name__})."))
        finally:
            self._inside -= 1
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(answer.status)).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - began)

    def _late(self, body: "_Body") -> Refused:
        seconds = f"{self._limits.seconds:g} s"
        if not body.complete:
            return Refused(408, f"the request took longer than {seconds} to arrive.")
        return Refused(503, f"no answer within {seconds}. Try again later.", retry_after=self._limits.seconds)


class _Body:
    """The body of a request, as far as it may go."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most = receive, most
        self._bytes = 0
        self.complete = False
        self.too_large = False
        self.refusal = Refused(413, f"more than {most:,} bytes. Send less, or a smaller image.")

    def check_declared(self, length: str | None) -> None:
        """Before a byte of it is read. Raises Refused."""
        if length is not None and length.isascii() and length.isdigit() and int(length) > self._most:
            raise self.refusal

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
            if self._bytes > self._most:
                self.too_large = True
                raise self.refusal
        return message


class _Answer:
    """The answer, with our headers; or a refusal in its place, while it has not begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 499
        """Until it begins; so the client has gone before."""
        self._begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun, self.status = True, message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        if self._begun:  # cut short, so that the client does not take it for whole
            raise RuntimeError(f"an answer that had begun was given up: {refused.detail}")
        headers: dict[str, Any] = {"content-type": "application/json"}
        if refused.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(refused.retry_after)))
        if refused.status == 401:
            headers["www-authenticate"] = "Bearer"
        if refused.status in (408, 413):  # the rest of its body is not waited for
            headers["connection"] = "close"
        data = json.dumps({"detail": refused.detail}, ensure_ascii=False).encode("utf-8", "replace")
        headers["content-length"] = str(len(data))
        start = {
            "type": "http.response.start",
            "status": refused.status,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        }
        await self.send(start)
        await self.send({"type": "http.response.body", "body": data})
