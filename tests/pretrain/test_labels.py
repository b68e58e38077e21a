"""Which image has which class and which ones test; what is said about labels that make no sense."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr.errors import ConfigError, ImageError
from simclr.pretrain.labels import Labelled, at_most, hold_out, labels_of, read_labelled, share_of_labels


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / path)
    return root


def table(root: Path, *lines: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def named(images: Labelled | None) -> dict[str, str] | None:
    if images is None:
        return None
    pairs = zip(images.paths.tolist(), images.labels.tolist(), strict=True)
    return {path: images.classes[label] for path, label in pairs}


def many(*sizes: int) -> Labelled:
    """Class i has sizes[i] images, shuffled."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    paths = np.array([f"{i}.jpg" for i in range(len(labels))])
    return Labelled(Path("x"), paths, labels, tuple("abcdefgh"[: len(sizes)]))


def sizes(images: Labelled) -> list[int]:
    return np.bincount(images.labels, minlength=len(images.classes)).tolist()


def test_a_folder_is_a_class_and_all_below_it_belongs_to_it(tmp_path):
    train, test = read_labelled(touch(tmp_path, "dog/1.png", "cat/old/2.png", "cat/1.png"))
    assert named(train) == {"cat/1.png": "cat", "cat/old/2.png": "cat", "dog/1.png": "dog"}
    assert (train.classes, train.labels.dtype, test) == (("cat", "dog"), np.int64, None)


@pytest.mark.parametrize("split", ["test", "val", "validation"])
def test_split_folders_give_training_and_test(tmp_path, split):
    train, test = read_labelled(
        touch(tmp_path, "train/cat/1.png", "train/dog/2.png", "train/eel/3.png", f"{split}/dog/3.png")
    )
    assert named(train) == {"cat/1.png": "cat", "dog/2.png": "dog", "eel/3.png": "eel"}
    assert named(test) == {"dog/3.png": "dog"}
    assert test.classes == train.classes and test.root == tmp_path / split


def test_a_test_folder_without_classes_is_passed_over_as_imagenets_is(tmp_path):
    _, test = read_labelled(
        touch(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/3.png", "val/cat/4.png")
    )
    assert named(test) == {"cat/4.png": "cat"}


def test_train_alone_has_no_test(tmp_path):
    train, test = read_labelled(touch(tmp_path, "train/cat/1.png", "train/dog/2.png"))
    assert (sorted(named(train)), test) == (["cat/1.png", "dog/2.png"], None)


def test_a_class_may_be_called_train(tmp_path):
    train, test = read_labelled(touch(tmp_path, "train/1.png", "bus/1.png"))
    assert (train.classes, test) == (("bus", "train"), None)


def test_a_table_gives_class_and_split(tmp_path):
    touch(tmp_path, "a.png", "b/c.png", "d.png", "e.png")
    table(tmp_path, "split,label,path", "train,x,a.png", "test,x,b/c.png", "train,y,d.png", "val,y,e.png")
    train, test = read_labelled(tmp_path)
    assert named(train) == {"a.png": "x", "d.png": "y"}
    assert named(test) == {"b/c.png": "x"}  # and e.png is neither: there is a test split


def test_a_table_without_splits_has_no_test_and_goes_before_folders(tmp_path):
    touch(tmp_path, "a/1.png", "b/2.png")
    table(tmp_path, "\ufeffpath,label", "a/1.png,x", "b/2.png,y")
    train, test = read_labelled(tmp_path)
    assert (named(train), test) == ({"a/1.png": "x", "b/2.png": "y"}, None)


def test_a_tables_images_may_lie_in_images(tmp_path):
    touch(tmp_path / "images", "1.png", "2.png")
    train, _ = read_labelled(table(tmp_path, "path,label", "1.png,x", "2.png,y"))
    assert train.root == tmp_path / "images"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["1.png", "2.png"], "2 of its images lie directly in it (1.png)"),
        (["cat/1.png"], "one class only (cat)"),
        (["train/1.png", "train/2.png", "test/cat/1.png"], "2 of its images lie directly in it (1.png)"),
        (["train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/eel/1.png"], "are not among those to train on (eel)"),
        (["test/cat/1.png", "test/dog/1.png"], "has test/ but no train/ beside it"),
    ],
)  # fmt: skip
def test_folders_that_make_no_sense_are_one_line(tmp_path, files, said):
    with pytest.raises(ConfigError, match=r"\A[^\n]+\Z") as caught:
        read_labelled(touch(tmp_path, *files))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["file,label", "1.png,x"], "has no column path (but file, label)"),
        (["a", "1.png"], "has no column path and none label (but a)"),
        (["path,label"], "no row below its first line"),
        (["path,label", "1.png,"], "line 2 has no label"),
        (["path,label", "1.png,x", "2.png,x"], "one class only to train on (x)"),
        (["path,label", "1.png,x", "1.png,y"], "1.png is named 2 times"),
        (["path,label,split", "1.png,x,train", "2.png,y,tset"], "line 3 has the split 'tset'"),
        (["path,label,split", "1.png,x,test"], "no row has the split train"),
        (["path,label,split", "1.png,x,train", "2.png,y,train", "3.png,z,test"], "are not among those to train on (z)"),
    ],
)  # fmt: skip
def test_tables_that_make_no_sense_are_one_line(tmp_path, lines, said):
    touch(tmp_path, "1.png", "2.png", "3.png")
    with pytest.raises(ConfigError, match=r"\A[^\n]+\Z") as caught:
        read_labelled(table(tmp_path, *lines))
    assert said in str(caught.value)


