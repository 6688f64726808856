"""A change of a catalogue in PostgreSQL is one transaction: only what changed is sent, and who is stopped has changed nothing."""

import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from catalogues import Shop, uploaded
from factories import REPOSITORY, make_catalogue, train_on, until
from postgres import PASSWORD, Server

from ctl_lightning.benchmarks.search import vectors_of
from ctl_lightning.runtime.errors import InputError, InUseError
from ctl_lightning.serving.catalogue import pgvector, pgvector_partitions, pgvector_upload
from ctl_lightning.serving.catalogue.exact import ExactCatalogue
from ctl_lightning.serving.catalogue.files import Listed, Vectors
from ctl_lightning.serving.catalogue.pgvector import PgvectorCatalogue
from ctl_lightning.serving.catalogue.pgvector_partitions import Partitions
from ctl_lightning.serving.catalogue.pgvector_upload import _Upload


def state(server: Server, shop: Shop) -> tuple[dict[str, tuple[str, str, bytes]], dict[str, int], list[str]]:
    """Product -> category, version and vector, as the database has them; and the counts and graphs that it notes."""
    name = shop.manifest.database["url"].rpartition("/")[2]
    rows = server.sql("SELECT product, category, version, vector::real[]::text FROM products", name)
    ((counts, graphs),) = server.sql("SELECT counts, graphs FROM ctl_lightning_collections", name)
    return {row[0]: (row[1], row[2], row[3]) for row in rows}, counts, graphs


def tables(server: Server, shop: Shop) -> list[str]:
    query = "SELECT relname FROM pg_class WHERE relname LIKE 'products%' AND relkind IN ('r', 'p') ORDER BY 1"
    return [name for (name,) in server.sql(query, shop.manifest.database["url"].rpartition("/")[2])]


def same_as_files(shop: Shop, queries: Vectors) -> None:
    exact = ExactCatalogue(shop.folder, shop.manifest)
    with closing(PgvectorCatalogue(shop.folder, shop.manifest)) as found:
        assert found.counts == exact.counts
        for category in exact.counts:
            mine, theirs = exact.search(queries, category, 1000), found.search(queries, category, 1000)
            assert [[hit[:2] for hit in one] for one in mine] == [[hit[:2] for hit in one] for one in theirs]


SLICES = {"hats": (0, 200), "shoes": (200, 600)}


def test_only_what_changed_is_sent(
    database: str, tmp_path: Path, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, int, int, bool]] = []
    real = _Upload._apply

    def apply(self: _Upload, work: Any, vectors: Vectors) -> None:
        sent.append((work.category, len(work.rows), work.gone, work.anew))
        real(self, work, vectors)

    monkeypatch.setattr(_Upload, "_apply", apply)
    vectors, queries = vectors_of("learned", 700, 1), vectors_of("learned", 5, 2)
    vectors[20:60] = vectors[3]  # equal ones keep their order through all changes
    shop = uploaded(tmp_path, database, vectors[:600], SLICES)
    assert sent == [("hats", 200, 0, True), ("shoes", 400, 0, True)]

    def changed(listed: list[Listed], vectors: Vectors, slices: dict[str, tuple[int, int]]) -> list[Any]:
        nonlocal shop
        sent.clear()
        shop = shop.changed(vectors, slices, listed=listed).upload()
        same_as_files(shop, queries)
        return list(sent)

    listed = shop.listed
    assert changed(listed, vectors[:600], SLICES) == [("hats", 0, 0, False), ("shoes", 0, 0, False)]
    # Ten hats go, ten come, one has another photo, and one shoe is a hat now.
    new = [Listed(f"new {number}", "hats", "new.jpg", "1") for number in range(10)]
    other = [listed[30]._replace(version="2")]
    hat = [listed[599]._replace(category="hats")]
    hats = [*listed[10:30], *other, *listed[31:200], *new, *hat]
    now = np.concatenate([vectors[10:30], vectors[650:651], vectors[31:200], vectors[600:610], vectors[599:600]])
    both = changed(
        [*hats, *listed[200:599]], np.concatenate([now, vectors[200:599]]), {"hats": (0, 201), "shoes": (201, 600)}
    )
    assert both == [("hats", 12, 11, False), ("shoes", 0, 1, False)]
    # Most shoes go: the table is built anew; then all hats do, and their table.
    few = [*hats, *listed[200:250]]
    assert changed(few, np.concatenate([now, vectors[200:250]]), {"hats": (0, 201), "shoes": (201, 251)}) == [
        ("hats", 0, 0, False),
        ("shoes", 0, 349, True),
    ]
    assert changed(listed[200:250], vectors[200:250], {"shoes": (0, 50)}) == [("shoes", 0, 0, False)]
    assert len(tables(postgres_server, shop)) == 2


