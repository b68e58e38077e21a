"""A listening socket and the loop behind it: where to bind, what to say, how to end. Reads top to bottom."""

import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simclr.cache_folder import own_folder
from simclr.errors import ConfigError, MissingExtra
from simclr.serve.collection import Collection
from simclr.serve.limits import Limits

BACKLOG = 1024
_LONGEST_HEADER = 16 << 10
"""Bytes of the head of a request."""
_RATE_ELSEWHERE = 100.0
"""Requests a second of one client where others than this machine can ask: what a page full of thumbnails takes."""


def serve(
    path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    store: Path | None = None,
    model: Path | None = None,
    classifier: Path | None = None,
    rate: float | None = None,
    note: Callable[[str], None],
) -> None:
    """Answer until Ctrl-C or SIGTERM; what has begun is finished.

    `rate`: see `Limits`; None is none on this machine, and 100 elsewhere. Raises ConfigError (host and token, a port that is taken),
    MissingExtra, and what `Collection.open` raises.
    """
    if token is not None and not token.strip():
        raise ConfigError("--token is empty. Give a long random one, as of: openssl rand -hex 16")
    if not is_loopback(host) and token is None:
        raise ConfigError(
            f"--host {host} can be reached from other machines: give a --token, or use 127.0.0.1 for this machine alone."
        )
    limits = Limits(rate=rate if rate is not None else 0.0 if is_loopback(host) else _RATE_ELSEWHERE)
    with _listening(host, port) as listener:
        # index and encoder are loaded by other libraries while Python imports ours: half a second less to the first answer
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(Collection.open, path, store=store, model=model, classifier=classifier)
            uvicorn = _uvicorn()
            from simclr.serve.api import create_app
            from simclr.serve.patience import patient

            collection = opening.result()
        collection.watch(note)
        hosts = frozenset({"127.0.0.1", "localhost", "::1", host})
        app = create_app(
            collection, thumbnails=own_folder("thumbnails"), token=token, hosts=hosts, limits=limits
        )
        logging.getLogger("simclr.serve").addHandler(logging.StreamHandler())
        config = uvicorn.Config(
            app,
            http=patient(limits.seconds / 3),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=_LONGEST_HEADER,
            backlog=BACKLOG,
            timeout_graceful_shutdown=int(limits.seconds),
        )
        index, served = collection.now.index, collection.now
        classes = f", {len(served.classifier.info.classes)} classes" if served.classifier is not None else ""
        note(
            f"{len(index.store):,} images, {index.info.factory}, encoder on {index.encoder.backend}{classes}"
        )
        where = f"serving at {address(listener, host)} (Ctrl-C ends)"
        _server(uvicorn, config, ready=lambda: note(where)).run(sockets=[listener])
        note("ended: everything that had begun was answered.")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address(listener: socket.socket, host: str) -> str:
    """What to type into a browser."""
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # said to be TCP, so that asyncio turns off Nagle's algorithm: a head without its body would wait 40 ms
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except (OSError, OverflowError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise ConfigError(
            f"{host}:{port}: cannot listen there ({why}). Give another --port, or --host."
        ) from exc
    return listener


def _server(uvicorn: Any, config: Any, *, ready: Callable[[], None]) -> Any:
    """One that says when it answers, and ends by Ctrl-C or SIGTERM as by any other reason: uvicorn's own sends itself the signal again once it has ended well."""

    class Server(uvicorn.Server):  # type: ignore[misc]
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)

    return Server(config)


def _uvicorn() -> Any:
    for package, name in (
        ("fastapi", "fastapi"),
        ("python_multipart", "python-multipart"),
        ("prometheus_client", "prometheus-client"),
    ):
        try:
            __import__(package)
        except ImportError:
            raise MissingExtra(name, "serve") from None
    try:
        import uvicorn
    except ImportError:
        raise MissingExtra("uvicorn", "serve") from None
    return uvicorn
