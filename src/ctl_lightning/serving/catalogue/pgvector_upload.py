"""Makes a collection in PostgreSQL hold what a catalogue's files hold, in one transaction: who is stopped has changed nothing.

What is to be done is found by comparing with the database itself. A category that changes a lot, or gets a graph, is
built as a new table, which takes the old one's place at the end; readers wait for that moment alone.
"""

import logging
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.runtime.errors import InputError, InUseError
from ctl_lightning.runtime.files import mapped_array, write_text
from ctl_lightning.runtime.progress import progress
from ctl_lightning.serving.catalogue.files import Listed, Manifest, Vectors
from ctl_lightning.serving.catalogue.pgvector_tables import (
    COLLECTIONS,
    COLUMNS,
    MAKE_COLLECTIONS,
    MAKE_PRODUCTS,
    Collection,
    check_collection,
    local_settings,
    partition,
    read_collection,
    write_collection,
)
from ctl_lightning.serving.catalogue.postgres import Statements, connect, driver, told

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

log = logging.getLogger(__name__)

OWNER = "database-id.txt"
"""File of the id by which a collection knows its folder."""

CHANGED = 0.25
"""Share of a category that changes from which on its table and graph are built anew: deleted nodes cost time."""

LONGEST_IN_GRAPH = 2000
"""Most numbers of a vector in a graph of pgvector."""

MEMORY = 2**30
"""Most memory, in bytes, that the building of a graph is given, where the server's own setting gives less."""

SWAPPING = 600
"""Seconds for which a moment is looked for in which nobody holds the table: a dump can hold it long."""

SETTINGS = {
    "client_connection_check_interval": "2s",  # a server that builds a graph notices that its client was killed
    "tcp_keepalives_idle": 30,  # and that its machine is gone
    "tcp_keepalives_interval": 10,
    "tcp_keepalives_count": 3,
    "statement_timeout": 0,
    "idle_in_transaction_session_timeout": 0,
}


class _Work(NamedTuple):
    """What is to be done with a category.

    Attributes:
        category: its name.
        rows: rows of the catalogue's files that the database does not have as they are, (n,).
        gone: number of the database's products that are to go.
        size: number of products that it is to have.
        graph: whether it is to have a graph.
        anew: whether its table is built anew.
    """

    category: str
    rows: Integers
    gone: int
    size: int
    graph: bool
    anew: bool


def upload(folder: Path, manifest: Manifest, url: str, listed: Sequence[Listed]) -> dict[str, str]:
    """Makes the collection hold what the catalogue holds.

    Args:
        folder: folder of the catalogue.
        manifest: what catalogue.json of that folder is going to say.
        url: address of the database; unlike the manifest's with the password, if it is given there.
        listed: products of the catalogue, in the order of its rows.

    Returns:
        Category -> name of its partition, for those that have a graph.

    Raises:
        InputError: no such database, or one that cannot be changed; a collection of another checkpoint, or of another
            folder, or a table that is none.
        InUseError: another process is changing the collection.
    """
    name = manifest.database["collection"]
    with told(url), connect(url, autocommit=True) as connection:
        upload = _Upload(connection, folder, manifest, name)
        upload.make_collections()
        with connection.transaction():
            return upload.change(listed)


