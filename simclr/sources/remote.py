"""Files behind a URL: find them, copy them to the cache whole, read one, send one. Any protocol that fsspec knows.

Copies are told apart by what the server says of the file (size, time, ETag), so that a changed one is copied again; each
is written whole or not at all, so that a stopped start goes on with what is there.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from simclr.artifacts import write_atomically
from simclr.cache_folder import cache_folder
from simclr.errors import ConfigError, ImageError, MissingExtra, SimclrError, reason
from simclr.sources.cache import Note, key_of, needed
from simclr.sources.patterns import expand_braces

T = TypeVar("T")

_AT_ONCE = 4
"""Files copied at the same time."""
_WITHOUT_FOLDERS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss")
_TELLING = (
    "ETag", "etag", "LastModified", "last_modified", "mtime", "modified", "updated", "created", "md5Hash",
    "content_md5", "VersionId", "generation", "size",
)  # fmt: skip
"""What file systems of fsspec call the things that change with a file."""


def is_url(text: str) -> bool:
    return "://" in text


def find(url: str) -> list[str]:
    """The files that a URL with braces or a glob stands for; those in it if it is a folder."""
    words = expand_braces(url)
    found: list[str] = []
    for word in words:
        # a question mark begins the parameters of a web address
        if any(letter in word for letter in ("*[" if word.startswith("http") else "*?[")):
            files, path = _open(word)
            found += map(files.unstrip_protocol, sorted(_asked(word, partial(files.glob, path))))
        else:
            found.append(word)
    return list(dict.fromkeys(found))


def inside(url: str) -> list[str]:
    """The files directly in a remote folder, and one folder further down; none if it is no folder."""
    files, path = _open(url)

    def look() -> list[str]:
        return sorted(files.find(path, maxdepth=2)) if files.isdir(path) else []

    return [files.unstrip_protocol(name) for name in _asked(url, look)]


class Copy(NamedTuple):
    path: str
    stamp: int
    """Of the file, as `stamp` makes it."""


def copies(urls: Sequence[str], *, note: Note) -> list[Copy]:
    """Whole copies of these files in the cache. Raises ImageError, ConfigError, MissingExtra."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        targets = list(pool.map(_target, urls))
        missing = [
            (url, *target[:2]) for url, target in zip(urls, targets, strict=True) if not target[0].exists()
        ]
        if missing:
            size = sum(size or 0 for _, _, size in missing)
            note(
                f"copying {len(missing)} of {len(urls)} files ({size / 1e9:.2f} GB) to {cache_folder()}, once"
            )
        try:
            for _ in pool.map(lambda job: _copy(*job), missing):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [Copy(str(path), stamp) for path, _, stamp in targets]


def read(url: str) -> bytes:
    """The bytes of a file, from its copy, which is made where there is none. Raises ImageError without the path."""
    path = cache_folder() / "files" / key_of(url)
    try:
        if not path.exists():
            _copy(url, path, None)
        return path.read_bytes()
    except (SimclrError, OSError) as exc:
        raise ImageError(f"cannot be read: {reason(exc)}") from exc


def stream(url: str) -> BinaryIO:
    """A file to read from as it is now, without a copy. Raises ImageError, ConfigError, MissingExtra."""
    files, path = _open(url)
    opened: BinaryIO = _asked(url, lambda: files.open(path, "rb"))
    return opened


class Entry(NamedTuple):
    """A file or folder in a remote folder."""

    name: str
    is_folder: bool
    size: int
    """Bytes; -1 where the server does not say."""
    stamp: int


def entries(url: str) -> list[Entry]:
    """What lies directly in a remote folder, by name; empty if it is no folder. Raises ImageError, ConfigError."""
    files, path = _open(url)

    def look() -> list[dict[str, Any]]:
        files.invalidate_cache(path)
        return list(files.ls(path, detail=True))

    start = path.rstrip("/") + "/"
    found = {}
    for info in _asked(url, look):
        name = str(info["name"]).rstrip("/")
        if name.startswith(start) and "/" not in (rest := name[len(start) :]) and rest:
            size = info.get("size")
            size = size if isinstance(size, int) else -1
            found[rest] = Entry(rest, info.get("type") == "directory", size, stamp(info))
    return [found[name] for name in sorted(found)]


