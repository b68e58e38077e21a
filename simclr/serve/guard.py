"""Who may ask, and how often: host, origin, token, rate. Looks at the head of a request; reads no body, answers nothing.

Without a token the server listens on this machine only. Then the name it was asked by must be one of this machine too:
else any web page could have its own name lead here, and read the answers (DNS rebinding).
"""

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from simclr.serve.limits import Refused

COOKIE = "simclr"
OPEN = ("/", "/healthz", "/session", "/favicon.ico")
"""Paths that tell nothing of the collection; with those of the page's own files."""
_CLIENTS = 10_000
"""Clients whose rate is remembered."""
_BURST = 10.0
"""Seconds' worth of requests that may come at once."""


class Guard:
    """Of one server."""

    def __init__(self, *, token: str | None, hosts: frozenset[str], rate: float) -> None:
        """`hosts`: names without ports that it may be asked by where there is no token. `rate`: see `Limits`."""
        self._token, self._hosts, self._rate = token, hosts, rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @property
    def cookie(self) -> str:
        """What a browser is given for the token, which it then need not keep."""
        assert self._token is not None
        return hmac.new(self._token.encode(), b"simclr session", hashlib.sha256).hexdigest()

    @property
    def asks_token(self) -> bool:
        return self._token is not None

    def accepts(self, token: str) -> bool:
        """Takes as long for a nearly right one as for any other."""
        return self._token is None or hmac.compare_digest(token.encode(), self._token.encode())

    def check(self, method: str, path: str, client: str, headers: Mapping[str, str]) -> None:
        """`headers`: names in lower case. Raises Refused."""
        host = headers.get("host", "")
        if self._token is None and _name(host) not in self._hosts:
            raise Refused(
                421,
                "this server answers only to names of its own machine. Start it with --token to use others.",
            )
        origin = headers.get("origin", "")
        if method not in ("GET", "HEAD") and origin and urlsplit(origin).netloc != host:
            raise Refused(403, "this comes from a page of another site.")
        self._take(client)
        if self._token is not None and path not in OPEN and not path.startswith("/page/"):
            self._check_token(headers)

    def _check_token(self, headers: Mapping[str, str]) -> None:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            if self.accepts(given.strip()):
                return
            raise Refused(401, "wrong token.")
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        if cookie is None or not hmac.compare_digest(cookie.value.encode(), self.cookie.encode()):
            raise Refused(401, "a token is needed: send it as `Authorization: Bearer TOKEN`.")

    def _take(self, client: str) -> None:
        """One request out of the client's bucket, which fills up again by the rate."""
        if not self._rate:
            return
        now, most = time.monotonic(), max(1.0, self._rate * _BURST)
        left, then = self._buckets.pop(client, (most, now))
        left = min(most, left + (now - then) * self._rate)
        self._buckets[client] = (max(0.0, left - 1), now)
        if len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)
        if left < 1:
            raise Refused(
                429, f"more than {self._rate:g} requests a second.", retry_after=(1 - left) / self._rate
            )


def _name(host: str) -> str:
    """Of a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