def test_products_of_one_photo_stay_in_the_order_of_the_files(
    database: str, tmp_path: Path, postgres_server: Server
) -> None:
    vectors = np.tile(vectors_of("learned", 1, 1), (600, 1))
    shop = uploaded(tmp_path, database, vectors, SLICES)
    hats, shoes = shop.listed[:200], shop.listed[200:]
    # A hat becomes a shoe: the files have it before the shoes.
    moved = [*hats[:7], *hats[8:], hats[7]._replace(category="shoes"), *shoes]
    shop = shop.changed(vectors, {"hats": (0, 199), "shoes": (199, 600)}, listed=moved).upload()
    same_as_files(shop, vectors[:1])
    postgres_server.sql("DELETE FROM products WHERE product = 'product 300'", database.rpartition("/")[2])
    same_as_files(shop.upload(), vectors[:1])
    shop = shop.changed(vectors, {"hats": (0, 199), "shoes": (199, 600)}, listed=[*moved[:199], *moved[:198:-1]])
    same_as_files(shop.upload(), vectors[:1])


def test_a_graph_comes_and_goes_with_the_size_and_the_options(
    database: str, tmp_path: Path, postgres_server: Server
) -> None:
    shop = uploaded(tmp_path, database, vectors_of("learned", 600, 1), SLICES, {"from": 500})
    name = database.rpartition("/")[2]

    def graphs() -> list[str]:
        query = "SELECT indexdef FROM pg_indexes WHERE indexdef LIKE '%hnsw%'"
        return [
            definition.partition("WITH ")[2].partition(" WHERE")[0]
            for (definition,) in postgres_server.sql(query, name)
        ]

    def with_options(**hnsw: int) -> dict[str, str]:
        changed = replace(shop, manifest=replace(shop.manifest, hnsw={**shop.manifest.hnsw, **hnsw}))
        return changed.upload().manifest.graphs

    assert (shop.manifest.graphs, graphs()) == ({}, [])
    assert list(with_options(**{"from": 300})) == ["shoes"]
    assert graphs() == ["(m='16', ef_construction='128')"]
    assert list(with_options(**{"from": 100, "links": 8})) == ["hats", "shoes"]
    assert graphs() == ["(m='8', ef_construction='128')"] * 2
    assert list(with_options(**{"from": 1000})) == []
    assert graphs() == []


