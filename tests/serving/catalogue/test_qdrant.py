"""What is uploaded is found by Qdrant's own engine, as by exact slices and by Qdrant's local mode, whatever is changed."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import make_catalogue
from numpy.typing import NDArray

pytest.importorskip("qdrant_edge")

from qdrant_client import QdrantClient, models
from qdrant_engine import Engine

from ctl_lightning.benchmarks.search import vectors_of
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue import qdrant, qdrant_upload
from ctl_lightning.serving.catalogue.exact import ExactCatalogue
from ctl_lightning.serving.catalogue.files import Catalogue, Hit, Listed, Manifest, write_products
from ctl_lightning.serving.catalogue.qdrant import QdrantCatalogue
from ctl_lightning.serving.catalogue.qdrant_upload import upload
from ctl_lightning.serving.recommender import Recommender

Floats = NDArray[np.float32]

SIZES = {"Bags": 3400, "Hats": 1700, "Shoes": 850, "Ties": 50}
QUERIES = vectors_of("learned", 100, 2)


def write_catalogue(folder: Path, products: dict[str, tuple[str, int]], every: Floats, part: str = "all") -> Manifest:
    """Files of a catalogue of products, name -> (category, row in `every`); Qdrant's of a server at http://engine:6333."""
    folder.mkdir(exist_ok=True)
    listed = sorted((category, name, row) for name, (category, row) in products.items())
    slices: dict[str, tuple[int, int]] = {}
    for place, (category, *_) in enumerate(listed):
        slices[category] = (slices.get(category, (place, 0))[0], place + 1)
    np.save(folder / "vectors-1.npy", every[[row for *_, row in listed]])
    rows = [Listed(name, category, f"/photos/{name}.jpg", str(row)) for category, name, row in listed]
    write_products(folder / "products.sqlite", rows)
    where: dict[str, str | None] = {"url": "http://engine:6333", "collection": "products", "part": part}
    manifest = Manifest({"weights": "1"}, every.shape[1], slices, "vectors-1.npy", "products.sqlite")
    return replace(manifest, backend="qdrant", qdrant=where)


def named(first: int, last: int) -> dict[str, tuple[str, int]]:
    """Products with the vectors of some rows, half of them shoes."""
    return {f"p{row}": ("Shoes" if row % 2 else "Hats", row) for row in range(first, last)}


def answers(catalogue: Catalogue, queries: Floats, k: int = 10) -> dict[str, list[list[Hit]]]:
    return {category: catalogue.search(queries, category, k) for category in catalogue.counts}


def same(one: Catalogue, other: Catalogue, k: int = 10) -> None:
    """Both have the same products, images, vectors and distances, in the same order."""
    assert dict(one.counts) == dict(other.counts)
    ours, theirs = (answers(catalogue, QUERIES[:10], k) for catalogue in (one, other))
    for category in ours:
        for mine, yours in zip(ours[category], theirs[category], strict=True):
            assert [(hit.product, hit.image) for hit in mine] == [(hit.product, hit.image) for hit in yours]
            assert [hit.distance for hit in mine] == pytest.approx([hit.distance for hit in yours], abs=1e-6)
            np.testing.assert_array_equal([hit.vector for hit in mine], [hit.vector for hit in yours])


def recall(found: list[list[Hit]], exact: list[list[Hit]]) -> list[float]:
    """For each query the share of the nearest that was found."""
    return [
        len({hit.product for hit in some} & {hit.product for hit in best}) / len(best)
        for some, best in zip(found, exact, strict=True)
    ]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Engine]]:
    """Gives the engine that the code connects to; when it is called again, one that was stopped and has read the disk."""
    (tmp_path / "engine").mkdir()
    running: list[Engine] = []

    def start() -> Engine:
        if running:
            running.pop().stop()
        running.append(Engine(tmp_path / "engine"))
        return running[0]

    for module in (qdrant, qdrant_upload):
        monkeypatch.setattr(module, "connect", lambda *_: running[0])
    yield start
    running.pop().stop()


