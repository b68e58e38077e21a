"""A condition gives the ids that a loop over the rows gives; whatever else a stranger writes is refused in one line."""

import dataclasses
import os
import sqlite3
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from simclr.artifacts import SourceInfo
from simclr.embed import Store, where
from simclr.embed.shards import Row
from simclr.embed.where import Images
from simclr.embed.writer import writing
from simclr.errors import ArtifactError, ConfigError

FOLDER = "/data/O'Neill"
NAMES = [
    'bär "gross".jpg',
    "IMG_2024_1.jpg",
    "IMG_2024_2.JPG",
    "it's 100%.png",
    "海/夕日.webp",
    "sub/IMG_2024_3.png",
    "sub/x.jpg",
]
LISTED = ["rel/a.jpg", "/abs/b.jpg", "https://example.org/c.jpg?w=1"]
REMOTE = ["2024/d.jpg", "e.jpg"]
DAY = 86_400 * 10**9
ALL = list(range(1, 37, 3))
"""The ids of the twelve rows."""


def made_rows() -> list[Row]:
    places = [(0, name) for name in NAMES] + [(1, name) for name in LISTED] + [(2, name) for name in REMOTE]
    return [
        Row(
            id=3 * i + 1,
            source=source,
            image_path=name,
            size=1000 + 37 * (5 * i % 12),
            mtime_ns=1_704_067_199_999_999_999 + (i - 3) * DAY,  # the fourth: the last moment of 2023
            content_hash=f"{i // 2:064x}",
            width=(640, 800, 801, 4000)[i % 4],
            height=(480, 1200)[i % 2],
        )
        for i, (source, name) in enumerate(places)
    ]


def made_store(folder: Path, model: Path, *shards: list[Row]) -> Store:
    """Of a folder, a list of files and a bucket."""
    (folder / "list.txt").write_text("\n".join(LISTED))
    with writing(folder / "out.store", model=model, identity="made up", width=4) as writer:
        writer.add_sources(
            [
                SourceInfo(kind="folder", root=FOLDER),
                SourceInfo(kind="list", root=str(folder / "list.txt")),
                SourceInfo(kind="folder", root="s3://bucket/pictures"),
            ]
        )
        writer.new_ids(100)
        for rows in shards:
            writer.commit(rows, np.full((len(rows), 4), 0.5, np.float16))
    return Store.open(folder / "out.store")


