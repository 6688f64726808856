"""PostgreSQL with pgvector, a real server, finds what the exact slices find, and shows one state of a catalogue."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from catalogues import Shop, same_answers, uploaded
from factories import make_catalogue, until
from postgres import PASSWORD, Server, running

from ctl_lightning.benchmarks.search import vectors_of
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue import pgvector
from ctl_lightning.serving.catalogue.exact import ExactCatalogue
from ctl_lightning.serving.catalogue.files import Catalogue, Vectors
from ctl_lightning.serving.catalogue.pgvector import PgvectorCatalogue
from ctl_lightning.serving.catalogue.pgvector_partitions import Partitions
from ctl_lightning.serving.catalogue.postgres import CONNECTIONS
from ctl_lightning.serving.recommender import Recommender


def same_hits(mine: Catalogue, theirs: Catalogue, queries: Vectors, category: str, k: int) -> None:
    for one, other in zip(mine.search(queries, category, k), theirs.search(queries, category, k), strict=True):
        assert [hit.product for hit in one] == [hit.product for hit in other]
        assert [hit.image for hit in one] == [hit.image for hit in other]
        assert [hit.distance for hit in one] == [hit.distance for hit in other]
        assert all((a.vector == b.vector).all() for a, b in zip(one, other, strict=True))


def test_a_scanned_category_answers_as_its_exact_slice_to_the_last_bit(database: str, tmp_path: Path) -> None:
    vectors = vectors_of("learned", 900, 1)
    vectors[100:160] = vectors[17]  # products of one photo, more than are asked for at once
    vectors[200:230] = vectors[18] + np.float32(1e-8)
    shop = uploaded(tmp_path, database, vectors, {"hats": (0, 600), 'it\'s "Schuhe" ; DROP': (600, 900)})
    queries = np.concatenate([vectors_of("learned", 20, 2), vectors[[17, 18, 100]]])
    with closing(PgvectorCatalogue(tmp_path, shop.manifest)) as found:
        exact = ExactCatalogue(tmp_path, shop.manifest)
        assert found.counts == {"hats": 600, 'it\'s "Schuhe" ; DROP': 300}
        for category in found.counts:
            for k in (1, 3, 10, 65, 1000):
                same_hits(exact, found, queries, category, k)
        assert found.search(queries, "gloves", 3) == [[]] * len(queries)
        names = ["product 5", "product 700", "unknown"]
        mine, theirs = exact.find(names), found.find(names)
        assert mine.keys() == theirs.keys() == {"product 5", "product 700"}
        for name, one in mine.items():
            assert one[:3] == theirs[name][:3]
            assert (one.vector == theirs[name].vector).all()
        assert found.find([]) == {}
        assert found.find(["\0", "product 5\0", "\ud800", "%"]) == {}
        same_hits(exact, found, queries[:2], "hats", 10**19)


def recall(exact: Catalogue, found: Catalogue, queries: Vectors, category: str) -> float:
    """The mean share of the ten nearest that is found."""
    both = zip(exact.search(queries, category, 10), found.search(queries, category, 10), strict=True)
    return float(np.mean([len({hit[0] for hit in one} & {hit[0] for hit in other}) / 10 for one, other in both]))


def test_a_category_with_a_graph_finds_nearly_all(database: str, tmp_path: Path, postgres_server: Server) -> None:
    vectors, queries = vectors_of("learned", 4300, 1), vectors_of("learned", 100, 2)
    shop = uploaded(tmp_path, database, vectors[:4000], {"hats": (0, 500), "shoes": (500, 4000)}, {"from": 1000})
    assert list(shop.manifest.graphs) == ["shoes"]
    exact = ExactCatalogue(tmp_path, shop.manifest)
    with closing(PgvectorCatalogue(tmp_path, shop.manifest)) as found:
        assert recall(exact, found, queries, "shoes") > 0.99
        same_hits(exact, found, queries[:5], "hats", 10)
        same_hits(exact, found, queries[:5], "shoes", 300)  # beyond what a graph is searched for
        # In the same graph 300 hats and shoes come, and as many go.
        shop = shop.changed(vectors[300:], {"hats": (0, 200), "shoes": (200, 4000)}, first=300).upload()
        exact = ExactCatalogue(tmp_path, shop.manifest)
        assert recall(exact, found, queries, "shoes") > 0.99
    scans = "SELECT sum(idx_scan) FROM pg_stat_user_indexes WHERE indexrelname LIKE '%vector%'"
    until(lambda: (postgres_server.sql(scans, database.rpartition("/")[2])[0][0] or 0) >= 200)


def test_many_products_with_one_photo_are_found_by_a_graph(database: str, tmp_path: Path) -> None:
    vectors = vectors_of("learned", 1500, 1)
    vectors[np.random.default_rng(0).permutation(1500)[:700]] = vectors[17]
    vectors += np.random.default_rng(1).uniform(-1e-8, 1e-8, vectors.shape).astype(np.float32)  # of other batches
    shop = uploaded(tmp_path, database, vectors, {"shoes": (0, 1500)}, {"from": 1000})
    exact = ExactCatalogue(tmp_path, shop.manifest)
    queries = np.concatenate([vectors_of("learned", 20, 2), vectors[[17]]])
    with closing(PgvectorCatalogue(tmp_path, shop.manifest)) as found:
        for mine, theirs in zip(exact.search(queries, "shoes", 10), found.search(queries, "shoes", 10), strict=True):
            assert len(theirs) == 10
            assert np.abs(np.subtract([one.distance for one in mine], [one.distance for one in theirs])).max() < 1e-6
        # The one that stands for all goes; another does then.
        gone = found.search(queries[-1:], "shoes", 1)[0][0]
        first = int(gone.product.split()[1])
        fewer = np.delete(vectors, first, 0)
        listed = [one for one in shop.listed if one.product != gone.product]
        shop.changed(fewer, {"shoes": (0, 1499)}, listed=listed).upload()
        hits = found.search(queries[-1:], "shoes", 10)[0]
        assert len(hits) == 10
        assert gone.product not in {hit.product for hit in hits}
        assert max(hit.distance for hit in hits) == pytest.approx(gone.distance, abs=1e-6)


def test_it_recommends_what_exact_slices_recommend(
    served: tuple[Path, Path],
    tmp_path: Path,
    shop: Callable[[int, int], list[str]],
    looks: Path,
    database: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run, photos = served[0], sorted((looks / "images").rglob("*.jpg"))[:6]
    backend = ["catalogue.backend=pgvector", f"catalogue.url={database}", "catalogue.hnsw_from=30"]
    exact = make_catalogue(run, tmp_path / "exact", *shop(0, 70))
    base = make_catalogue(run, tmp_path / "base", *shop(0, 70), *backend)
    same_answers(run, exact, base, photos)
    for first, last, change in ((5, 75, "set"), (60, 90, "add"), (20, 30, "remove")):
        for folder in (exact, base):
            make_catalogue(run, folder, *shop(first, last), f"change={change}")  # still in PostgreSQL
        same_answers(run, exact, base, photos)
        same_answers(run, exact, base, photos, k=1000)
    alone = tmp_path / "reader"
    alone.mkdir()
    (alone / "catalogue.json").write_bytes((base / "catalogue.json").read_bytes())
    same_answers(run, exact, alone, photos)
    with pytest.raises(InputError, match=r"popularity=0\.1: .*PostgreSQL"):
        Recommender.from_checkpoint(run, base, popularity=0.1)
    with caplog.at_level("INFO"):
        make_catalogue(run, base, "catalogue.backend=exact")
    assert f"the collection products stays in {database}; drop it" in caplog.text
    assert isinstance(Recommender.from_checkpoint(run, base).catalogue, ExactCatalogue)


def half(shop: Shop) -> Shop:
    """The same folder and collection with another catalogue: half of its products, all with other vectors."""
    return shop.changed(vectors_of("learned", 300, 9), {"hats": (0, 100), "shoes": (100, 300)}, version="2")


def test_a_snapshot_is_of_one_state_while_the_catalogue_changes(
    database: str, tmp_path: Path, postgres_server: Server
) -> None:
    shop = uploaded(tmp_path, database, vectors_of("learned", 600, 1), {"hats": (0, 200), "shoes": (200, 600)})
    query = vectors_of("learned", 1, 2)
    with closing(PgvectorCatalogue(tmp_path, shop.manifest)) as found:
        before = {category: found.search(query, category, 1000)[0] for category in ("hats", "shoes")}
        with found.snapshot() as snapshot:
            first = snapshot.search(query, "hats", 1000)[0]
            changing = Thread(target=lambda: half(shop).upload())
            changing.start()
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
            until(lambda: postgres_server.sql(waits)[0][0])
            second = snapshot.search(query, "shoes", 1000)[0]
            assert changing.is_alive()  # to put the new tables in the place of the old, it waits for this look
            assert snapshot.counts == {"hats": 200, "shoes": 400}
        assert [one.distance for one in first] == [one.distance for one in before["hats"]]
        assert [one.distance for one in second] == [one.distance for one in before["shoes"]]
        changing.join()
        assert len(found.search(query, "hats", 1000)[0]) == 100
        assert found.counts == {"hats": 100, "shoes": 200}


def test_readers_see_the_old_or_the_new_catalogue_and_do_not_wait_for_the_change(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = uploaded(tmp_path, database, vectors_of("learned", 600, 1), {"hats": (0, 200), "shoes": (200, 600)})
    query, at_work, go_on = vectors_of("learned", 1, 2), Event(), Event()
    real = Partitions.swap

    def stops(self: Partitions, *given: Any) -> None:
        at_work.set()
        assert go_on.wait(60)
        real(self, *given)

    monkeypatch.setattr(Partitions, "swap", stops)
    seen: set[tuple[int, int, int]] = set()
    with closing(PgvectorCatalogue(tmp_path, shop.manifest)) as found:

        def look() -> tuple[int, int, int]:
            with found.snapshot() as snapshot:
                sizes = [len(snapshot.search(query, name, 1000)[0]) for name in ("hats", "shoes")]
                return sizes[0], sizes[1], sum(snapshot.counts.values())

        changing = Thread(target=lambda: half(shop).upload())
        changing.start()
        assert at_work.wait(60)
        assert look() == (200, 400, 600)  # all is built, nothing is locked
        go_on.set()
        while changing.is_alive():
            seen.add(look())
        seen.add(look())
    assert seen <= {(200, 400, 600), (100, 200, 300)}
    assert (100, 200, 300) in seen


def test_a_connection_that_is_lost_is_made_again(database: str, tmp_path: Path, postgres_server: Server) -> None:
    shop = uploaded(tmp_path, database, vectors_of("learned", 60, 1), {"hats": (0, 20), "shoes": (20, 60)})
    query = vectors_of("learned", 1, 2)
    lose = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database.rpartition('/')[2]}'"
    with closing(PgvectorCatalogue(tmp_path, shop.manifest)) as found:
        expected = [hit.product for hit in found.search(query, "hats", 5)[0]]
        postgres_server.sql(lose)
        assert [hit.product for hit in found.search(query, "hats", 5)[0]] == expected
        with found.snapshot() as snapshot:
            postgres_server.sql(lose)
            assert [hit.product for hit in snapshot.search(query, "hats", 5)[0]] == expected
        with found.snapshot() as snapshot:
            postgres_server.sql(lose)
            shop.changed(vectors_of("learned", 61, 1), {"hats": (0, 20), "shoes": (20, 61)}).upload()
            with pytest.raises(InputError, match="it was changed while it was read, and the connection was lost"):
                snapshot.search(query, "hats", 5)
        found.check()
        assert sum(found.counts.values()) == 61
        with found.snapshot() as snapshot:
            found.close()
            assert len(snapshot.search(query, "hats", 5)[0]) == 5
    until(lambda: not postgres_server.sql(lose.replace("pg_terminate_backend(pid)", "pid")))


@pytest.mark.parametrize("version", [16, 18])
def test_both_versions_of_the_server_and_a_restart_without_a_restart_of_ours(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    vectors, queries = vectors_of("learned", 1500, 1), vectors_of("learned", 5, 2)
    with running(version) as server:
        shop = uploaded(
            tmp_path, server.new_database(), vectors, {"hats": (0, 500), "shoes": (500, 1500)}, {"from": 600}
        )
        exact = ExactCatalogue(tmp_path, shop.manifest)
        with closing(PgvectorCatalogue(tmp_path, shop.manifest)) as found:
            same_hits(exact, found, queries, "hats", 10)
            assert len(found.search(queries, "shoes", 10)[0]) == 10
            server.stop()
            for ask in (found.check, lambda: found.search(queries, "hats", 10)):
                with pytest.raises(
                    InputError, match=r"^catalogue\.url=postgresql://[^\n]*refused[^\n]*; start the server, or"
                ):
                    ask()
            server.start()
            found.check()
            same_hits(exact, found, queries, "hats", 10)


def test_a_server_that_is_frozen_is_away_and_comes_back(
    database: str, tmp_path: Path, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = uploaded(tmp_path, database, vectors_of("learned", 60, 1), {"hats": (0, 60)})
    query = f"SELECT pid FROM pg_stat_activity WHERE datname = '{database.rpartition('/')[2]}'"
    with closing(PgvectorCatalogue(tmp_path, shop.manifest)) as found:
        sessions = [pid for (pid,) in postgres_server.sql(query)]
        assert sessions
        for pid in sessions:
            os.kill(pid, signal.SIGSTOP)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(pgvector, "SECONDS", 0.1)
                for _ in range(2 * CONNECTIONS):
                    with pytest.raises(InputError, match=r"no answer within 0\.1"):
                        found.check()
            assert len(postgres_server.sql(query)) == len(sessions)  # one that asks is enough
        finally:
            for pid in sessions:
                os.kill(pid, signal.SIGCONT)
        found.check()


def test_the_first_of_two_hosts_that_says_nothing_is_passed_over(
    database: str, tmp_path: Path, postgres_server: Server
) -> None:
    shop = uploaded(tmp_path, database, vectors_of("learned", 60, 1), {"hats": (0, 60)})
    with socket.create_server(("127.0.0.1", 0)) as mute:
        both = database.replace("@", f"@127.0.0.1:{mute.getsockname()[1]},")
        manifest = replace(shop.manifest, database={"url": both, "collection": "products"})
        with closing(PgvectorCatalogue(tmp_path, manifest)) as found:
            assert found.counts == {"hats": 60}


def test_a_reader_waits_for_a_lock_no_longer_than_for_anything_else(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    shop = uploaded(tmp_path, database, vectors_of("learned", 60, 1), {"hats": (0, 60)})
    monkeypatch.setitem(pgvector.SETTINGS, "statement_timeout", "300ms")
    with closing(PgvectorCatalogue(tmp_path, shop.manifest)) as found, psycopg.connect(database) as other:
        other.execute("LOCK TABLE products IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(InputError, match="statement timeout; the server has too much to do"):
            found.search(vectors_of("learned", 1, 2), "hats", 5)


def test_a_category_that_comes_is_searched_by_who_has_the_catalogue_open(
    served: tuple[Path, Path], tmp_path: Path, shop: Callable[[int, int], list[str]], looks: Path, database: str
) -> None:
    backend = ["catalogue.backend=pgvector", f"catalogue.url={database}"]
    options = shop(0, 2)
    (tmp_path / "hat.json").write_text('{"p0": "Hats"}')
    hat = [f"products={tmp_path / 'hat.json'}", options[1]]
    base = make_catalogue(served[0], tmp_path / "base", *hat, *backend)
    photo = next((looks / "images").rglob("*.jpg"))
    named, all_of_them = (Recommender.from_checkpoint(served[0], base) for _ in range(2))
    with pytest.raises(InputError, match="category=Shoes: the catalogue has no product of it"):
        named.recommend(photo, "Shoes", 1)
    make_catalogue(served[0], base, *options)
    assert [one.product for one in named.recommend(photo, "Shoes", 1)] == ["p1"]
    assert len(all_of_them.look(photo).answers) == 2
    for recommender in (named, all_of_them):
        recommender.catalogue.close()


def test_a_standby_is_read_and_refuses_a_change_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: tuple[Path, Path], looks: Path
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with running() as server, standby_of(server) as standby:
        url = server.new_database()
        database = url.rpartition("/")[2]
        folder = make_catalogue(served[0], tmp_path / "base", "catalogue.backend=pgvector", f"catalogue.url={url}")
        until(lambda: caught_up(server, standby))
        there = standby.url(database)
        same_answers(served[0], served[1], folder, sorted((looks / "images").rglob("*.jpg"))[:2], url=there)
        with pytest.raises(InputError, match="it is a standby, which only reads; give the primary"):
            make_catalogue(served[0], folder, f"catalogue.url={there}")
        shop = uploaded(tmp_path, url, vectors_of("learned", 60, 1), {"hats": (0, 60)}, collection="other")
        until(lambda: caught_up(server, standby))
        both = f"postgresql://postgres@127.0.0.1:{server.port},127.0.0.1:{standby.port}/{database}"
        manifest = replace(shop.manifest, database={"url": both, "collection": "other"})
        with closing(PgvectorCatalogue(tmp_path, manifest)) as found:
            expected = found.search(vectors_of("learned", 1, 2), "hats", 5)[0]
            server.kill()
            found.check()
            hits = found.search(vectors_of("learned", 1, 2), "hats", 5)[0]
            assert [hit.product for hit in hits] == [hit.product for hit in expected]
            standby.promote()
            shop = shop.changed(vectors_of("learned", 70, 1), {"hats": (0, 70)})
            shop.upload(f"{both}?target_session_attrs=read-write")
            found.check()
            assert found.counts == {"hats": 70}


@pytest.mark.long
def test_reads_go_on_without_an_error_while_the_primary_is_killed_and_the_standby_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with running() as server, standby_of(server) as standby:
        vectors, queries = vectors_of("learned", 900, 1), vectors_of("learned", 3, 2)
        shop = uploaded(tmp_path, server.new_database(), vectors, {"hats": (0, 300), "shoes": (300, 900)})
        until(lambda: caught_up(server, standby))
        database = shop.manifest.database["url"].rpartition("/")[2]
        both = f"postgresql://postgres@127.0.0.1:{server.port},127.0.0.1:{standby.port}/{database}"
        shop = replace(shop, manifest=replace(shop.manifest, database={"url": both, "collection": "products"}))
        expected = [
            [hit.product for hit in one] for one in ExactCatalogue(tmp_path, shop.manifest).search(queries, "shoes", 5)
        ]
        answers: list[object] = []
        stop = Event()
        with closing(PgvectorCatalogue(tmp_path, shop.manifest)) as found:

            def visitor() -> None:
                while not stop.is_set():
                    try:
                        with found.snapshot() as snapshot:
                            snapshot.search(queries, "hats", 5)
                            hits = snapshot.search(queries, "shoes", 5)
                        answers.append([[hit.product for hit in one] for one in hits])
                    except Exception as error:
                        answers.append(error)

            visitors = [Thread(target=visitor) for _ in range(12)]  # more than there are connections
            for one in visitors:
                one.start()
            wait_for_more(answers, 200)
            server.kill()
            wait_for_more(answers, 200)
            standby.promote()
            wait_for_more(answers, 200)
            shop = shop.changed(vectors_of("learned", 70, 1), {"hats": (0, 70)}).upload(
                f"{both}?target_session_attrs=read-write"
            )
            stop.set()
            for one in visitors:
                one.join()
            assert [one for one in answers if isinstance(one, Exception)] == []
            assert {str(one) for one in answers} <= {
                str(expected),
                str([[]] * len(queries)),
            }  # the new one has no shoes


def wait_for_more(answers: list[object], count: int) -> None:
    enough = len(answers) + count
    until(lambda: len(answers) >= enough)


@contextmanager
def standby_of(server: Server) -> Iterator[Server]:
    standby = server.standby()
    try:
        yield standby
    finally:
        standby.delete()


def caught_up(server: Server, standby: Server) -> bool:
    (((written,),), ((replayed,),)) = (
        server.sql("SELECT pg_current_wal_insert_lsn()::text"),
        standby.sql("SELECT pg_last_wal_replay_lsn()::text"),
    )
    return as_number(replayed) >= as_number(written)


def as_number(place: str) -> int:
    high, low = place.split("/")
    return (int(high, 16) << 32) + int(low, 16)
