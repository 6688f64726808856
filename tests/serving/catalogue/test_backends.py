"""Graphs (FAISS) and a vector database (Qdrant) find what the exact slices find."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from catalogues import same_answers
from factories import make_catalogue

from ctl_lightning.benchmarks.search import vectors_of
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue import qdrant, qdrant_upload
from ctl_lightning.serving.catalogue.exact import ExactCatalogue, nearest
from ctl_lightning.serving.catalogue.files import Manifest
from ctl_lightning.serving.catalogue.hnsw import Graph, GraphCatalogue
from ctl_lightning.serving.catalogue.qdrant import QdrantCatalogue
from ctl_lightning.serving.recommender import Recommender


def test_a_graph_finds_nearly_all_of_the_nearest() -> None:
    vectors, queries = vectors_of("learned", 3000, 1), vectors_of("learned", 50, 2)
    graph = Graph.build(vectors, 16, 100)
    found = []
    for query in queries:
        exact = nearest(vectors, query, 10)
        best = exact[np.argsort(-(vectors[exact].astype(float) @ query), kind="stable")][:10]
        found.append(len({*best.tolist()} & {*graph.search(query, 10, 128).tolist()}) / 10)
    assert np.mean(found) > 0.99


def test_a_graph_changes_without_being_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = vectors_of("learned", 1200, 1)
    Graph.build(vectors[:1000], 16, 100).save(tmp_path / "graph")
    gone = np.arange(0, 1000, 10)
    vectors[1150:1160] = vectors[1]  # ten more products with the photo of one that stays
    kept = np.setdiff1d(np.arange(1000), gone)
    moved = np.full(1000, -1)
    moved[kept] = np.arange(len(kept))
    now = np.concatenate([vectors[kept], vectors[1000:]])
    monkeypatch.setattr(Graph, "build", None)
    graph = Graph.load(tmp_path / "graph", to_change=True).changed(moved, now)
    assert graph is not None
    graph.save(tmp_path / "changed")
    graph = Graph.load(tmp_path / "changed")
    for query in vectors_of("learned", 30, 3):
        rows = graph.search(query, 5, 200)
        assert len(rows) == 5
        assert (rows >= 0).all()
        best = np.argsort(-(now.astype(float) @ query), kind="stable")[:5]
        assert len({*rows.tolist()} & {*best.tolist()}) >= 4
    # A removed product is not found even by its own vector, an added one is; and of equal ones all are.
    found = graph.search(vectors[0], 10, 200)
    assert not (now[found] == vectors[0]).all(1).any()
    assert graph.search(vectors[1100], 1, 200).tolist() == [len(kept) + 100]
    assert len(graph.search(vectors[1], 1, 200)) == 11
    assert graph._index.ntotal == 1000 + 190
    many = np.full(1100, -1)
    many[:300] = np.arange(300)
    assert graph.changed(many, now[:300]) is None


def test_many_products_with_one_photo_are_found() -> None:
    vectors = vectors_of("learned", 4000, 1)
    vectors[np.random.default_rng(0).permutation(4000)[:1500]] = vectors[17]
    vectors += np.random.default_rng(1).uniform(-1e-7, 1e-7, vectors.shape).astype(np.float32)  # of other batches
    graph = Graph.build(vectors, 16, 100)
    assert graph._index.ntotal < 3000
    for query in [*vectors_of("learned", 30, 2), vectors[17]]:
        rows = graph.search(query, 10, 128)
        exact = vectors.astype(float) @ query
        best = np.sort(exact)[::-1][:10]
        found = np.sort(exact[rows])[::-1][:10]
        assert len(found) == 10
        assert np.abs(found - best).max() < 0.01
    moved = np.where(np.arange(4000) % 2 == 0, np.arange(4000) // 2, -1)
    changed = graph.changed(moved, vectors[::2])
    assert changed is None or len(changed.search(vectors[17], 5, 128)) > 5


def test_graphs_of_large_categories_answer_as_exact_slices(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[[int, int], list[str]], looks: Path
) -> None:
    run, photos = served[0], sorted((looks / "images").rglob("*.jpg"))[:6]
    backend = ["catalogue.backend=faiss", "catalogue.hnsw_from=30", "catalogue.hnsw_search=100"]
    exact = make_catalogue(run, tmp_path / "exact", *shop(0, 70))
    graphed = make_catalogue(run, tmp_path / "graphed", *shop(0, 70), *backend)
    manifest = Manifest.read(graphed)
    assert manifest is not None
    assert (manifest.backend, len(manifest.graphs)) == ("faiss", 2)
    assert isinstance(Recommender.from_checkpoint(run, graphed).catalogue, GraphCatalogue)
    same_answers(run, exact, graphed, photos)
    same_answers(run, exact, graphed, photos, k=1000)  # all of them
    make_catalogue(run, exact, *shop(5, 75))
    make_catalogue(run, graphed, *shop(5, 75))  # still with graphs
    same_answers(run, exact, graphed, photos)
    after = Manifest.read(graphed)
    assert after is not None
    assert after.backend == "faiss"
    assert after.graphs.keys() == manifest.graphs.keys()
    assert len(list(graphed.glob("graph-*.faiss"))) == 2
    make_catalogue(run, graphed, *shop(5, 75), "catalogue.backend=exact")
    assert isinstance(Recommender.from_checkpoint(run, graphed).catalogue, ExactCatalogue)
    assert not list(graphed.glob("graph-*"))


def test_small_categories_have_no_graph(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[[int, int], list[str]]
) -> None:
    folder = make_catalogue(served[0], tmp_path / "graphed", *shop(0, 9), "catalogue.backend=faiss")
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert manifest.graphs == {}
    assert len(Recommender.from_checkpoint(served[0], folder).recommend(tmp_path / "images" / "p0.png", "Shoes")) == 4


def test_qdrant_answers_as_exact_slices(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[[int, int], list[str]], looks: Path
) -> None:
    run, photos = served[0], sorted((looks / "images").rglob("*.jpg"))[:6]
    exact = make_catalogue(run, tmp_path / "exact", *shop(0, 60))
    base = make_catalogue(run, tmp_path / "base", *shop(0, 60), "catalogue.backend=qdrant")
    found = Recommender.from_checkpoint(run, base).catalogue
    assert isinstance(found, QdrantCatalogue)
    with pytest.raises(InputError, match="another process has it open, and Qdrant's local mode is for one"):
        Recommender.from_checkpoint(run, base)
    found.close()
    same_answers(run, exact, base, photos)
    make_catalogue(run, exact, *shop(5, 65))
    make_catalogue(run, base, *shop(5, 65))  # still in Qdrant
    same_answers(run, exact, base, photos)


def test_an_interrupted_upload_goes_on_and_only_what_changed_is_sent(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[[int, int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qdrant_client import QdrantClient

    run, base = served[0], tmp_path / "base"
    monkeypatch.setattr(qdrant_upload, "BATCH", 10)
    done: list[str] = []
    real_upsert, real_index, real_delete = QdrantClient.upsert, QdrantClient.create_payload_index, QdrantClient.delete
    fails_at = 3

    def upsert(self: Any, name: str, points: Any, **options: Any) -> Any:
        if done.count("upsert") + 1 == fails_at:
            raise KeyboardInterrupt
        done.append("upsert")
        return real_upsert(self, name, points, **options)

    def index(self: Any, *given: Any, **options: Any) -> Any:
        done.append("index")
        return real_index(self, *given, **options)

    def delete(self: Any, *given: Any, **options: Any) -> Any:
        done.append("delete")
        return real_delete(self, *given, **options)

    for name, changed in (("upsert", upsert), ("create_payload_index", index), ("delete", delete)):
        monkeypatch.setattr(QdrantClient, name, changed)
    words = [*shop(0, 45), "catalogue.backend=qdrant"]
    with pytest.raises(KeyboardInterrupt):
        make_catalogue(run, base, *words)
    assert done == ["index"] * 2 + ["upsert"] * 2
    done.clear()
    fails_at = 0
    make_catalogue(run, base, *words)
    assert done == ["index"] * 2 + ["upsert"] * 3  # 25 were left
    done.clear()
    make_catalogue(run, base, *words)
    assert done == ["index"] * 2
    done.clear()
    make_catalogue(run, base, *shop(3, 50))
    assert done == ["index"] * 2 + ["delete", "upsert"]


def test_a_part_is_one_folders_and_several_parts_are_searched_together(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[[int, int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, photo = served[0], tmp_path / "images" / "p0.png"
    base, other = tmp_path / "base", tmp_path / "other"
    real = qdrant.connect
    for module in (qdrant, qdrant_upload):
        monkeypatch.setattr(module, "connect", lambda _, where: real(base, where))  # both folders have one server
    make_catalogue(run, base, *shop(0, 12), "catalogue.backend=qdrant")
    with pytest.raises(InputError, match=r"another folder's catalogue is there, with 12 products; give another name"):
        make_catalogue(run, other, *shop(12, 20), "catalogue.backend=qdrant")
    make_catalogue(run, other, *shop(10, 20), "catalogue.backend=qdrant", "catalogue.part=b")
    for folder in (base, other):
        recommender = Recommender.from_checkpoint(run, folder)
        assert sum(recommender.catalogue.counts.values()) == 22
        assert {int(one.product[1:]) for one in recommender.recommend(photo, "Shoes", 50)} == {*range(1, 20, 2)}
        recommender.catalogue.close()
    make_catalogue(run, other, *shop(18, 20))  # what both have stays in the other part
    recommender = Recommender.from_checkpoint(run, base)
    assert {int(one.product[1:]) for one in recommender.recommend(photo, "Shoes", 50)} == {1, 3, 5, 7, 9, 11, 19}
    recommender.catalogue.close()
    (other / qdrant_upload.UPLOADED).write_text("no database, but long enough to be taken for one")
    with pytest.raises(InputError, match=r"uploaded\.sqlite: cannot be read"):
        make_catalogue(run, other, *shop(18, 20))


def test_a_collection_that_has_lost_products_gets_all_again(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[[int, int], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    from qdrant_client import QdrantClient, models

    def whole() -> bool:
        recommender = Recommender.from_checkpoint(served[0], base)
        counts = recommender.catalogue.counts
        recommender.catalogue.close()
        return sum(counts.values()) == 12

    base = make_catalogue(served[0], tmp_path / "base", *shop(0, 12), "catalogue.backend=qdrant")
    shutil.rmtree(base / "qdrant")
    with pytest.raises(InputError, match="there is no collection products on disk"):
        Recommender.from_checkpoint(served[0], base)
    make_catalogue(served[0], base)
    assert whole()
    with closing(QdrantClient(path=str(base / "qdrant"))) as client:
        some = models.Filter(must=[models.FieldCondition(key="product", match=models.MatchValue(value="p3"))])
        client.delete("products", models.FilterSelector(filter=some))
    assert not whole()
    make_catalogue(served[0], base)
    assert "products has lost products: all are sent again" in caplog.text
    assert whole()


def test_a_collection_that_moved_is_changed_at_its_new_address(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[[int, int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qdrant_client import QdrantClient

    real, real_upsert = qdrant.connect, QdrantClient.upsert
    sent: list[int] = []

    def upsert(self: Any, name: str, points: Any, **options: Any) -> Any:
        sent.append(len(points.ids))
        return real_upsert(self, name, points, **options)

    # One server, whatever its address.
    for module in (qdrant, qdrant_upload):
        monkeypatch.setattr(module, "connect", lambda folder, where: real(folder, {**where, "url": None}))
    monkeypatch.setattr(QdrantClient, "upsert", upsert)
    words = ("catalogue.backend=qdrant", "catalogue.url=http://old:6333")
    base = make_catalogue(served[0], tmp_path / "base", *shop(0, 12), *words)
    make_catalogue(served[0], base, *shop(0, 14), "catalogue.url=http://new:6333")
    assert sent == [12, 2]
    manifest = Manifest.read(base)
    assert manifest is not None
    assert manifest.qdrant["url"] == "http://new:6333"


def test_a_collection_that_is_not_ours_or_another_checkpoints(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[[int, int], list[str]]
) -> None:
    from qdrant_client import QdrantClient, models

    run, base = served[0], tmp_path / "base"
    client = QdrantClient(path=str(base / "qdrant"))
    options = models.VectorParams(size=16, distance=models.Distance.DOT)
    client.create_collection("theirs", vectors_config=options)
    said = {"identity": {"method": "hybrid", "weights": "0"}, "id": "1"}
    client.create_collection("other", vectors_config=options, metadata=said)
    client.close()
    words = [*shop(0, 8), "catalogue.backend=qdrant"]
    with pytest.raises(InputError, match=r"catalogue\.collection=theirs: it is not one of ctl_lightning"):
        make_catalogue(run, base, *words, "catalogue.collection=theirs")
    with pytest.raises(InputError, match="its vectors are of another checkpoint"):
        make_catalogue(run, base, *words, "catalogue.collection=other")


@pytest.fixture
def broken_server() -> Iterator[str]:
    """A server that answers, but is no Qdrant."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500, "no database here")

        do_PUT = do_POST = do_GET  # noqa: N815 - the library's names

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_server_that_does_not_answer_is_one_line(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[[int, int], list[str]], broken_server: str
) -> None:
    run, base = served[0], tmp_path / "base"
    words = [*shop(0, 8), "catalogue.backend=qdrant"]
    for url in ("http://127.0.0.1:9", broken_server):
        with pytest.raises(InputError, match=rf"catalogue\.url={url}: .*start the server, or give another address"):
            make_catalogue(run, base, *words, f"catalogue.url={url}")
    make_catalogue(run, base, *words)  # what was embedded is kept
    assert Manifest.read(base) is not None


def test_a_backend_that_is_not_installed_names_its_extra(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[[int, int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("faiss", "qdrant_client"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"FAISS is not installed; pip install 'ctl_lightning\[faiss\]'"):
        make_catalogue(served[0], tmp_path / "graphed", *shop(0, 8), "catalogue.backend=faiss")
    with pytest.raises(InputError, match=r"its client is not installed; pip install 'ctl_lightning\[qdrant\]'"):
        make_catalogue(served[0], tmp_path / "base", *shop(0, 8), "catalogue.backend=qdrant")
