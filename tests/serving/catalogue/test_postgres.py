"""What goes wrong with a database is one line each, without a password."""

import sys
from pathlib import Path

import pytest
from catalogues import same_answers
from factories import make_catalogue
from postgres import PASSWORD, Server

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue.files import Manifest
from ctl_lightning.serving.recommender import Recommender

ESCAPED = "p%40ss%2Fw%3Ard"


def test_what_is_wrong_is_one_line(
    served: tuple[Path, Path], tmp_path: Path, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    here = f"127.0.0.1:{postgres_server.port}"
    rest = f"@{here}/postgres"
    postgres_server.sql("CREATE ROLE clerk LOGIN PASSWORD 'clerk'")
    postgres_server.sql("CREATE DATABASE bare")
    postgres_server.sql("CREATE DATABASE ready")
    postgres_server.sql("CREATE EXTENSION vector", "ready")
    for url, says in (
        (
            f"postgresql://postgres:{ESCAPED}@{here}/nowhere",
            r'database "nowhere" does not exist; make it with createdb',
        ),
        (f"postgresql://postgres:wrong{rest}", r"password authentication failed .*; give it in PGPASSWORD"),
        (f"postgresql://postgres{rest}", r"no password supplied; give it in PGPASSWORD"),
        (
            f"postgresql://clerk:clerk@{here}/bare",
            r"pgvector is missing .* and this user cannot make it \(permission denied",
        ),
        (
            f"postgresql://clerk:clerk@{here}/ready",
            r"permission denied for schema public; docs/catalogues\.md lists the rights",
        ),
        (
            "postgresql://postgres:secret@127.0.0.1:9/shop",
            r"Connection refused.*; start the server, or give another address",
        ),
        ("postgresql://postgres:secret@127.0.0.1:9,127.0.0.1:7/shop", r"refused.*; start the server"),
        ("postgresql://u:se%zzcret@h/shop", "libpq cannot read this address"),
        ("postgresql://u:se@cret@h/shop", "libpq cannot read this address"),
        ("postgresql://u:secret@127.0.0.1:port/shop", "start the server, or give another address"),
        ("mysql://u:secret@h/shop", r"catalogue\.backend=pgvector needs postgresql://HOST/DATABASE"),
        ("http://h:6333", r"catalogue\.backend=pgvector needs postgresql://HOST/DATABASE"),
        (
            f"postgresql://postgres:{ESCAPED}{rest}?options=-csearch_path%3Dnowhere",
            "this user has no schema for tables",
        ),
    ):
        with pytest.raises(InputError, match=says) as told:
            make_catalogue(served[0], tmp_path / "base", "catalogue.backend=pgvector", f"catalogue.url={url}")
        line = str(told.value)
        assert line.startswith("catalogue.url=")
        assert "\n" not in line
        assert not any(secret in line for secret in ("secret", "cret@", PASSWORD, ESCAPED, ":wrong", "clerk:clerk"))
    with pytest.raises(InputError, match=r"catalogue\.url=None: catalogue\.backend=pgvector needs postgresql://"):
        make_catalogue(served[0], tmp_path / "base", "catalogue.backend=pgvector")
    url = f"catalogue.url=postgresql://postgres{rest}"
    for word, says in (
        ("catalogue.part=a", r"catalogue\.part is an option of catalogue\.backend=qdrant, and this one is pgvector"),
        ("catalogue.hnsw_links=101", r"catalogue\.hnsw_links=101: pgvector knows 2 to 100"),
        ("catalogue.hnsw_build=1001", r"catalogue\.hnsw_build=1001: pgvector knows 4 to 1000"),
        ("catalogue.hnsw_search=1001", r"catalogue\.hnsw_search=1001: pgvector knows 1 to 1000"),
        (
            "catalogue.hnsw_build=30",
            r"catalogue\.hnsw_build=30: pgvector needs at least twice catalogue\.hnsw_links=16",
        ),
    ):
        with pytest.raises(InputError, match=says):
            make_catalogue(served[0], tmp_path / "base", "catalogue.backend=pgvector", url, word)


def test_a_password_is_for_the_connection_alone(
    served: tuple[Path, Path], tmp_path: Path, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    plain = postgres_server.new_database()
    given = plain.replace("postgres@", f"postgres:{ESCAPED}@")
    base = make_catalogue(served[0], tmp_path / "base", "catalogue.backend=pgvector", f"catalogue.url={given}")
    manifest = Manifest.read(base)
    assert manifest is not None
    assert manifest.database == {"url": plain, "collection": "products"}
    for path in base.rglob("*"):
        assert path.is_dir() or not any(secret.encode() in path.read_bytes() for secret in (PASSWORD, ESCAPED)), path
    with pytest.raises(InputError, match="no password supplied"):
        Recommender.from_checkpoint(served[0], base)
    Recommender.from_checkpoint(served[0], base, url=given).catalogue.close()
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    Recommender.from_checkpoint(served[0], base).catalogue.close()
    (tmp_path / "pgpass").write_text(
        f"127.0.0.1:{postgres_server.port}:*:postgres:{PASSWORD.replace(':', chr(92) + ':')}\n"
    )
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    Recommender.from_checkpoint(served[0], base).catalogue.close()
    other = postgres_server.new_database()
    postgres_server.sql("CREATE EXTENSION vector", other.rpartition("/")[2])
    with pytest.raises(InputError, match="there is no such collection in postgresql://postgres@127"):
        Recommender.from_checkpoint(served[0], base, url=other)


def test_readers_and_writers_need_these_rights(
    served: tuple[Path, Path], tmp_path: Path, postgres_server: Server, looks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    name = postgres_server.new_database().rpartition("/")[2]
    for statement in (
        "CREATE EXTENSION vector",
        "CREATE ROLE writer LOGIN PASSWORD 'w'",
        "CREATE ROLE reader LOGIN PASSWORD 'r'",
        "CREATE SCHEMA writer AUTHORIZATION writer",
        "GRANT USAGE ON SCHEMA writer TO reader",
        "ALTER ROLE reader SET search_path = writer, public",
    ):
        postgres_server.sql(statement, name)
    place = f"127.0.0.1:{postgres_server.port}/{name}"
    words = ("catalogue.backend=pgvector", f"catalogue.url=postgresql://writer:w@{place}")
    base = make_catalogue(served[0], tmp_path / "base", *words)
    reader = f"postgresql://reader:r@{place}"
    with pytest.raises(InputError, match="permission denied for table products; docs"):
        Recommender.from_checkpoint(served[0], base, url=reader)
    postgres_server.sql("GRANT SELECT ON writer.products, writer.ctl_lightning_collections TO reader", name)
    for options in ([], ["catalogue.hnsw_from=2"]):  # new partitions need no grant
        make_catalogue(served[0], base, *words, *options)
        same_answers(served[0], served[1], base, sorted((looks / "images").rglob("*.jpg"))[:1], url=reader)
    with pytest.raises(InputError, match="permission denied for schema writer"):
        make_catalogue(served[0], base, f"catalogue.url={reader}")


def test_a_missing_client_names_its_extra(
    served: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"its client is not installed; pip install 'ctl_lightning\[pgvector\]'"):
        make_catalogue(served[0], tmp_path / "base", "catalogue.backend=pgvector", "catalogue.url=postgresql://h/d")