def sizes(url: str) -> dict[str, int]:
    """Bytes of all files below a remote folder, by their path in it; none where there is no such folder. Raises as `entries`."""
    files, path = _open(url)

    def look() -> dict[str, dict[str, Any]]:
        files.invalidate_cache(path)
        return dict(files.find(path, detail=True))

    start = path.rstrip("/") + "/"
    found = {str(name): info for name, info in _asked(url, look).items()}
    return {
        name.removeprefix(start): int(info["size"]) for name, info in found.items() if name.startswith(start)
    }


def fetch(url: str, path: Path) -> None:
    """Copy a file here, not atomically. Raises ImageError, also where it cannot be written, ConfigError, MissingExtra."""
    files, origin = _open(url)
    _asked(url, lambda: files.get_file(origin, str(path)))


def send(path: Path, url: str) -> None:
    """Copy a file there. Raises as `fetch`."""
    files, target = _open(url)

    def put() -> None:
        if (
            url.partition("://")[0] not in _WITHOUT_FOLDERS
        ):  # there it would make a bucket whose name is mistyped
            files.makedirs(os.path.dirname(target), exist_ok=True)
        files.put_file(str(path), target)

    _asked(url, put)


def remove(url: str) -> None:
    """Delete a file there. Raises as `fetch`."""
    files, target = _open(url)
    _asked(url, lambda: files.rm_file(target))


def stamp(info: dict[str, Any]) -> int:
    """A number of 63 bits that changes when what the server tells of a file does; 0 if it tells nothing."""
    told = [f"{key}={info[key]}" for key in _TELLING if info.get(key) is not None]
    return int(key_of(*told)[:16], 16) >> 1 if told else 0


def exists(url: str) -> bool:
    """Also where its server does not say."""
    files, path = _open(url)
    try:
        files.info(path)
    except FileNotFoundError as exc:
        return exc.__cause__ is not None and getattr(exc.__cause__, "status", None) != 404
    except Exception:  # each protocol has its own errors
        return True
    return True


def _target(url: str) -> tuple[Path, int | None, int]:
    """Where the copy of a file belongs, its size in bytes where the server says it, and its stamp."""
    files, path = _open(url)
    info = _asked(url, lambda: files.info(path))
    told = sorted((key, str(value)) for key, value in info.items())
    name = os.path.basename(path.rstrip("/").partition("?")[0])
    size = info.get("size")
    target = cache_folder() / "copies" / key_of(url, told) / name
    return target, size if isinstance(size, int) else None, stamp(info)


def _copy(url: str, path: Path, size: int | None) -> None:
    files, origin = _open(url)

    def write(temporary: Path) -> None:
        _asked(url, lambda: files.get_file(origin, str(temporary)))
        if size is not None and (got := temporary.stat().st_size) != size:
            raise ImageError(f"{url}: {got:,} of {size:,} bytes came. Start again.")

    with needed():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    files = _file_system(url.partition("://")[0], os.getpid())
    return files, files._strip_protocol(url)


@lru_cache
def _file_system(protocol: str, process: int) -> Any:
    """One for each process: its connections and threads do not survive a fork."""
    try:
        import fsspec
    except ImportError as exc:
        raise MissingExtra("fsspec", "train") from exc
    try:
        return fsspec.filesystem(protocol, skip_instance_cache=True)
    except ImportError as exc:
        if protocol in ("s3", "s3a"):
            raise MissingExtra("s3fs", "s3") from exc
        raise ConfigError(f"{protocol}://: cannot be opened ({reason(exc)}).") from exc
    except ValueError as exc:
        raise ConfigError(f"{protocol}://: no such protocol ({reason(exc)}).") from exc
    except Exception as exc:  # each protocol has its own: no credentials, no host, ...
        raise ConfigError(f"{protocol}://: cannot be opened ({reason(exc)}).") from exc


def _asked(url: str, ask: Callable[[], T]) -> T:
    """What the server answers; ImageError where it does not."""
    try:
        return ask()
    except FileNotFoundError as exc:
        cause = exc.__cause__  # fsspec calls a web server that does not answer a file that is not there
        if cause is not None and getattr(cause, "status", None) != 404:
            raise ImageError(f"{url}: cannot be reached ({reason(cause)}).") from exc
        raise ImageError(f"{url}: no such file. Mend its name.") from exc
    except ImportError as exc:
        raise ConfigError(f"{url}: cannot be opened ({reason(exc)}).") from exc
    except Exception as exc:  # each protocol has its own errors
        raise ImageError(f"{url}: cannot be reached or read ({reason(exc)}).{_advice(exc)}") from exc


def _advice(exc: Exception) -> str:
    """What mends it, where that can be told."""
    if type(exc).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return " Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
    return ""
