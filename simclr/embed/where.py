"""A condition in SQL -> the ids of the images that meet it, over the metadata of a store.

    images = Images(store)
    images.ids("path like '%2024%' and width > 800")
    images.ids("size = (select max(size) from images) or modified >= '2024-01-01'")

The condition may come from a stranger: SQLite reads one expression, may look at the table `images` and nothing else, and
is stopped when it takes long. Looks at no vector and no file of an image.
"""

import re
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import chain, islice
from threading import Event, Lock, Thread

import numpy as np
from numpy.typing import NDArray

from simclr.embed.shards import numbers
from simclr.embed.store import Store
from simclr.errors import ConfigError, reason
from simclr.sources import is_url, openable

COLUMNS = ("id", "path", "image_path", "source", "size", "modified", "width", "height", "content_hash")
"""`path`: as hits show it. `image_path`: below `source`, the root of its source. `size`: bytes. `modified`: UTC, as in
2024-12-31 23:59:59; NULL of remote images, whose stamp is no time. `width`, `height`: pixels of the upright image."""

SECONDS = 10.0
"""A condition may take this long. A million rows are read in less than one: longer means each row with each other row."""

_LONGEST = 4000
"""Characters of a condition: a screenful."""
_LIMITS = {
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 4 * _LONGEST + 100,  # bytes
    sqlite3.SQLITE_LIMIT_LENGTH: 30_000,  # bytes of a value, and of a row of the table: paths of 9,000
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 500,  # `like` takes text times pattern, and cannot be stopped on the way
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,  # a chain of 200 `or`
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 1,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}

_AT_ONCE = 32
"""Rows in one statement on their way into the table: Python's lock, let go for each, is asked for less often."""

_FUNCTIONS = frozenset(
    "abs avg coalesce count current_date current_time current_timestamp date datetime glob ifnull iif instr julianday "
    "length like lower max min nullif round strftime substr substring sum time total typeof unixepoch upper".split()
)
"""Those that are quick, make no long text of a short one, and tell nothing of this machine but the time. `trim` takes
text times text."""

_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|\[[^]]*]|--[^\n]*|/\*.*?\*/""", re.DOTALL)
"""Texts, quoted names and comments, by SQLite's rules."""
_WORD = r"\b(?:select|values|with)\b"
_PLAIN = re.compile(rf"\((?:(?!{_WORD})[^()])*\)", re.IGNORECASE)
_SUBQUERY = re.compile(rf"\(\s*select\b(?:(?!{_WORD})[^()])*\)", re.IGNORECASE)