@pytest.fixture(scope="module")
def store(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Twelve rows with gaps in their ids, in three shards."""
    rows = made_rows()
    return made_store(tmp_path_factory.mktemp("where"), model, rows[:7], rows[7:10], rows[10:])


@pytest.fixture(scope="module")
def images(store: Store) -> Images:
    return Images(store)


def modified(row: Row) -> str:
    return datetime.fromtimestamp(row.mtime_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def local(store: Store, row: Row) -> bool:
    return "://" not in store.path(row)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


TWINS: list[tuple[str, Callable[[Store, Row], bool]]] = [
    ("id = 4", lambda store, row: row.id == 4),
    ("id in (1, 2, 3, 4, 7)", lambda store, row: row.id in (1, 2, 3, 4, 7)),
    ("size > 1200", lambda store, row: row.size > 1200),
    ("width > 800", lambda store, row: row.width > 800),
    ("height = 480", lambda store, row: row.height == 480),
    ("width between 800 and 801", lambda store, row: 800 <= row.width <= 801),
    ("width * height > 1e6", lambda store, row: row.width * row.height > 1e6),
    (f"content_hash = '{3:064x}'", lambda store, row: int(row.content_hash, 16) == 3),
    ("image_path = 'sub/x.jpg'", lambda store, row: row.image_path == "sub/x.jpg"),
    ("source = 's3://bucket/pictures'", lambda store, row: row.source == 2),
    (f"source = {quoted(FOLDER)}", lambda store, row: row.source == 0),
    ("path like '%2024%'", lambda store, row: "2024" in store.path(row)),
    (
        "image_path like 'img%.jpg'",
        lambda store, row: row.image_path.lower() in ("img_2024_1.jpg", "img_2024_2.jpg"),
    ),
    ("image_path glob 'IMG*.jpg'", lambda store, row: row.image_path == "IMG_2024_1.jpg"),
    (r"image_path like '%100\%.png' escape '\'", lambda store, row: "100%" in row.image_path),
    ("path like '%2024%' and width > 800", lambda store, row: "2024" in store.path(row) and row.width > 800),
    ("width = 640 or height = 1200", lambda store, row: row.width == 640 or row.height == 1200),
    ("not (width = 640 or height = 1200)", lambda store, row: not (row.width == 640 or row.height == 1200)),
    ("lower(substr(path, -4)) = '.jpg'", lambda store, row: store.path(row)[-4:].lower() == ".jpg"),
    ("instr(path, '夕') > 0", lambda store, row: "夕" in row.image_path),
    ("modified >= '2024-01-01'", lambda store, row: local(store, row) and modified(row) >= "2024"),
    ("modified = '2023-12-31 23:59:59'", lambda store, row: row.image_path == "it's 100%.png"),
    ("strftime('%Y', modified) = '2023'", lambda store, row: local(store, row) and modified(row) < "2024"),
    (
        "size = (select max(size) from images)",
        lambda store, row: row.size == max(r.size for r in store.rows()),
    ),
    (
        "size > (select avg(size) from images) and width < (select max(width) from images where height = 480)",
        lambda store, row: (
            row.size > sum(r.size for r in store.rows()) / len(store)
            and row.width < max(r.width for r in store.rows() if r.height == 480)
        ),
    ),
    (
        "content_hash in (select content_hash from images where source like 's3%' group by content_hash having count(*) > 1)",
        lambda store, row: row.source == 2,
    ),
    (
        "exists (select 1 from images as b where b.width = images.width and b.id < images.id)",
        lambda store, row: any(r.width == row.width and r.id < row.id for r in store.rows()),
    ),
    ('"width" > 800', lambda store, row: row.width > 800),
    ("images.width > 800 -- the wide ones", lambda store, row: row.width > 800),
    ("width /* ) or ( */ > 800", lambda store, row: row.width > 800),
    ("path like '%) or (select%'", lambda store, row: False),
    ("1", lambda store, row: True),
    ("null", lambda store, row: False),
]


@pytest.mark.parametrize(("condition", "predicate"), TWINS, ids=[condition for condition, _ in TWINS])
def test_a_condition_gives_the_ids_that_a_loop_over_the_rows_gives(condition, predicate, images, store):
    expected = [row.id for row in store.rows() if predicate(store, row)]
    assert images.ids(condition).tolist() == expected


def test_a_condition_that_no_image_meets_gives_no_ids_of_64_bits(images):
    found = images.ids("width > 9000")
    assert (found.dtype, found.shape) == (np.int64, (0,))


def test_ids_have_64_bits(images):
    assert images.ids("width > 800").dtype == np.int64


def test_ids_ascend_where_the_rows_do_not(model, tmp_path):
    assert Images(made_store(tmp_path, model, made_rows()[::-1])).ids("1").tolist() == ALL


def test_a_store_without_shards_has_no_ids(store):
    nothing = Store(store.folder, dataclasses.replace(store.info, shards=()))
    assert Images(nothing).ids("1").tolist() == []


def test_a_time_of_change_before_1970_is_rounded_down(model, tmp_path):
    row = dataclasses.replace(made_rows()[0], mtime_ns=-1)
    images = Images(made_store(tmp_path, model, [row]))
    assert images.ids("modified = '1969-12-31 23:59:59'").tolist() == [row.id]


def test_images_of_other_machines_have_no_time_of_change(images, store):
    assert images.ids("modified is null").tolist() == [
        row.id for row in store.rows() if not local(store, row)
    ]


# ---- paths


def test_paths_of_a_folder_a_list_and_a_bucket_are_those_of_the_hits(images, store):
    found = [images.ids(f"path = {quoted(store.path(row))}").tolist() for row in store.rows()]
    assert found == [[row.id] for row in store.rows()]


@pytest.fixture
def packed(photos: Path, tmp_path: Path) -> dict[str, Path]:
    """The twelve photos as each kind of source."""
    files = sorted(photos.rglob("*.png"))
    with tarfile.open(tmp_path / "a.tar", "w") as tar, zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in files:
            tar.add(file, file.relative_to(photos).as_posix())
            archive.write(file, file.relative_to(photos).as_posix())
    pq.write_table(pa.table({"image": [file.read_bytes() for file in files]}), tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_text("\n".join(os.path.relpath(file, tmp_path) for file in files))
    return {kind: tmp_path / f"a.{kind}" for kind in ("tar", "zip", "parquet", "txt")} | {"folder": photos}


@pytest.mark.parametrize("kind", ["folder", "txt", "tar", "zip", "parquet"])
def test_paths_are_those_of_the_store_whatever_the_source(kind, packed, embed, tmp_path):
    embed(packed[kind])
    store = Store.open(tmp_path / "out.store")
    images = Images(store)
    found = [images.ids(f"path = {quoted(store.path(row))}").tolist() for row in store.rows()]
    assert found == [[row.id] for row in store.rows()]
    assert len(found) == 12


# ---- what is refused

DEEP = "select size as x from images"
for _ in range(6):
    DEEP = f"select {' + '.join(['x'] * 20)} as x from ({DEEP})"

REFUSED = [
    "",
    " \n\t",
    "1) --",
    "1) /*",
    "1 /*",
    "1); drop table images",
    "1); drop table images --",
    "1; drop table images",
    "1;",
    "1) union select 5 --",
    "1) union select 5 from (select 1",
    "1 union select 5",
    "1) or (1",
    "(1",
    "1)",
    ")(",
    "1) limit 1 --",
    "1 from images",
    "1 order by 1",
    "1 as x",
    "1, 1",
    "*",
    "distinct 1",
    "'open",
    "path = 'a\0b'",
    "path = '\udcff'",
    "width >",
    "select 1",
    "(select 1 union select 2)",
    "id in (values (1))",
    "exists (with a as (select 1) select 1 from a)",
    "exists (with recursive a(n) as (select 1 union all select n + 1 from a) select 1 from a)",
    "exists (select 1 from (select 1))",
    f"exists ({DEEP})",
    "attach database 'x.db' as x",
    "1); attach database 'x.db' as x --",
    "pragma table_info(images)",
    "exists (select 1 from pragma_table_info('images'))",
    "exists (select 1 from sqlite_master)",
    "exists (select sql from sqlite_schema)",
    "exists (select 1 from json_each('[1]'))",
    "load_extension('x.so')",
    "randomblob(9) is null",
    "zeroblob(9) is null",
    "random() > 0",
    "printf('%1000d', 1) = ''",
    "format('%1000d', 1) = ''",
    "replace(path, '', path) = ''",
    "hex(path) = ''",
    "quote(path) = ''",
    "group_concat(path) = ''",
    "trim(path, path) = ''",
    "sqlite_version() > ''",
    "row_number() over () = 1",
    "path match 'x'",
    "path regexp 'x'",
    "path -> 1",
    "max(size)",
    "size = max(size)",
    "rowid = 1",
    "_rowid_ = 1",
    "width > ?",
    "width > :width",
    "insert into images values (9)",
    "1); update images set width = 0 --",
    "1); delete from images --",
    "1); create table x (a) --",
    "1); vacuum into 'x.db' --",
    "1); begin --",
    "explain select 1",
    "1" + " or 1" * 500,
    "1" + " " * 4000,
    "path like '" + "%a" * 300 + "'",
    "abs(-9223372036854775807 - 1) > 0",
    "colour = 'red'",
    "\"colour\" = 'red'",
    "[colour] = 'red'",
    "`colour` = 'red'",
    'path = "sub/x.jpg"',
]


@pytest.mark.parametrize("condition", REFUSED, ids=[ascii(condition)[:60] for condition in REFUSED])
def test_what_is_not_one_condition_on_the_columns_is_refused_and_leaves_the_table_whole(
    condition, images, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        images.ids(condition)
    assert str(caught.value).isprintable()
    assert images.ids("width > 0 and path > ''").tolist() == ALL
    assert list(tmp_path.iterdir()) == []


def test_an_error_says_what_was_found_and_where_and_names_the_columns(images):
    with pytest.raises(ConfigError) as caught:
        images.ids("colour = 'red'")
    assert str(caught.value) == (
        "where \"colour = 'red'\": no such column: colour. Write one condition on the columns id, path, image_path, "
        "source, size, modified, width, height, content_hash, as in: path like '%2024%' and width > 800"
    )


def test_a_blank_condition_is_called_empty(images):
    with pytest.raises(ConfigError, match=r"^where ' ': empty\. Write one condition"):
        images.ids(" ")


def test_a_text_in_double_quotes_is_no_column(images):
    with pytest.raises(ConfigError, match='no such column: "red"; a text stands in single quotes'):
        images.ids('path = "red"')


def test_a_long_condition_is_quoted_in_part(images):
    with pytest.raises(ConfigError) as caught:
        images.ids("x" * 3000)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "condition",
    [
        f"(select count(*) from images a{''.join(f', images a{i}' for i in range(20))}) > 0",
        f"exists (select 1 from images a{''.join(f', images a{i}' for i in range(20))} where a.size + a9.size < 0)",
    ],
)
def test_a_condition_that_takes_long_is_stopped(condition, images, monkeypatch):
    monkeypatch.setattr(where, "SECONDS", 0.05)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"stopped after 0\.05 seconds"):
        images.ids(condition)
    assert time.monotonic() - began < 5
    assert len(images.ids("1")) == 12


def test_every_permitted_function_is_one_of_sqlite():
    with closing(sqlite3.connect(":memory:")) as any_table:
        known = {name for (name,) in any_table.execute("select name from pragma_function_list")}
    assert known >= where._FUNCTIONS


@pytest.mark.parametrize(
    "condition",
    [
        "abs(width) > 0",
        "coalesce(null, 1)",
        "date('now') > '2000'",
        "current_timestamp > '2000'",
        "ifnull(null, 1)",
        "iif(width > 0, 1, 0)",
        "julianday('2024-01-01') = 2460310.5",
        "length(upper(path)) > 0",
        "nullif(1, 2)",
        "round(1.4) = 1",
        "min(width, 9) = 9",
        "typeof(width) = 'integer'",
        "(select total(width) from images) = (select sum(width) from images)",
    ],
)
def test_functions_of_numbers_texts_and_dates_are_there(condition, images):
    assert len(images.ids(condition)) == 12


# ---- a store, and a server


def test_the_metadata_are_read_once(store, monkeypatch):
    calls = []
    tables = store.tables
    monkeypatch.setattr(store, "tables", lambda: calls.append(1) or tables())
    images = Images(store)
    assert calls == []
    images.ids("1")
    images.ids("width > 800")
    assert calls == [1]


def test_a_damaged_store_says_so_each_time(model, tmp_path):
    store = made_store(tmp_path, model, made_rows())
    path = store.folder / "metadata" / "metadata_00000.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    images = Images(store)
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"metadata_00000\.parquet: damaged .* simclr store check"):
            images.ids("1")


def test_threads_get_each_their_own_answer(store):
    images = Images(store)
    found: dict[int, list[list[int]]] = {}

    def ask(id: int) -> None:
        found[id] = [images.ids(f"id = {id}").tolist() for _ in range(20)]

    threads = [threading.Thread(target=ask, args=(row.id,), daemon=True) for row in store.rows()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert found == {row.id: [[row.id]] * 20 for row in store.rows()}


# ---- any comparison, any text at all

comparisons = st.tuples(
    st.sampled_from(["id", "size", "width", "height"]),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.sampled_from([0, 4, 7, 480, 640, 800, 801, 1000, 1111, 1200, 4000]),
).map(lambda parts: " ".join(map(str, parts)))
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        inner.map("not ({})".format),
        st.lists(inner, min_size=2, max_size=4).map(" and ".join),
        st.lists(inner, min_size=2, max_size=4).map(" or ".join),
    ),
    max_leaves=8,
)


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
@given(condition=conditions)
def test_comparisons_mean_what_they_mean_in_python(condition, images, store):
    expected = [row.id for row in store.rows() if eval(condition, {}, vars(row))]
    assert images.ids(condition).tolist() == expected


WORDS = [
    *where.COLUMNS,
    *"images select from where ( ) , ; * + || = < > ' \" ` [ ] -- /* */ \n 1 0.5 -1 'a%' and or not null in is as".split(
        " "
    ),
    *"like glob between exists union with recursive values join order by limit group having max( count(* over".split(),
    *"case when then else end cast( collate nocase distinct attach pragma ? :a $a( x'ff' \0 \udcff é \x1c".split(
        " "
    ),
]
texts = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join),
    st.lists(st.sampled_from(WORDS), max_size=6).map("".join),
    st.lists(st.sampled_from(WORDS), max_size=6).map(lambda words: f"width > 0 {' '.join(words)}"),
    st.lists(st.sampled_from(WORDS), max_size=6).map(
        lambda words: f"id in (select {' '.join(words)} from images)"
    ),
)


@settings(
    max_examples=1500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
@given(condition=texts)
@example(condition="1e999 = path")
@example(condition="path = '\ud800'")
@example(condition="(" * 1900 + "1" + ")" * 1900)
@example(condition="\0")
@example(condition='"\r"')
@example(condition="\x1b[31m")
def test_any_text_gives_ids_of_the_store_or_is_refused_in_one_line(condition, images):
    try:
        found = images.ids(condition)
    except ConfigError as exc:
        assert str(exc).isprintable()
    else:
        assert found.dtype == np.int64
        assert set(found.tolist()) <= set(ALL)
        assert np.all(np.diff(found) > 0)