def test_graphs_find_what_exact_slices_find(tmp_path: Path, engine: Callable[[], Engine]) -> None:
    every, here = vectors_of("learned", sum(SIZES.values()), 1), engine()
    categories = np.repeat(list(SIZES), list(SIZES.values())).tolist()
    np.random.default_rng(0).shuffle(categories)
    products = {f"p{row}": (str(category), row) for row, category in enumerate(categories)}
    manifest = write_catalogue(tmp_path / "base", products, every)
    upload(tmp_path / "base", manifest)
    exact = ExactCatalogue(tmp_path / "base", manifest)
    assert here.info("products").indexed_vectors_count == 0
    same(QdrantCatalogue(tmp_path / "base", manifest), exact)
    here.optimize("products")
    known = here.info("products")
    assert known.points_count == known.indexed_vectors_count == len(products)
    assert {name: index.points for name, index in known.payload_schema.items()} == {
        "category": len(products),
        "part": len(products),
    }
    assert here.graph_options("products") == (0, qdrant_upload.LINKS)
    right = answers(exact, QUERIES)
    for category, found in answers(QdrantCatalogue(tmp_path / "base", manifest), QUERIES).items():
        shares = recall(found, right[category])
        assert np.mean(shares) > 0.995, category
        assert min(shares) >= 0.8, category
        everything = QdrantCatalogue(tmp_path / "base", manifest).search(QUERIES[:3], category, SIZES[category] + 1)
        assert [len(hits) for hits in everything] == [SIZES[category]] * 3
    shoes = models.Filter(must=[models.FieldCondition(key="category", match=models.MatchValue(value="Shoes"))])
    asked = [
        models.QueryRequest(
            query=query.tolist(),
            filter=shoes,
            params=models.SearchParams(exact=True),
            limit=10,
            with_payload=True,
        )
        for query in QUERIES
    ]
    for found, hits in zip(here.query_batch_points("products", asked), right["Shoes"], strict=True):
        assert [point.payload["product"] for point in found.points] == [hit.product for hit in hits]


def test_products_with_one_photo_do_not_hide_the_others(tmp_path: Path, engine: Callable[[], Engine]) -> None:
    every, here = vectors_of("learned", 4000, 1), engine()
    every[np.random.default_rng(0).permutation(4000)[:1500]] = every[17]
    products = {f"p{row}": ("Hats", row) for row in range(4000)}
    manifest = write_catalogue(tmp_path / "base", products, every)
    upload(tmp_path / "base", manifest)
    here.optimize("products")
    exact, ours = (
        np.array([[hit.distance for hit in hits] for hits in catalogue.search(QUERIES, "Hats", 10)])
        for catalogue in (ExactCatalogue(tmp_path / "base", manifest), QdrantCatalogue(tmp_path / "base", manifest))
    )
    assert ours.shape == exact.shape == (100, 10)
    assert (ours <= exact[:, -1:] + 1e-6).mean() > 0.98


