"""Groups of like images: centres, their number, and which image belongs where; loops and scikit-learn are the slow twins."""

import csv
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from simclr.classify import centres as clustering
from simclr.classify import cluster_count, clusters
from simclr.classify.centres import find_centres, lloyd, merge, nearest_two, split
from simclr.classify.cluster_count import (
    Choice,
    Trial,
    choose_count,
    grid,
    groupless,
    silhouettes,
    stands_out,
)
from simclr.classify.cluster_figures import choice_cells, page, picture
from simclr.classify.clusters import find_clusters, write_csv
from simclr.errors import ArtifactError, ConfigError, ImageError


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def groups(
    count: int, groups: int, *, width: int = 32, spread: float = 0.5, seed: int = 0, uneven: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(count, width) unit vectors around random directions, noise `spread` times as long as those, and the group of each."""
    rng = np.random.default_rng(seed)
    middles = unit(rng.standard_normal((groups, width)))
    shares = rng.uniform(1, 6, groups) if uneven else np.ones(groups)
    own = rng.choice(groups, count, p=shares / shares.sum())
    return unit(middles[own] + rng.standard_normal((count, width)) * spread / width**0.5), own


def tightness(vectors: np.ndarray, centres: np.ndarray) -> float:
    return float((vectors @ centres.T).max(1).mean())


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    return len(set(zip(one, other, strict=True))) == len(set(one)) == len(set(other))


# ---- centres


def test_lloyd_is_that_of_a_plain_loop():
    vectors, _ = groups(300, 4, spread=2.0)
    expected = vectors[:6].astype(np.float64)
    for _ in range(5):
        own = [max(range(6), key=lambda k: vector @ expected[k]) for vector in vectors]
        sums = [sum(v for v, k in zip(vectors, own, strict=True) if k == each) for each in range(6)]
        expected = np.array([each / np.linalg.norm(each) for each in sums])
    assert lloyd(vectors, vectors[:6], 5) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("spread", "share"), [(1.0, 1.0), (4.0, 0.995)])
def test_centres_are_as_good_as_the_best_of_ten_by_scikit_learn(spread, share):
    """Where there are groups; in what is nearly noise ten starts find a little more than one."""
    from sklearn.cluster import KMeans

    vectors, _ = groups(1500, 12, spread=spread)
    theirs = KMeans(15, n_init=10, random_state=0).fit(vectors).cluster_centers_
    assert tightness(vectors, find_centres(vectors, 15)) >= share * tightness(vectors, unit(theirs))


@pytest.mark.parametrize("uneven", [False, True])
def test_all_of_many_separate_groups_are_found_from_every_start(uneven):
    """Lloyd's algorithm alone leaves two groups together and cuts another, from any start that is drawn at random."""
    vectors, own = groups(1500, 23, uneven=uneven)
    for seed in range(5):
        centres = find_centres(vectors, 23, seed=seed)
        assert same_partition(own, (vectors @ centres.T).argmax(1))
    rng = np.random.default_rng(0)
    plain = lloyd(vectors, vectors[rng.permutation(len(vectors))[:23]], 50)
    assert not same_partition(own, (vectors @ plain.T).argmax(1))


def test_the_cluster_that_holds_two_groups_is_cut_between_them():
    vectors, own = groups(400, 4)
    middles = np.stack([vectors[own == k].mean(0) for k in range(4)])
    centres = unit(np.stack([middles[0], middles[1] + middles[2], middles[3]]))
    found = split(vectors, centres, 1)
    assert found.shape == (4, 32)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert same_partition(own, (vectors @ found.T).argmax(1))


def test_the_two_halves_of_a_group_are_joined():
    vectors, own = groups(400, 3)
    first = vectors[own == 0]
    middles = [vectors[own == k].mean(0) for k in (1, 2)]
    along = first @ np.eye(32)[0]
    halves = [first[along > np.median(along)].mean(0), first[along <= np.median(along)].mean(0)]
    found = merge(vectors, unit(np.stack([halves[0], *middles, halves[1]])), 1)
    assert found.shape == (3, 32)
    assert same_partition(own, (vectors @ found.T).argmax(1))


def test_more_can_be_joined_than_there_are_pairs():
    vectors, _ = groups(60, 3)
    assert merge(vectors, vectors[:4], 3).shape == (1, 32)


def test_of_vectors_that_are_many_times_the_same_each_gets_a_centre():
    rare = unit(np.random.default_rng(0).standard_normal((4, 8)))
    vectors = np.concatenate([np.repeat(rare[:1], 3000, 0), rare[1:]])
    centres = find_centres(vectors, 4)
    assert sorted((vectors @ centres.T).argmax(1)[-3:]) != [0, 0, 0]
    assert tightness(vectors, centres) == pytest.approx(1, abs=1e-6)
    assert len(set((vectors @ centres.T).argmax(1))) == 4


def test_there_are_no_more_centres_than_vectors_that_differ():
    vectors = np.repeat(unit(np.random.default_rng(0).standard_normal((3, 8))), 50, axis=0)
    assert len(find_centres(vectors, 7)) == 3


def test_the_nearest_two_are_those_of_a_loop_however_many_at_a_time(monkeypatch):
    vectors, _ = groups(100, 5, spread=3.0)
    centres = vectors[:7]
    monkeypatch.setattr(clustering, "_PIECE", 7 * 9)
    own, first, second = nearest_two(vectors, centres)
    for vector, *found in zip(vectors, own, first, second, strict=True):
        cosines = sorted(((float(vector @ centre), -k) for k, centre in enumerate(centres)), reverse=True)
        assert found[0] == -cosines[0][1]
        assert found[1:] == pytest.approx([min(1, cosines[0][0]), cosines[1][0]], abs=1e-6)


# ---- how many


def test_silhouettes_are_those_of_a_loop():
    vectors, _ = groups(50, 3, spread=2.0)
    expected = []
    for vector in vectors:
        near, far = sorted(1 - float(vector @ centre) for centre in vectors[:3])[:2]
        expected.append((far - max(0, near)) / max(near, far))
    assert silhouettes(vectors, vectors[:3]) == pytest.approx(expected, abs=1e-5)


def test_a_silhouette_between_two_equal_centres_is_none():
    vectors, _ = groups(1, 1)
    assert silhouettes(vectors, vectors[[0, 0]]).tolist() == [0.0]


def test_vectors_without_groups_have_the_mean_and_the_spread_of_the_others():
    vectors, _ = groups(4000, 6, width=12, spread=1.0)
    made = groupless(vectors, 40_000)
    assert np.linalg.norm(made, axis=1) == pytest.approx(1, abs=1e-5)
    # before they are brought to unit length they are exact; after it nearly so
    assert made.mean(0) == pytest.approx(vectors.mean(0), abs=0.03)
    assert np.cov(made.T) == pytest.approx(np.cov(vectors.T), abs=0.02)


def test_numbers_grow_as_far_as_the_vectors_support():
    assert grid(100) == [2, 3, 4, 6, 8]
    assert grid(100_000) == [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert grid(5) == [2]


@pytest.mark.parametrize(
    ("count", "spread", "uneven"),
    [(2, 0.5, False), (3, 1.0, False), (5, 2.0, False), (7, 0.5, True), (10, 1.0, True), (23, 0.7, False)],
)
def test_the_number_of_separate_groups_is_found_and_stands_out(count, spread, uneven):
    vectors, _ = groups(1500, count, width=64, spread=spread, uneven=uneven)
    choice = choose_count(vectors)
    assert (choice.count, choice.stands_out) == (count, True)
    assert choice.reason.startswith(f"{count} clusters stand out (silhouette 0.")


@pytest.mark.parametrize("power", [0.0, 0.7, 1.5])
def test_in_a_single_cloud_no_number_stands_out_however_long_it_is(power):
    """The silhouette alone says 2, of 0.7 where the cloud is long."""
    rng = np.random.default_rng(1)
    vectors = unit(rng.standard_normal((900, 32)) * np.arange(1, 33) ** -power + np.eye(32)[31])
    choice = choose_count(vectors)
    assert not choice.stands_out
    assert choice.reason.startswith("No number stands out: none gains 0.1 against vectors without groups.")


def test_groups_of_groups_do_not_stand_out_as_either():
    rng = np.random.default_rng(0)
    outer = unit(rng.standard_normal((4, 64)))
    inner = unit(outer[np.arange(16) % 4] + 0.5 * unit(rng.standard_normal((16, 64))))
    vectors = unit(inner[rng.integers(16, size=1200)] + 0.3 * unit(rng.standard_normal((1200, 64))))
    choice = choose_count(vectors)
    gains = {trial.count: trial.gain for trial in choice.trials}
    assert min(gains[4], gains[16]) > 0.3
    assert not choice.stands_out and "others nearly as much" in choice.reason


def trials(gains: dict[int, float]) -> list[Trial]:
    return [Trial(count, 0.2 + gain, 0.2) for count, gain in gains.items()]


def test_a_number_stands_out_from_half_and_double_of_it_only_where_it_gains_enough():
    assert stands_out(trials({4: 0.2, 6: 0.39, 8: 0.4, 12: 0.39, 16: 0.3}))
    assert not stands_out(trials({4: 0.35, 8: 0.4, 16: 0.1}))
    assert not stands_out(trials({4: 0.1, 8: 0.4, 16: 0.35}))
    assert not stands_out(trials({4: 0.01, 8: 0.09, 16: 0.01}))


def test_the_largest_number_tried_does_not_stand_out():
    choice = cluster_count._chosen(trials({2: 0.1, 4: 0.2, 8: 0.4}))
    assert (choice.count, choice.stands_out) == (8, False)
    assert "and more were not tried" in choice.reason


def test_numbers_come_from_vectors_that_the_centres_were_not_found_from(monkeypatch):
    """Judged by its own vectors, noise looks the better grouped the more clusters there are."""
    vectors = unit(np.random.default_rng(0).standard_normal((400, 64)))
    held = vectors[:100]
    seen = []
    real = cluster_count.find_centres

    def watched(given, count, **more):
        seen.append(bool((given[:, None] == held[None]).all(2).any()))
        return real(given, count, **more)

    monkeypatch.setattr(cluster_count, "find_centres", watched)
    choose_count(vectors)
    assert seen and not any(seen)


# ---- a whole store


def names(count: int) -> list[str]:
    return [f"{i:05d}.jpg" for i in range(count)]


def test_every_image_belongs_to_its_nearest_centre_over_all_shards(put, monkeypatch):
    vectors, own = groups(5000, 6, width=16)
    store = put(names(5000), vectors=vectors)
    assert len(store.info.shards) >= 1
    kept = []
    real = clusters.find_centres
    monkeypatch.setattr(
        clusters, "find_centres", lambda *a, **more: kept.append(real(*a, **more)) or kept[-1]
    )
    found = find_clusters(store, 6)
    ids, stored = map(np.concatenate, zip(*store.blocks(), strict=True))
    cosines = stored @ kept[0].T
    assert found.ids_N.tolist() == ids.tolist()
    assert found.similarities_N == pytest.approx(cosines.max(1), abs=1e-6)
    assert same_partition(found.numbers_N, cosines.argmax(1))
    assert same_partition(found.numbers_N, own)
    for cluster in found.clusters:
        here = found.similarities_N[found.numbers_N == cluster.number]
        assert cluster.size == len(here)
        assert cluster.tightness == pytest.approx(here.mean(), abs=1e-6)
    assert found.tightness == pytest.approx(cosines.max(1).mean(), abs=1e-6)


def test_the_largest_cluster_is_the_first(put):
    vectors, _ = groups(600, 5, uneven=True)
    found = find_clusters(put(names(600), vectors=vectors), 5)
    sizes = [cluster.size for cluster in found.clusters]
    assert [cluster.number for cluster in found.clusters] == [1, 2, 3, 4, 5]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert sizes == np.bincount(found.numbers_N)[1:].tolist()


def test_the_same_seed_and_store_give_the_same_clusters(put):
    store = put(names(400), vectors=groups(400, 6, spread=3.0)[0])
    one, again, other = (find_clusters(store, 6, seed=seed) for seed in (1, 1, 2))
    assert one.clusters == again.clusters
    assert (one.similarities_N == again.similarities_N).all() and (one.numbers_N == again.numbers_N).all()
    assert one.clusters != other.clusters


def test_named_are_the_nearest_and_farthest_that_are_no_copies(put):
    vectors, _ = groups(300, 2)
    contents = [f"{i // 3:064x}" for i in range(300)]
    vectors = np.repeat(vectors[::3], 3, axis=0)
    store = put(names(300), vectors=vectors, contents=contents)
    found = find_clusters(store, 2)
    for cluster in found.clusters:
        best: dict[str, tuple[float, int]] = {}
        for id, number, similarity in zip(
            found.ids_N.tolist(), found.numbers_N, found.similarities_N.tolist(), strict=True
        ):
            if number == cluster.number:
                best.setdefault(contents[id], (similarity, id))
        ranked = sorted(best.values(), key=lambda each: (-each[0], each[1]))
        expected = [similarity for similarity, _ in ranked]
        assert [m.similarity for m in cluster.typical] == pytest.approx(expected[:8], abs=1e-6)
        assert [m.similarity for m in cluster.untypical] == pytest.approx(expected[::-1][:4], abs=1e-6)
        assert len({contents[m.id] for m in cluster.typical}) == 8
        assert all(m.path.endswith(f"/{m.id:05d}.jpg") for m in (*cluster.typical, *cluster.untypical))


def test_a_copy_in_a_later_shard_takes_no_place():
    held = clusters._Extremes(1, 2)
    own, ids = np.zeros(2, np.int32), np.arange(4)
    held.show(own, np.array([0.9, 0.7], np.float32), ids[:2], pa.array(["a", "b"]))
    held.show(own, np.array([0.9, 0.8], np.float32), ids[2:], pa.array(["a", "c"]))
    assert [(round(value, 6), id) for value, id in held.of(0)] == [(0.9, 0), (0.8, 3)]


def test_a_file_that_lies_there_a_thousand_times_is_named_once(put):
    rare = unit(np.random.default_rng(0).standard_normal((4, 8)))
    vectors = np.concatenate([np.repeat(rare[:1], 1000, 0), rare[1:]])
    contents = ["a" * 64] * 1000 + [f"{i:064x}" for i in range(3)]
    found = find_clusters(put(names(1003), vectors=vectors, contents=contents), 4)
    assert [cluster.size for cluster in found.clusters] == [1000, 1, 1, 1]
    assert [len(cluster.typical) for cluster in found.clusters] == [1, 1, 1, 1]


def test_fewer_clusters_than_asked_for_are_said(put):
    said: list[str] = []
    vectors = np.repeat(unit(np.random.default_rng(0).standard_normal((3, 8))), 20, axis=0)
    found = find_clusters(put(names(60), vectors=vectors), 7, note=said.append)
    assert [cluster.size for cluster in found.clusters] == [20, 20, 20]
    assert said[-1] == "3 clusters in place of 7: there are no more vectors that differ"


def test_a_large_store_is_sampled(put, monkeypatch):
    """Two clusters need 512 vectors, and no more than fit into the memory for them."""
    seen = []
    real = clusters.find_centres
    monkeypatch.setattr(
        clusters, "find_centres", lambda given, *a, **more: seen.append(given) or real(given, *a, **more)
    )
    store = put(names(2000), vectors=groups(2000, 2)[0])
    find_clusters(store, 2)
    monkeypatch.setattr(clusters, "SAMPLE_BYTES", 100 * 4 * 32)
    find_clusters(store, 2)
    assert [len(given) for given in seen] == [512, 100]
    rows = np.random.Generator(np.random.PCG64(0)).permutation(2000)[:100]
    stored = np.concatenate([vectors for _, vectors in store.blocks()])
    assert seen[1] == pytest.approx(stored[rows], abs=1e-6)


def test_the_number_is_chosen_where_none_is_given(put):
    store = put(names(800), vectors=groups(800, 6)[0])
    found = find_clusters(store)
    assert (len(found.clusters), found.choice.count, found.choice.stands_out) == (6, 6, True)


# ---- mistakes


@pytest.mark.parametrize("count", [-1, 0, 1, 41])
def test_a_number_that_cannot_be_is_refused(put, count):
    with pytest.raises(
        ConfigError, match=f"^-n {count}: must be at least 2 and at most the number of images, 40 in"
    ):
        find_clusters(put(names(40)), count)


def test_as_many_clusters_as_images_are_an_image_each(put):
    found = find_clusters(put(names(40)), 40)
    assert [cluster.size for cluster in found.clusters] == [1] * 40


def test_an_empty_store_is_said(put):
    with pytest.raises(ImageError, match="holds no vectors, so there is nothing to group"):
        find_clusters(put([], vectors=np.ones((0, 8))), 2)


def test_too_few_images_to_choose_a_number_are_said(put):
    with pytest.raises(ConfigError, match="holds 29 images, too few to choose a number of clusters by"):
        find_clusters(put(names(29)))


@pytest.mark.parametrize("count", [None, 2])
def test_vectors_that_are_all_the_same_are_said(put, count):
    with pytest.raises(ImageError, match=r"its vectors are all the same \(40 looked at\)"):
        find_clusters(put(names(40), vectors=np.ones((40, 8))), count)


def test_a_damaged_shard_is_said(put):
    store = put(names(40))
    path = next((store.folder / "img_emb").iterdir())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged"):
        find_clusters(store, 2)


# ---- files


ODD = ["a,b.jpg", 'say "hi".jpg', "two\nlines.jpg", "back\rto the start.jpg", "é 雪.jpg", "=1+1.jpg", " .jpg"]


def test_a_csv_holds_every_image_whatever_its_name(put, tmp_path):
    vectors, _ = groups(len(ODD) + 30, 3)
    store = put(ODD, names(30), vectors=vectors)
    found = find_clusters(store, 3)
    write_csv(tmp_path / "c.csv", store, found)
    with open(tmp_path / "c.csv", encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["id", "path", "cluster", "similarity"]
    assert [int(row[0]) for row in rows] == found.ids_N.tolist()
    assert [row[1] for row in rows] == [store.path(row) for row in store.rows()]
    assert [int(row[2]) for row in rows] == found.numbers_N.tolist()
    assert [float(row[3]) for row in rows] == pytest.approx(found.similarities_N.tolist(), abs=1e-6)


def test_a_csv_that_fails_half_way_leaves_the_one_before(put, tmp_path, monkeypatch):
    store = put(names(40))
    found = find_clusters(store, 2)
    (tmp_path / "c.csv").write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clusters, "openable", full)
    with pytest.raises(
        ArtifactError, match=r"c.csv: cannot be written .No space left on device.. Give another --csv"
    ):
        write_csv(tmp_path / "c.csv", store, found)
    assert (tmp_path / "c.csv").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.csv", "v.store"]


CHOICE = Choice(
    4, True, "4 clusters <stand> out.", (Trial(2, 0.3, 0.2), Trial(4, 0.6, 0.1), Trial(8, 0.2, 0.1))
)


def test_the_table_of_the_choice_has_every_number_tried():
    assert choice_cells(CHOICE)[1:] == [
        ["2", "0.300", "0.200", "+0.100", ""],
        ["4", "0.600", "0.100", "+0.500", "chosen"],
        ["8", "0.200", "0.100", "+0.100", ""],
    ]


def test_the_picture_of_the_choice_is_the_same_each_time():
    assert picture(CHOICE) == picture(CHOICE)
    assert "chosen: 4" in picture(CHOICE)


def test_the_page_shows_each_cluster_and_how_the_number_was_chosen(put):
    store = put(names(400), vectors=groups(400, 3)[0])
    found = find_clusters(store)
    text = page(found, title="Clusters of <v>")
    assert "<title>Clusters of &lt;v&gt;</title>" in text
    for cluster in found.clusters:
        assert (
            f"<h2>{cluster.number}: {cluster.size:,} images, tightness {cluster.tightness:.3f}</h2>" in text
        )
    assert "<svg" in text and "3 clusters stand out" in text
    assert text.count("<figure") == 3 * 12


def test_torch_is_not_needed():
    code = (
        "import sys, simclr.classify.clusters, simclr.classify.cluster_figures; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