def test_who_is_stopped_has_changed_nothing_and_goes_on(
    database: str, tmp_path: Path, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = uploaded(tmp_path, database, vectors_of("learned", 600, 1), SLICES)
    before, names = state(postgres_server, shop), tables(postgres_server, shop)
    other = shop.changed(vectors_of("learned", 500, 5), {"hats": (0, 190), "boots": (190, 500)}, version="2")
    stages = [(_Upload, name) for name in ("_claim", "_stage", "_work", "_apply", "_finish")]
    for kind, stage in (*stages, (Partitions, "swap")):
        real = getattr(kind, stage)

        def stops(self: Any, *given: Any, real: Any = real) -> None:
            real(self, *given)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(kind, stage, stops)
            with pytest.raises(KeyboardInterrupt):
                other.upload()
        assert state(postgres_server, shop) == before
        assert tables(postgres_server, shop) == names
    with monkeypatch.context() as patch:
        patch.setattr(pgvector_upload, "write_collection", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            other.upload()
    assert state(postgres_server, shop) == before
    other = other.upload()
    after = state(postgres_server, other)
    assert after[1] == {"hats": 190, "boots": 310}
    assert {category for category, _, _ in after[0].values()} == {"hats", "boots"}
    assert len(tables(postgres_server, shop)) == 3


def test_what_was_lost_by_hand_is_sent_again(database: str, tmp_path: Path, postgres_server: Server) -> None:
    shop = uploaded(tmp_path, database, vectors_of("learned", 600, 1), SLICES)
    before, name = state(postgres_server, shop), database.rpartition("/")[2]
    for statement in (
        "DELETE FROM products WHERE product LIKE 'product 1%'",
        f"DROP TABLE {tables(postgres_server, shop)[1]}",
        "DROP TABLE products",
        "DROP TABLE products, ctl_lightning_collections",
    ):
        postgres_server.sql(statement, name)
        assert state(postgres_server, shop.upload()) == before
    postgres_server.sql(f"ALTER TABLE products DETACH PARTITION {tables(postgres_server, shop)[1]}", name)
    with pytest.raises(InputError, match="already exists; it is no part of the collection any more; drop or rename it"):
        shop.upload()


def test_a_command_killed_before_it_wrote_its_file_heals_at_the_next_one(
    served: tuple[Path, Path], tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch, shop: Any
) -> None:
    from ctl_lightning.serving.catalogue.files import Manifest

    words = ["catalogue.backend=pgvector", f"catalogue.url={database}"]
    base = make_catalogue(served[0], tmp_path / "base", *shop(0, 12), *words)
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_catalogue(served[0], base, *shop(4, 20))
    old = Manifest.read(base)
    assert old is not None
    assert sum(old.counts.values()) == 12
    with closing(PgvectorCatalogue(base, old)) as found:
        assert sum(found.counts.values()) == 16  # readers have the new catalogue
    make_catalogue(served[0], base, *shop(0, 2), "change=remove")
    new = Manifest.read(base)
    assert new is not None
    with closing(PgvectorCatalogue(base, new)) as found:
        assert found.counts == new.counts
        assert sum(new.counts.values()) == 10


def test_two_processes_do_not_change_one_collection(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = uploaded(tmp_path, database, vectors_of("learned", 600, 1), SLICES)
    real = _Upload._stage
    errors = []

    def another(self: _Upload, listed: list[Listed]) -> None:
        monkeypatch.setattr(_Upload, "_stage", real)
        with pytest.raises(InUseError, match=r"catalogue\.collection=products: another process is changing it"):
            shop.upload()
        errors.append(1)
        real(self, listed)

    monkeypatch.setattr(_Upload, "_stage", another)
    shop.upload()
    assert errors


def test_a_table_that_somebody_holds_is_waited_for_and_readers_go_on(
    database: str, tmp_path: Path, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    shop = uploaded(tmp_path, database, vectors_of("learned", 600, 1), SLICES)
    other = shop.changed(vectors_of("learned", 500, 5), {"hats": (0, 500)})
    monkeypatch.setattr(pgvector_partitions, "SWAPPING", 1)
    monkeypatch.setitem(pgvector.SETTINGS, "lock_timeout", "1s")
    tried: list[Any] = []

    def tries() -> None:
        with pytest.raises(InputError, match="somebody else has held its table"):
            other.upload()
        tried.append(True)

    with psycopg.connect(database) as dump, closing(PgvectorCatalogue(tmp_path, shop.manifest)) as found:
        dump.execute("LOCK TABLE products IN ACCESS SHARE MODE")
        changing = Thread(target=tries)
        changing.start()
        while changing.is_alive():
            assert len(found.search(vectors_of("learned", 1, 2), "shoes", 5)[0]) == 5
        changing.join()
    assert tried
    other.upload()


def test_a_collection_of_another_checkpoint_another_folder_or_nobody(
    served: tuple[Path, Path],
    tmp_path: Path,
    database: str,
    postgres_server: Server,
    looks: Path,
    cache: Path,
) -> None:
    words = ["catalogue.backend=pgvector", f"catalogue.url={database}"]
    base = make_catalogue(served[0], tmp_path / "base", *words)
    other = train_on(looks, cache, tmp_path / "run", "seed=1")
    with pytest.raises(InputError, match="its vectors are of another checkpoint"):
        make_catalogue(other, tmp_path / "other", *words)
    with pytest.raises(
        InputError, match=r"catalogue\.collection=products: another folder's catalogue is there, with 12 products"
    ):
        make_catalogue(served[0], tmp_path / "second", *words)
    make_catalogue(other, tmp_path / "other", *words, "catalogue.collection=other")  # beside it
    name = database.rpartition("/")[2]
    postgres_server.sql("CREATE TABLE theirs (product text)", name)
    for collection, says in (
        ("theirs", "there is a table of that name that is not of ctl_lightning"),
        ("ctl_lightning_collections", "there is a table of that name that is not of ctl_lightning"),
        ("x" * 41, "give a name of at most 40 bytes"),
    ):
        with pytest.raises(InputError, match=f"catalogue.collection={collection}: {says}"):
            make_catalogue(served[0], tmp_path / "third", *words, f"catalogue.collection={collection}")
    for change, says in (
        ("dim = 64", "its vectors have 64 numbers, those of the checkpoint 16"),
        ("format = 99", "another version of ctl_lightning wrote it"),
    ):
        postgres_server.sql(f"UPDATE ctl_lightning_collections SET {change} WHERE name = 'products'", name)
        with pytest.raises(InputError, match=says):
            make_catalogue(served[0], base)
        postgres_server.sql("UPDATE ctl_lightning_collections SET dim = 16", name)
    postgres_server.sql("ALTER TABLE ctl_lightning_collections DROP COLUMN links", name)
    with pytest.raises(InputError, match="another version of ctl_lightning wrote it"):
        make_catalogue(served[0], base)


CHANGE = """
import sys
from dataclasses import replace
from pathlib import Path
from catalogues import uploaded
from ctl_lightning.benchmarks.search import vectors_of

vectors = vectors_of("learned", 20_000, 3)
uploaded(Path(sys.argv[1]), sys.argv[2], vectors, {"hats": (0, 20_000)}, {"links": 50, "build": 1000})
"""


@pytest.mark.long
@pytest.mark.parametrize("at", ["COPY pg_temp.arriving%", "CREATE INDEX%"])
def test_a_process_that_is_killed_leaves_the_old_catalogue_and_nothing_at_work(
    at: str, database: str, tmp_path: Path, postgres_server: Server
) -> None:
    shop = uploaded(tmp_path, database, vectors_of("learned", 600, 1), SLICES)
    before, names, name = state(postgres_server, shop), tables(postgres_server, shop), database.rpartition("/")[2]
    own = [str(path) for path in (REPOSITORY / "src", REPOSITORY / "tests")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(own)}
    process = subprocess.Popen([sys.executable, "-c", CHANGE, str(tmp_path), database], env=environment)

    def at_work(query: str) -> int:
        busy = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE '{query}'"
        return int(postgres_server.sql(busy)[0][0])

    until(lambda: at_work(at))
    process.kill()
    process.wait()
    until(lambda: not at_work("%"), seconds=20)  # building that graph takes longer
    assert state(postgres_server, shop) == before
    assert tables(postgres_server, shop) == names
    other = shop.changed(vectors_of("learned", 60, 5), {"hats": (0, 60)}, version="2")
    assert state(postgres_server, other.upload())[1] == {"hats": 60}


@pytest.mark.long
def test_a_password_on_the_command_line_is_in_no_file_and_no_line(
    served: tuple[Path, Path], tmp_path: Path, postgres_server: Server
) -> None:
    url = postgres_server.new_database().replace("postgres@", "postgres:p%40ss%2Fw%3Ard@")
    words = [
        f"ckpt_path={served[0]}",
        f"catalogue={tmp_path / 'base'}",
        f"catalogue.url={url}",
        "catalogue.backend=pgvector",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "ctl_lightning.catalogue", *words, f"hydra.run.dir={tmp_path / 'run'}"],
        env={key: value for key, value in os.environ.items() if key != "PGPASSWORD"},
        capture_output=True,
        text=True,
        check=True,
    )
    told = [
        done.stdout,
        done.stderr,
        *(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()),
    ]
    assert len(told) > 8
    assert not [one for one in told if "p%40ss" in one or PASSWORD in one]