class _Upload:
    """The change of one collection.

    Args:
        connection: connection to the database.
        folder: folder of the catalogue.
        manifest: what catalogue.json of that folder is going to say.
        name: name of the collection.
    """

    def __init__(self, connection: "psycopg.Connection[Any]", folder: Path, manifest: Manifest, name: str) -> None:
        self._do, self._folder, self._manifest, self._name = Statements(connection), folder, manifest, name
        self._collections = self._do.table(COLLECTIONS)
        self._products = self._do.table(name)

    def make_collections(self) -> None:
        """Makes the table of collections, if it is missing; in a transaction of its own, as two collections may want it at once."""
        with self._do.connection.transaction():
            self._do.run("SELECT pg_advisory_xact_lock(hashtextextended({}, 0))", COLLECTIONS)
            self._do.run(MAKE_COLLECTIONS, self._collections)

    def change(self, listed: Sequence[Listed]) -> dict[str, str]:
        """Changes the collection, within a transaction. Arguments and errors as of `upload`."""
        for statement in local_settings(SETTINGS):
            self._do.connection.execute(statement)
        busy = f"catalogue.collection={self._name}: another process is changing it; wait for it, or give another name"
        if not self._do.one(
            "SELECT pg_try_advisory_xact_lock(hashtextextended({}, 0))", f"{self._do.schema}.{self._name}"
        ):
            raise InUseError(busy)
        old = self._claim()
        self._stage(listed)
        work = self._work(old)
        tables = self._tables()
        vectors: Vectors = mapped_array(self._folder / self._manifest.vectors)
        with progress("uploading", len(listed), len(listed) - sum(len(one.rows) for one in work)) as shown:
            for one in work:
                self._apply(one, vectors)
                shown.advance(len(one.rows))
        kept = {partition(self._name, one.category) for one in work}
        self._swap([one for one in work if one.anew], [table for table in tables if table not in kept], tables)
        graphs = [one.category for one in work if one.graph]
        hnsw = self._manifest.hnsw
        now = old._replace(
            state=uuid.uuid4().hex,
            counts=self._manifest.counts,
            graphs=graphs,
            links=hnsw["links"],
            build=hnsw["build"],
        )
        write_collection(self._do.connection, self._collections, self._name, now)
        return {category: partition(self._name, category) for category in graphs}

    def _claim(self) -> Collection:
        """The collection, made if it is missing. Raises InputError: it is not this folder's, or not this checkpoint's."""
        exists = self._do.one(
            "SELECT 1 FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = {} AND relname = {}",
            *(self._do.schema, self._name),
        )
        old = read_collection(self._do.connection, self._collections, self._name)
        owner = _owner(self._folder)
        if old is None and exists:
            raise InputError(
                f"catalogue.collection={self._name}: there is a table of that name that is not of ctl_lightning; give another name"
            )
        if not exists:  # or somebody has dropped the table alone
            self._do.run(MAKE_PRODUCTS, self._products, self._manifest.dim)
            hnsw = self._manifest.hnsw
            return Collection(
                owner, "", self._manifest.identity, self._manifest.dim, {}, [], hnsw["links"], hnsw["build"]
            )
        assert old is not None
        check_collection(self._folder, self._manifest, old)
        if old.owner != owner:
            raise InputError(
                f"catalogue.collection={self._name}: another folder's catalogue is there, with {sum(old.counts.values()):,} products; give "
                f"another name, or copy that folder's {OWNER} into {self._folder}"
            )
        return old

    def _stage(self, listed: Sequence[Listed]) -> None:
        """Brings the listing into the database, and picks from it what the database does not have as it is."""
        self._do.run(
            "CREATE TEMP TABLE listing (row bigint, product text, category text, image text, version text) ON COMMIT DROP"
        )
        with self._do.connection.cursor().copy("COPY pg_temp.listing FROM STDIN") as copy:
            for row, one in enumerate(listed):
                copy.write_row((row, *one))
        self._do.run("ANALYZE pg_temp.listing")
        # A product that changes keeps its place among equals; those that are new in a category come last, as in the files.
        self._do.run(
            "CREATE TEMP TABLE fresh ON COMMIT DROP AS SELECT l.*, coalesce(p.position, "
            "l.row + (SELECT coalesce(max(position) + 1, 0) FROM {0})) AS position "
            "FROM pg_temp.listing l LEFT JOIN {0} p USING (product, category) "
            "WHERE p.product IS NULL OR (p.image, p.version) <> (l.image, l.version)",
            self._products,
        )
        self._do.run("CREATE TEMP TABLE arriving (row bigint, vector vector({})) ON COMMIT DROP", self._manifest.dim)

    def _work(self, old: Collection) -> list[_Work]:
        """What is to be done with each category of the catalogue."""
        rows = np.array(self._do.all("SELECT row FROM pg_temp.fresh ORDER BY row"), np.int64).reshape(-1)
        gone = dict(
            self._do.all(
                "SELECT category, count(*) FROM {} p WHERE NOT EXISTS (SELECT FROM pg_temp.listing l WHERE "
                "(l.product, l.category, l.image, l.version) = (p.product, p.category, p.image, p.version)) GROUP BY category",
                self._products,
            )
        )
        hnsw, tables, work = self._manifest.hnsw, self._tables(), []
        same = (old.links, old.build) == (hnsw["links"], hnsw["build"])
        for category, (start, end) in self._manifest.slices.items():
            some = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)]
            count, leaves = end - start, gone.get(category, 0)
            graph = count >= hnsw["from"] and self._manifest.dim <= LONGEST_IN_GRAPH
            anew = (
                partition(self._name, category) not in tables
                or len(some) + leaves > CHANGED * count
                or graph != (category in old.graphs)
                or (graph and not same)
            )
            work.append(_Work(category, some, leaves, count, graph, anew))
        return work

    def _apply(self, work: _Work, vectors: Vectors) -> None:
        """Changes a category's table, or builds the one that will take its place."""
        if not (work.anew or work.gone or len(work.rows)):
            return
        self._do.run("TRUNCATE pg_temp.arriving")
        with self._do.connection.cursor().copy("COPY pg_temp.arriving FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "vector"])
            for row in work.rows.tolist():
                copy.write_row((row, vectors[row]))
        target = self._products
        listing = (
            "EXISTS (SELECT FROM pg_temp.listing l WHERE "
            "(l.product, l.category, l.image, l.version) = (p.product, p.category, p.image, p.version))"
        )
        if work.anew:
            target = self._new(work.category)
            self._do.run("CREATE TABLE {} (LIKE {} INCLUDING STORAGE)", target, self._products)
            self._do.run(
                f"INSERT INTO {{}} ({COLUMNS}) SELECT {COLUMNS} FROM {{}} p WHERE category = {{}} AND {listing} ORDER BY position",
                *(target, self._products, work.category),
            )
        elif work.gone:
            self._do.run(f"DELETE FROM {{}} p WHERE category = {{}} AND NOT {listing}", target, work.category)
        self._do.run(
            f"INSERT INTO {{}} ({COLUMNS}) SELECT {COLUMNS} FROM pg_temp.fresh JOIN pg_temp.arriving USING (row) ORDER BY position",
            target,
        )
        if work.anew:
            self._finish(work, target)

    def _finish(self, work: _Work, table: Any) -> None:
        """Makes the indices of a new table, and the constraint with which it is attached without being read again."""
        self._do.run("ALTER TABLE {} ADD PRIMARY KEY (product, category)", table)
        self._do.run("ALTER TABLE {} ADD CONSTRAINT one CHECK (category = {})", table, work.category)
        if work.graph:
            log.info("building the graph of %s: %d products", work.category, work.size)
            hnsw = self._manifest.hnsw
            needed = work.size * (8 * self._manifest.dim + 16 * hnsw["links"]) // 1024
            memory = self._do.one("SELECT setting::bigint FROM pg_settings WHERE name = 'maintenance_work_mem'")
            self._do.run("SET LOCAL maintenance_work_mem = {}", max(memory, min(needed, MEMORY // 1024)))
            self._do.run(
                "CREATE INDEX ON {} USING hnsw (vector vector_ip_ops) WITH (m = {}, ef_construction = {})",
                *(table, hnsw["links"], hnsw["build"]),
            )
        self._do.run("ANALYZE {}", table)

    def _swap(self, anew: Sequence[_Work], gone: Sequence[str], tables: Sequence[str]) -> None:
        """Puts new tables in the place of old ones."""
        from psycopg import sql

        names = {partition(self._name, one.category): one.category for one in anew}
        drop = [*gone, *(name for name in names if name in tables)]
        if drop:
            self._hold()
        for name in drop:
            self._do.run("DROP TABLE {}", self._do.table(name))
        for name, category in names.items():
            table = self._do.table(name)
            self._do.run("ALTER TABLE {} RENAME TO {}", self._new(category), sql.Identifier(name))
            self._do.run(
                "ALTER TABLE {} ATTACH PARTITION {} FOR VALUES IN ({})",
                *(self._products, table, category),
            )
            self._do.run("ALTER TABLE {} DROP CONSTRAINT one", table)

    def _hold(self) -> None:
        """Locks the table of products against readers, who are never made to wait long for one another."""
        psycopg, deadline, patience = driver(), time.monotonic() + SWAPPING, 0.1
        while True:
            try:
                with self._do.connection.transaction():
                    self._do.run("SET LOCAL lock_timeout = {}", round(1000 * patience))
                    self._do.run("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", self._products)
                    return
            except psycopg.errors.LockNotAvailable:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"catalogue.collection={self._name}: somebody else has held its table for {SWAPPING // 60} minutes, a dump perhaps; run the "
                        "same command again when that is over"
                    ) from None
                time.sleep(patience)
                patience = min(2.0, 1.2 * patience)

    def _tables(self) -> list[str]:
        """Names of the partitions that there are."""
        return [
            name
            for (name,) in self._do.all(
                "SELECT c.relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid "
                "JOIN pg_class p ON p.oid = inhparent JOIN pg_namespace n ON n.oid = p.relnamespace "
                "WHERE (n.nspname, p.relname) = ({}, {})",
                *(self._do.schema, self._name),
            )
        ]

    def _new(self, category: str) -> "sql.Identifier":
        return self._do.table(f"{partition(self._name, category)}_new")


def _owner(folder: Path) -> str:
    """The id by which collections know a folder: written before anything is sent, so that a killed command finds its own again."""
    path = folder / OWNER
    if not path.exists():
        write_text(path, uuid.uuid4().hex + "\n")
    return path.read_text().strip()