def test_images_that_a_table_names_and_are_not_there_are_counted(tmp_path):
    touch(tmp_path, "1.png")
    with pytest.raises(ImageError, match=r"2 of the 3 images it names are not in .* \(2\.png\)"):
        read_labelled(table(tmp_path, "path,label", "1.png,x", "2.png,y", "3.png,y"))


def test_no_images_at_all(tmp_path):
    with pytest.raises(ImageError, match="no image found"):
        read_labelled(tmp_path)


def test_a_table_that_is_no_text(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"path,label\n\xff,x\n")
    with pytest.raises(ConfigError, match="is no CSV in UTF-8"):
        read_labelled(tmp_path)


def test_the_images_of_a_pretraining_set_find_their_class_by_their_file(tmp_path):
    train, _ = read_labelled(touch(tmp_path, "train/cat/1.png", "train/dog/2.png", "test/cat/3.png"))
    assert labels_of(tmp_path / "train", ["dog/2.png", "cat/1.png", "cat/9.png"], train).tolist() == [
        1,
        0,
        -1,
    ]
    assert labels_of(tmp_path, ["test/cat/3.png", "train/dog/2.png"], train).tolist() == [-1, 1]
    (tmp_path / "link").symlink_to(tmp_path / "train")
    assert labels_of(tmp_path / "link", ["dog/2.png"], train).tolist() == [1]


def test_a_fifth_of_each_class_is_held_out_and_nothing_is_in_both():
    images = many(10, 3, 1, 26)
    train, test = hold_out(images, seed=0)
    assert (sizes(train), sizes(test)) == ([8, 2, 1, 21], [2, 1, 0, 5])
    assert sorted([*train.paths, *test.paths]) == sorted(images.paths)


def test_what_is_held_out_is_drawn_from_the_seed():
    images = many(50, 50)
    draws = [hold_out(images, seed=seed)[1].paths.tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_nothing_to_hold_out_is_said():
    with pytest.raises(ConfigError, match="no class has a second image"):
        hold_out(many(1, 1), seed=0)


@pytest.mark.parametrize(
    ("percent", "left"), [(1, [3, 1, 1, 1]), (10, [30, 5, 1, 1]), (100, [300, 50, 5, 1])]
)
def test_a_share_of_labels_is_that_of_each_class_and_never_none(percent, left):
    assert sizes(share_of_labels(many(300, 50, 5, 1), percent, seed=0)) == left


def test_another_seed_draws_another_share():
    images = many(100, 100)
    draws = [share_of_labels(images, 10, seed=seed).paths.tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_labels_stay_with_their_images():
    images = many(20, 30)
    label = dict(zip(images.paths.tolist(), images.labels.tolist(), strict=True))
    for part in (*hold_out(images, seed=3), share_of_labels(images, 10, seed=3)):
        assert [label[path] for path in part.paths.tolist()] == part.labels.tolist()


def test_large_sets_keep_each_class_share():
    assert sizes(at_most(many(300, 100), 40)) == [30, 10]
    assert sizes(at_most(many(300, 100), 400)) == [300, 100]
