"""Queries of every kind, answered by cosine; what must be refused is."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr.embed import Lane, Store, build_index, embed_sources
from simclr.embed import search as search_module
from simclr.embed.search import Index
from simclr.errors import ArtifactError, ConfigError, EncoderMismatch, ImageError
from simclr.runtime import Encoder


def colours(hits) -> list[str]:
    """Light and dark of one colour point the same way, so that which comes first is chance."""
    return [Path(hit.path).name.split("_")[0] for hit in hits]


@pytest.fixture
def opened(index) -> Index:
    return Index.open(index)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


# ---- answers


def test_the_nearest_photo_to_a_red_one_is_red(opened, tmp_path):
    Image.new("RGB", (40, 40), (200, 40, 35)).save(tmp_path / "query.png")
    assert colours(opened.search(tmp_path / "query.png", k=4)[0]) == ["red", "red", "orange", "orange"]


def test_an_embedded_photo_finds_itself_with_similarity_one(opened, photos):
    path = photos / "cold" / "blue_dark.png"
    similarities = {hit.path: hit.similarity for hit in opened.search(path, k=2)[0]}
    assert similarities[str(path)] == pytest.approx(1, abs=1e-4)


def test_similarities_are_the_cosines_of_the_encoders_vectors_best_first(opened, encoder, photos):
    query = Image.new("RGB", (30, 20), (200, 90, 120))
    paths = sorted(photos.rglob("*.png"))
    (vector,) = encoder.encode([query])
    cosines = {str(path): cosine(vector, encoder.encode([path])[0]) for path in paths}
    hits = opened.search(query, k=12)[0]
    assert {hit.path: hit.similarity for hit in hits} == pytest.approx(cosines, abs=5e-4)
    assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)


def test_a_similarity_is_never_above_one(opened, photos):
    vectors = np.concatenate([block for _, block in opened.store.blocks()])
    assert max(hit.similarity for hits in opened.search(vectors, k=12) for hit in hits) <= 1.0


def test_ids_are_those_of_the_store(opened):
    rows = {row.id: str(opened.store.path(row)) for row in opened.store.rows()}
    vectors = np.concatenate([block for _, block in opened.store.blocks()])
    hits = opened.search(vectors, k=12)
    assert all(rows[hit.id] == hit.path for row in hits for hit in row)


def test_more_neighbours_than_images_gives_every_image_once(opened):
    hits = opened.search(np.ones(12), k=100)[0]
    assert sorted(hit.id for hit in hits) == list(range(12))


# ---- kinds of queries


def test_a_path_a_string_and_a_pillow_image_give_the_same_hits(opened, photos):
    path = photos / "warm" / "yellow_dark.png"
    with Image.open(path) as image:
        image.load()
    assert opened.search(path) == opened.search(str(path)) == opened.search(image)


def test_a_list_gives_the_hits_of_each_query_in_its_order(opened, photos):
    first, second = photos / "warm" / "red_dark.png", photos / "cold" / "green_light.png"
    assert opened.search([second, first]) == opened.search(second) + opened.search(first)


def test_no_queries_give_no_hits(opened):
    assert opened.search([]) == []


def test_a_vector_of_any_length_gives_the_hits_of_its_direction(opened, encoder, photos):
    (vector,) = encoder.encode([photos / "cold" / "purple_dark.png"])
    plain = opened.search(vector)[0]
    for factor in (1e-30, 0.01, 250.0, 1e30):
        hits = opened.search(vector.astype(np.float64) * factor)[0]
        assert colours(hits) == colours(plain)
        assert [hit.similarity for hit in hits] == pytest.approx([hit.similarity for hit in plain], abs=1e-6)


def test_several_vectors_give_a_row_of_hits_each(opened, encoder, photos):
    paths = sorted(photos.rglob("*.png"))
    hits = opened.search(encoder.encode(paths), k=1)
    assert [colours(row) for row in hits] == [[path.name.split("_")[0]] for path in paths]


def test_query_vectors_are_left_as_they_were(opened):
    vectors = np.full((2, 12), 3, np.float32)
    opened.search(vectors)
    np.testing.assert_array_equal(vectors, np.full((2, 12), 3))


# ---- refusals


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_vector_without_direction_is_refused(opened, value):
    vectors = np.ones((2, 12), np.float32)
    vectors[1] = value
    with pytest.raises(ConfigError, match="zero or not finite"):
        opened.search(vectors)


@pytest.mark.parametrize("shape", [(13,), (2, 11), (1, 2, 12)])
def test_vectors_of_another_width_are_refused(opened, shape):
    with pytest.raises(ConfigError, match=re.escape(f"shape {shape}: this index holds vectors of width 12")):
        opened.search(np.ones(shape, np.float32))


@pytest.mark.parametrize("k", [0, -1])
def test_fewer_than_one_neighbour_is_refused(opened, k):
    with pytest.raises(ConfigError, match=re.escape(f"k ({k}) must be at least 1.")):
        opened.search(np.ones(12), k=k)


def test_an_unreadable_query_is_named(opened, tmp_path):
    (tmp_path / "query.jpg").write_text("no image")
    with pytest.raises(ImageError, match=re.escape(f"{tmp_path / 'query.jpg'}: not an image")):
        opened.search(tmp_path / "query.jpg")


def test_a_missing_query_is_named(opened, tmp_path):
    with pytest.raises(ImageError, match=re.escape(f"{tmp_path / 'gone.jpg'}: cannot be read")):
        opened.search(tmp_path / "gone.jpg")


def test_a_query_through_another_encoder_is_refused(index, other_model, photos):
    with pytest.raises(EncoderMismatch, match="Leave out --model"):
        Index.open(index, model=other_model).search(photos / "warm" / "red_dark.png")


def test_a_store_of_another_encoder_is_refused(index, other_model, photos, tmp_path):
    other = Encoder.open(other_model)
    embed_sources([photos], tmp_path / "other.store", Lane(other), model=other.folder)
    with pytest.raises(EncoderMismatch, match="Give the store it was built from with --store"):
        Index.open(index, store=tmp_path / "other.store")


def test_another_store_of_the_same_encoder_is_refused(index, embed, photos, tmp_path):
    """Its ids belong to other images."""
    embed(photos / "cold", store=tmp_path / "other.store")
    with pytest.raises(ArtifactError, match="Give the store it was built from with --store"):
        Index.open(index, store=tmp_path / "other.store")


def test_an_index_whose_store_is_gone_is_refused(index, tmp_path):
    (tmp_path / "out.store").rename(tmp_path / "renamed.store")
    with pytest.raises(ArtifactError, match="no store there"):
        Index.open(index)


# ---- index and store apart, behind, or moved


def test_a_renamed_store_can_be_named(index, photos, tmp_path):
    (tmp_path / "out.store").rename(tmp_path / "renamed.store")
    opened = Index.open(index, store=tmp_path / "renamed.store")
    assert colours(opened.search(photos / "warm" / "red_dark.png", k=2)[0]) == ["red", "red"]


def test_index_and_store_moved_together_still_answer(index, photos, tmp_path):
    moved = tmp_path / "moved" / "here"
    moved.mkdir(parents=True)
    for name in ("out.faiss", "out.faiss.json", "out.store"):
        (tmp_path / name).rename(moved / name)
    hits = Index.open(moved / "out.faiss").search(photos / "warm" / "red_dark.png", k=2)[0]
    assert {hit.path for hit in hits} == {str(photos / "warm" / f"red_{s}.png") for s in ("light", "dark")}


def test_index_and_store_answer_without_the_export_they_were_made_with(index, photos):
    opened = Index.open(index)
    opened.search(photos / "warm" / "red_dark.png")
    assert opened.encoder.folder == opened.store.model


def test_a_fresh_index_is_not_stale(opened):
    assert not opened.stale


def test_an_index_behind_its_store_says_so(index, embed, photos):
    (photos / "warm" / "red_dark.png").unlink()
    embed(photos)
    assert Index.open(index).stale


def test_an_index_behind_its_store_leaves_out_what_is_gone_and_fills_up(index, embed, photos):
    query = Image.new("RGB", (40, 40), (220, 30, 30))
    assert colours(Index.open(index).search(query, k=4)[0]) == ["red", "red", "orange", "orange"]
    for name in ("red_light", "red_dark", "orange_light", "orange_dark"):
        (photos / "warm" / f"{name}.png").unlink()
    embed(photos)
    hits = Index.open(index).search(query, k=5)[0]
    assert len(hits) == 5
    assert all(Path(hit.path).exists() for hit in hits)


def test_an_index_behind_its_store_gives_all_that_are_left_where_k_is_larger(index, embed, photos):
    for path in (photos / "warm").iterdir():
        path.unlink()
    embed(photos)
    hits = Index.open(index).search(np.ones((3, 12)), k=12)
    assert [sorted(hit.id for hit in row) for row in hits] == [[0, 1, 2, 3, 4, 5]] * 3


def test_an_image_query_opens_the_encoder_once(opened, photos, monkeypatch):
    opened.search(photos / "warm" / "red_dark.png")
    monkeypatch.setattr(search_module, "Encoder", None)
    assert len(opened.search(photos / "warm" / "red_dark.png", k=3)[0]) == 3


def test_the_path_of_a_hit_in_a_tar_is_a_query(embed, photos, tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for group in ("cold", "warm"):
            tar.add(photos / group, arcname=group)
    embed(tmp_path / "x.tar")
    build_index(Store.open(tmp_path / "out.store"), tmp_path / "out.faiss")
    index = Index.open(tmp_path / "out.faiss")
    (hit,) = index.search(photos / "warm" / "red_dark.png", k=1)[0]
    assert hit.path == f"{tmp_path}/x.tar/warm/red_dark.png"
    assert index.search(hit.path, k=1)[0][0].id == hit.id
    with pytest.raises(ImageError, match=rf"^{tmp_path}/x.tar/none.png: no longer in its tar file\.$"):
        index.search(f"{tmp_path}/x.tar/none.png")