class Images:
    """The metadata of a store as the table `images` of COLUMNS, made on first use and kept: about 350 bytes a row.

    Several threads may ask it; they wait for one another.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = Lock()
        self._table: sqlite3.Connection | None = None

    def ids(self, where: str) -> NDArray[np.int64]:
        """(N,) ids of the images that meet a condition, ascending, each once.

        Functions are those of dates, texts and aggregates; a subquery reads `images` and holds no other. `like` takes
        A-Z for a-z, `glob` and `=` do not. Raises ConfigError where SQLite does not take the condition or needs more
        than SECONDS, ArtifactError where the metadata of the store are damaged.
        """
        if why := _unfit(where):
            raise _refusal(where, why)
        with self._lock:
            if self._table is None:
                self._table = _filled(self._store)
                weakref.finalize(self, self._table.close).atexit = False  # Python 3.13 warns of one left open
            try:
                with _stopped_late(self._table):
                    # `1) or (1` is no expression by itself, `*` none in parentheses; the line ends close a comment
                    self._table.execute(f"explain select\n{where}\nfrom images").close()
                    with closing(self._table.execute(f"select id from images where (\n{where}\n)")) as found:
                        return np.sort(np.fromiter((id for (id,) in found), np.int64))
            except (sqlite3.Error, ValueError) as exc:  # ValueError: half a surrogate pair
                late = getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT
                raise _refusal(where, f"stopped after {SECONDS:g} seconds" if late else reason(exc)) from exc


@contextmanager
def _stopped_late(table: sqlite3.Connection) -> Iterator[None]:
    """Not by SQLite's progress handler, which waits for Python's lock each time it looks at the clock."""
    done = Event()

    def watch() -> None:
        while not done.wait(SECONDS):  # again and again, as SQLite forgets one that comes before it has begun
            table.interrupt()

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _unfit(where: str) -> str:
    """What SQLite itself would let pass, or choke on; empty where there is nothing."""
    if not where.strip():
        return "empty"
    if len(where) > _LONGEST:
        return f"{len(where):,} characters, more than {_LONGEST:,}"
    for quoted in _QUOTED.findall(where):  # SQLite takes an unknown name in double quotes for a text
        if quoted[0] == '"' and quoted[1:-1].lower() not in COLUMNS:
            return f"no such column: {quoted}; a text stands in single quotes"
    # SQLite writes out a select once for each mention of it or of its columns: nested ones fill the memory before the
    # clock is looked at. Without what is in parentheses and holds none, only those that hold others remain.
    bare, before = _QUOTED.sub(" ", where), ""
    while bare != before:
        bare, before = _PLAIN.sub(" ", bare), bare
    if word := re.search(_WORD, _SUBQUERY.sub(" ", bare), re.IGNORECASE):
        return f"{word[0]!r} other than in (select ... from images ...) with no further one inside"
    return ""


def _refusal(where: str, why: str) -> ConfigError:
    shown = where if len(where) <= 200 else where[:200] + "..."
    found = "".join(letter if letter.isprintable() else "?" for letter in why[:200]).rstrip(".")
    return ConfigError(
        f"where {shown!r}: {found}. "
        f"Write one condition on the columns {', '.join(COLUMNS)}, as in: path like '%2024%' and width > 800"
    )


def _filled(store: Store) -> sqlite3.Connection:
    """The table, from now on for reading only. Raises ArtifactError."""
    table = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        # no index: SQLite then has few ways to answer, and finds one at once; a scan is fast enough
        table.execute(
            "create table images (id integer, path text, image_path text, source text, size integer, "
            "modified text, width integer, height integer, content_hash text)"
        )
        with table:
            rows = _rows(store)
            while some := list(islice(rows, _AT_ONCE)):
                places = ", ".join([f"({', '.join('?' * len(COLUMNS))})"] * len(some))
                table.execute(f"insert into images values {places}", list(chain.from_iterable(some)))
    except BaseException:
        table.close()
        raise
    for limit, value in _LIMITS.items():
        table.setlimit(limit, value)
    table.set_authorizer(_permitted)
    return table


def _rows(store: Store) -> Iterator[tuple[int | str | None, ...]]:
    """COLUMNS of each row. The paths are those of `Store.path`, which looks on the disk for the folder of a list each time."""
    roots = [source.root for source in store.info.sources]
    folders = [openable(source.kind, source.root, "") for source in store.info.sources]
    for shard in store.tables():
        sources, names = shard["source"].to_pylist(), shard["image_path"].to_pylist()
        paths = [openable("folder", folders[i], name) for i, name in zip(sources, names, strict=True)]
        seconds = (numbers(shard, "mtime_ns") // 10**9).astype("datetime64[s]")
        times = [text.replace("T", " ") for text in np.datetime_as_string(seconds).tolist()]
        yield from zip(
            shard["id"].to_pylist(),
            paths,
            names,
            [roots[i] for i in sources],
            shard["size"].to_pylist(),
            [None if is_url(path) else time for path, time in zip(paths, times, strict=True)],
            *(shard[column].to_pylist() for column in ("width", "height", "content_hash")),
            strict=True,
        )


def _permitted(
    action: int, first: str | None, second: str | None, _database: str | None, _by: str | None
) -> int:
    """SQLite's authoriser: asked for each thing that a statement would do, while it is compiled."""
    permitted = (
        action == sqlite3.SQLITE_SELECT
        # no column: count(*). Not ROWID, which is no id
        or (action == sqlite3.SQLITE_READ and first == "images" and (not second or second in COLUMNS))
        or (action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS)
    )
    return sqlite3.SQLITE_OK if permitted else sqlite3.SQLITE_DENY