def test_one_graph_of_all_categories_would_find_less(
    tmp_path: Path, engine: Callable[[], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so the graphs are what is searched: with exact search both ways would find the same."""
    every = vectors_of("learned", 6000, 1)
    products = {f"p{row}": ("Hats" if row % 10 < 3 else "Bags", row) for row in range(6000)}
    manifest = write_catalogue(tmp_path / "base", products, every)
    exact = ExactCatalogue(tmp_path / "base", manifest).search(QUERIES, "Hats", 10)
    found = {}
    create = Engine.create_collection
    for name, graphs in (("own", models.HnswConfigDiff(m=0, payload_m=16)), ("all", models.HnswConfigDiff(m=16))):

        def of_kind(self: Engine, collection: str, given: models.HnswConfigDiff = graphs, **options: object) -> None:
            create(self, collection, **options | {"hnsw_config": given})  # type: ignore[arg-type]

        monkeypatch.setattr(Engine, "create_collection", of_kind)
        here = engine()
        one = replace(manifest, qdrant=manifest.qdrant | {"collection": name})
        upload(tmp_path / "base", one)
        here.optimize(name)
        found[name] = np.mean(recall(QdrantCatalogue(tmp_path / "base", one).search(QUERIES, "Hats", 10), exact))
    assert found["own"] > 0.995 > 0.985 > found["all"]


def test_changes_are_the_same_in_the_engine_in_local_mode_and_in_the_files(
    tmp_path: Path, engine: Callable[[], Engine]
) -> None:
    every, here = vectors_of("learned", 700, 1), engine()
    base, local = tmp_path / "base", tmp_path / "local"
    changed = named(20, 420) | {"p30": ("Shoes", 30), "p41": ("Shoes", 600)}  # another category; another photo
    steps = [(named(0, 400), [256, 144]), (named(0, 420), [20]), (named(20, 420), []), (changed, [2])]
    for products, sent in steps:
        here.sent.clear()
        manifest = write_catalogue(base, products, every)
        upload(base, manifest)
        assert here.sent == sent
        write_catalogue(local, products, every)
        in_local = replace(manifest, qdrant=manifest.qdrant | {"url": None})
        with pytest.MonkeyPatch.context() as patch:
            for module in (qdrant, qdrant_upload):
                patch.setattr(module, "connect", lambda folder, _: QdrantClient(path=str(folder / "qdrant")))
            upload(local, in_local)
            plain = QdrantCatalogue(local, in_local)
        for k in (1, 10, 1000):
            same(QdrantCatalogue(base, manifest), ExactCatalogue(base, manifest), k)
        same(QdrantCatalogue(base, manifest), plain)
        plain.close()
        here.optimize("products")
    here = engine()  # stopped, and read from disk
    same(QdrantCatalogue(base, manifest), ExactCatalogue(base, manifest))
    upload(base, manifest)
    assert here.sent == []


def test_a_checkpoints_looks_are_those_of_its_files(
    served: tuple[Path, Path], looks: Path, tmp_path: Path, engine: Callable[[], Engine]
) -> None:
    (run, files), here = served, engine()
    words = ("catalogue.backend=qdrant", "catalogue.url=http://engine:6333")
    base = make_catalogue(run, tmp_path / "base", *words)
    here.optimize("products")
    photo = min((looks / "images").rglob("*.jpg"))
    ours, theirs = (Recommender.from_checkpoint(run, folder).look(photo, k=5) for folder in (base, files))
    assert ours.answers
    for mine, yours in zip(ours.answers, theirs.answers, strict=True):
        assert mine.category == yours.category
        assert [(one.product, one.image) for one in mine.products] == [
            (one.product, one.image) for one in yours.products
        ]


def test_products_are_found_by_id_in_all_parts(tmp_path: Path, engine: Callable[[], Engine]) -> None:
    every, _ = vectors_of("learned", 60, 1), engine()
    manifest = write_catalogue(tmp_path / "base", named(0, 40), every)
    upload(tmp_path / "base", manifest)
    upload(tmp_path / "other", write_catalogue(tmp_path / "other", named(30, 60), every, "b"))
    catalogue = QdrantCatalogue(tmp_path / "base", manifest)
    assert sum(catalogue.counts.values()) == 70
    found = catalogue.find(["p3", "p35", "p50", "p99"])
    assert found.keys() == {"p3", "p35", "p50"}
    assert (found["p50"].category, found["p50"].image) == ("Hats", Path("/photos/p50.jpg"))
    np.testing.assert_array_equal(found["p50"].vector, every[50])
    assert catalogue.find([]) == {}


def test_an_upload_that_does_not_arrive_whole_is_told_and_mended(
    tmp_path: Path, engine: Callable[[], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    every, here, base = vectors_of("learned", 80, 1), engine(), tmp_path / "base"
    manifest = write_catalogue(base, named(0, 50), every)
    real = Engine.upsert

    def losing(self: Engine, name: str, points: models.Batch) -> None:
        assert points.payloads is not None
        assert isinstance(points.vectors, list)
        real(self, name, models.Batch(ids=points.ids[3:], vectors=points.vectors[3:], payloads=points.payloads[3:]))

    monkeypatch.setattr(Engine, "upsert", losing)
    told = r"^catalogue\.collection=products catalogue\.part=all: it has 47 products after the upload of 50; run the same command again.*$"
    with pytest.raises(InputError, match=told):
        upload(base, manifest)
    monkeypatch.setattr(Engine, "upsert", real)
    upload(base, manifest)
    same(QdrantCatalogue(base, manifest), ExactCatalogue(base, manifest))
    # Somebody else's point among ours is told too.
    payload = {"part": "all", "product": "theirs", "category": "Hats", "image": "x.jpg"}
    here.upsert("products", models.Batch(ids=[1], vectors=[every[0].tolist()], payloads=[payload]))
    with pytest.raises(InputError, match="it has 51 products after the upload of 50"):
        upload(base, manifest)


def test_what_was_being_sent_when_it_was_killed_and_is_gone_later_is_deleted(
    tmp_path: Path, engine: Callable[[], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    every, here, base = vectors_of("learned", 80, 1), engine(), tmp_path / "base"
    real = Engine.upsert

    def killed(self: Engine, name: str, points: models.Batch) -> None:
        real(self, name, points)
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "upsert", killed)
    with pytest.raises(KeyboardInterrupt):
        upload(base, write_catalogue(base, named(0, 50), every))
    monkeypatch.setattr(Engine, "upsert", real)
    assert here.info("products").points_count == 50
    manifest = write_catalogue(base, named(10, 60), every)
    upload(base, manifest)
    same(QdrantCatalogue(base, manifest), ExactCatalogue(base, manifest))


def test_a_check_tells_of_what_is_away(tmp_path: Path, engine: Callable[[], Engine]) -> None:
    here, base = engine(), tmp_path / "base"
    manifest = write_catalogue(base, named(0, 20), vectors_of("learned", 20, 1))
    upload(base, manifest)
    catalogue = QdrantCatalogue(base, manifest)
    catalogue.check()
    here.away = True
    for asked in (
        catalogue.check,
        lambda: catalogue.find(["p1"]),
        lambda: catalogue.search(QUERIES, "Hats", 3),
    ):
        with pytest.raises(InputError, match=r"^catalogue\.url=http://engine:6333: .*refused; start the server.*$"):
            asked()
    here.away = False
    catalogue.check()
    made_anew = {"identity": {"weights": "2"}, "id": "2"}
    (tmp_path / "engine" / "products" / "metadata.json").write_text(json.dumps(made_anew))
    with pytest.raises(InputError, match="its vectors are of another checkpoint"):
        catalogue.check()
