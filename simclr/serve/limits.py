"""How much a client may ask for, and what it is told when it asks for more. Numbers only; `edge.py` and `pool.py` hold to them."""

from dataclasses import dataclass

from simclr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one server."""

    upload_bytes: int = 32 << 20
    """Body of a request, all files of it together."""
    upload_pixels: int = 50_000_000
    """Of one image, in pixels: 150 MB as RGB."""
    seconds: float = 30.0
    """For a request, from its first byte to the last of the answer; for its headers alone, a third."""
    rate: float = 0.0
    """Requests a second of one client, after ten seconds' worth at once; 0 is no limit."""
    waiting: int = 256
    """Searches that may wait for their turn, and as many images. More are told to come again."""

    def __post_init__(self) -> None:
        for name, least in (("upload_bytes", 1), ("upload_pixels", 1), ("seconds", 0.1), ("waiting", 1)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name} ({getattr(self, name):g}) must be at least {least:g}.")
        if not 0 <= self.rate < float("inf"):
            raise ConfigError(f"rate ({self.rate:g}) must be requests a second, or 0 for no limit.")


class Refused(Exception):
    """An answer of 400 or above: the status, one line for the client, and after how many seconds it may ask again."""

    def __init__(self, status: int, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after = status, detail, retry_after


def busy() -> Refused:
    """The answer to more than can wait."""
    return Refused(503, "too many requests are waiting. Try again in a second.", retry_after=1)
