"""Classes and splits of a store's images, from folders and from tables, and what makes no sense."""

import re
from pathlib import Path

import pytest

from simclr.classify.labels import FOLDERS, Labels, read_labels
from simclr.errors import ConfigError


def by_row(labels: Labels) -> dict[int, str]:
    names = [labels.classes[i] for i in labels.labels_N]
    return dict(zip(labels.rows_N.tolist(), names, strict=True))


@pytest.fixture
def table(tmp_path: Path):
    def table(*lines: str, folder: Path = tmp_path, head: str = "path,label") -> Path:
        folder.mkdir(exist_ok=True)
        (folder / "labels.csv").write_text("\n".join([head, *lines]) + "\n")
        return folder / "labels.csv"

    return table


# ---- folders


def test_the_class_is_the_first_folder(put):
    labels = read_labels(put(["cat/1.png", "dog/a/2.png", "cat/b/c/3.png"]), FOLDERS)
    assert labels.classes == ("cat", "dog")
    assert by_row(labels) == {0: "cat", 1: "dog", 2: "cat"}
    assert labels.tests_N is None


def test_train_and_test_beside_one_another_are_splits(put):
    labels = read_labels(put(["train/cat/1.png", "train/dog/2.png", "test/cat/3.png"]), FOLDERS)
    assert by_row(labels) == {0: "cat", 1: "dog", 2: "cat"}
    assert labels.tests_N.tolist() == [False, False, True]


def test_of_several_test_splits_the_first_is_taken_and_the_others_are_left_out(put):
    notes = []
    names = ["train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "test/cat/4.png"]
    labels = read_labels(put(names), FOLDERS, note=notes.append)
    assert by_row(labels) == {0: "cat", 1: "dog", 3: "cat"}
    assert labels.tests_N.tolist() == [False, False, True]
    assert len(notes) == 1 and notes[0].startswith("1 of the 4 images of ")


def test_a_train_folder_without_a_test_is_a_split_all_the_same(put):
    labels = read_labels(put(["train/cat/1.png", "train/dog/2.png"]), FOLDERS)
    assert (labels.classes, labels.tests_N) == (("cat", "dog"), None)


def test_a_class_may_be_called_train(put):
    assert read_labels(put(["train/1.png", "bus/2.png"]), FOLDERS).classes == ("bus", "train")


def test_sources_that_are_class_folders_are_classes(put, tmp_path):
    store = put(["1.png", "2.png"], ["3.png"], roots=[tmp_path / "cat", tmp_path / "dog"])
    assert by_row(read_labels(store, FOLDERS)) == {0: "cat", 1: "cat", 2: "dog"}


def test_images_without_a_folder_are_refused(put):
    with pytest.raises(ConfigError, match=r"1 of its images lie directly in their source \(2\.png\)"):
        read_labels(put(["cat/1.png", "2.png", "dog/3.png"]), FOLDERS)


def test_copies_have_the_same_content(put):
    store = put(["cat/1.png", "dog/2.png", "cat/3.png"], contents=["aa", "bb", "aa"])
    assert read_labels(store, FOLDERS).contents_N.tolist() == ["aa", "bb", "aa"]


# ---- tables


@pytest.mark.parametrize("way", ["from the table", "from images/", "absolute", "from the source"])
def test_paths_of_a_table_count_from_many_places(put, table, tmp_path, way):
    root = {"from images/": tmp_path / "images", "from the source": tmp_path / "far"}.get(way, tmp_path)
    store = put(["x/1.png", "x/2.png", "3.png"], roots=[root])
    base = f"{tmp_path}/" if way == "absolute" else ""
    labels = read_labels(store, table(f"{base}x/2.png,dog", f"{base}3.png,cat", f"{base}x/1.png,dog"))
    assert by_row(labels) == {0: "dog", 1: "dog", 2: "cat"}


def test_images_that_a_table_does_not_name_are_left_out_and_counted(put, table, tmp_path):
    notes = []
    store = put(["1.png", "2.png", "3.png"], roots=[tmp_path])
    labels = read_labels(store, table("1.png,a", "3.png,b"), note=notes.append)
    assert by_row(labels) == {0: "a", 2: "b"}
    assert notes == [f"1 of the 3 images of {store.folder} have no class, and are left out"]


def test_a_column_says_which_images_test(put, table, tmp_path):
    store = put(["1.png", "2.png", "3.png"], roots=[tmp_path])
    labels = read_labels(
        store, table("3.png,a,test", "1.png,a,train", "2.png,b,train", head="path,label,split")
    )
    assert labels.tests_N.tolist() == [False, False, True]


def test_images_that_are_not_in_the_store_are_refused(put, table, tmp_path):
    store = put(["1.png", "2.png"], roots=[tmp_path])
    with pytest.raises(
        ConfigError, match=re.escape(f"1 of the 3 images it names are not in {store.folder} (9.png)")
    ):
        read_labels(store, table("1.png,a", "2.png,b", "9.png,b"))


def test_a_name_that_two_sources_have_is_refused(put, table, tmp_path):
    store = put(["1.png"], ["1.png", "2.png"])
    with pytest.raises(ConfigError, match=r"1\.png is in several sources"):
        read_labels(store, table("1.png,a", "2.png,b", folder=tmp_path / "elsewhere"))


WRONG = {
    "one class": (["1.png,a", "2.png,a"], r"one class only \(a\)"),
    "no label": (["1.png,a", "2.png,"], "line 3 has no label"),
    "no path": ([",a", "2.png,b"], "line 2 has no path"),
    "twice": (["1.png,a", "1.png,b"], "1.png is named 2 times"),
    "nothing": ([], "no row below its first line"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tables_that_make_no_sense_are_refused(put, table, tmp_path, case):
    lines, words = WRONG[case]
    path = table(*lines)
    with pytest.raises(ConfigError, match=rf"^{path}: .*{words}"):
        read_labels(put(["1.png", "2.png"], roots=[tmp_path]), path)


def test_a_table_without_the_columns_is_refused(put, table, tmp_path):
    with pytest.raises(ConfigError, match="has no column path and none label"):
        read_labels(put(["1.png", "2.png"], roots=[tmp_path]), table("1.png,a", head="file,class"))


def test_a_table_that_is_not_there_is_named(put, tmp_path):
    with pytest.raises(ConfigError, match=r"none\.csv: cannot be read \(No such file"):
        read_labels(put(["1.png", "2.png"]), tmp_path / "none.csv")


def test_a_class_of_the_test_alone_is_refused(put, table, tmp_path):
    store = put(["1.png", "2.png", "3.png"], roots=[tmp_path])
    path = table("1.png,a,train", "2.png,b,train", "3.png,c,test", head="path,label,split")
    with pytest.raises(
        ConfigError, match=r"1 classes of the test images are not among those to train on \(c\)"
    ):
        read_labels(store, path)
