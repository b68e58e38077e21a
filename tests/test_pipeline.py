"""The whole path on sixteen images: pretrain two steps, export, embed, index, search, classify."""

import numpy as np
import pytest
from PIL import Image

from simclr import Encoder, Index, Store
from simclr.classify.knn import knn_predict
from simclr.embed import Lane, build_index, embed_sources
from simclr.encoder import load_encoder
from simclr.export import export_model
from simclr.pretrain import PretrainConfig, run


def test_a_folder_becomes_a_running_search(noise_photos, tmp_path):
    config = PretrainConfig(
        data=str(noise_photos), encoder="test_resnet", image_size=32, batch_size=8, epochs=1, workers=0
    )
    folder = run(config, out=tmp_path / "run")
    export = export_model(folder).folder
    encoder = Encoder.open(folder)  # finds the export in it
    report = embed_sources([noise_photos], tmp_path / "out.store", Lane(encoder), model=export)
    assert (report.added, report.skipped) == (16, 0)

    store = Store.open(tmp_path / "out.store")
    assert store.info.identity == load_encoder(folder)[1].identity
    info = build_index(store, tmp_path / "out.faiss")
    assert (info.size, info.identity, info.measured["recall@10"]) == (16, store.info.identity, 1.0)

    index = Index.open(tmp_path / "out.faiss")
    with Image.open(noise_photos / "03.jpg") as image:
        hits = index.search(image.convert("RGB"), k=4)[0]
    assert hits[0].path == str(noise_photos / "03.jpg")
    assert hits[0].similarity == pytest.approx(1, abs=1e-3)
    assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)

    ids, vectors = next(store.blocks())
    assert knn_predict(vectors, ids, vectors, k=1).tolist() == ids.tolist()
    np.testing.assert_allclose(vectors, encoder.encode([store.path(row) for row in store.rows()]), atol=2e-3)
