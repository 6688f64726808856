"""Makes a collection in PostgreSQL hold what a catalogue's files hold, in one transaction: who is stopped has changed nothing.

What is to be done is found by comparing with the database itself. A category that changes a lot, or gets a graph, is
built as a new table, which takes the old one's place at the end; readers wait for that moment alone.
"""

import logging
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.runtime.errors import InputError, InUseError
from ctl_lightning.runtime.files import mapped_array, write_text
from ctl_lightning.runtime.progress import progress
from ctl_lightning.serving.catalogue.files import Listed, Manifest, Vectors
from ctl_lightning.serving.catalogue.pgvector_partitions import Partitions
from ctl_lightning.serving.catalogue.pgvector_tables import (
    COLLECTIONS,
    COLUMNS,
    MAKE_COLLECTIONS,
    MAKE_PRODUCTS,
    Collection,
    check_collection,
    check_identity,
    local_settings,
    partition,
    read_collection,
    write_collection,
)
from ctl_lightning.serving.catalogue.postgres import Statements, connect, prepare, told

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger(__name__)

CHUNK = 100_000
"""Number of vectors that are read at once."""

SAME = 1e-4
"""Vectors of one photo differ by far less in each number; they differ at all because rounding depends on batch size."""

OWNER = "database-id.txt"
"""File of the id by which a collection knows its folder."""

CHANGED = 0.25
"""Share of a category that changes from which on its table and graph are built anew: deleted nodes cost time."""

LONGEST_IN_GRAPH = 2000
"""Most numbers of a vector in a graph of pgvector."""

MEMORY = 2**30
"""Most memory, in bytes, that the building of a graph is given, where the server's own setting gives less."""

UNORDERED = (
    "SELECT DISTINCT category FROM (SELECT category, "
    "position < lag(coalesce(position, 9223372036854775807)) OVER (PARTITION BY category ORDER BY row) AS behind "
    "FROM pg_temp.listing LEFT JOIN {} USING (product, category)) l WHERE behind"
)
"""Categories whose products are not in the order of the listing, such as after one has come from another category."""

AS_LISTED = (
    "EXISTS (SELECT FROM pg_temp.listing l WHERE (l.product, l.category, l.image, l.version) = "
    "(p.product, p.category, p.image, p.version))"
)
"""Whether a row p of the table of products is to stay as it is."""

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


def check_database(url: str, collection: str, identity: Mapping[str, Any]) -> None:
    """Looks, before anything is embedded, whether a collection can be changed.

    Raises:
        InputError: as `prepare`; or the collection is of another checkpoint.
    """
    prepare(url)
    with told(url), connect(url) as connection:
        do = Statements(connection)
        if do.one("SELECT 1 FROM pg_tables WHERE (schemaname, tablename) = ({}, {})", do.schema, COLLECTIONS):
            old = read_collection(connection, do.table(COLLECTIONS), collection)
            if old is not None:
                check_identity(collection, old, identity)


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
        self._partitions = Partitions(self._do, name)

    def make_collections(self) -> None:
        """Makes the table of collections, if it is missing; in a transaction of its own, as two collections may want it at once."""
        with self._do.connection.transaction():
            self._do.run("SELECT pg_advisory_xact_lock(hashtextextended({}, 0))", COLLECTIONS)
            self._do.run(MAKE_COLLECTIONS, self._collections)

    def change(self, listed: Sequence[Listed]) -> dict[str, str]:
        """Changes the collection, within a transaction. Arguments and errors as of `upload`."""
        for statement in local_settings(SETTINGS):
            self._do.connection.execute(statement)
        lock = f"{self._do.schema}.{self._name}"
        if not self._do.one("SELECT pg_try_advisory_xact_lock(hashtextextended({}, 0))", lock):
            raise InUseError(
                f"catalogue.collection={self._name}: another process is changing it; wait for it, or give another name"
            )
        old = self._claim()
        self._stage(listed)
        work = self._work(old)
        vectors: Vectors = mapped_array(self._folder / self._manifest.vectors)
        with progress("uploading", len(listed), len(listed) - sum(len(one.rows) for one in work)) as shown:
            for one in work:
                self._apply(one, vectors)
                shown.advance(len(one.rows))
        self._partitions.swap([one.category for one in work if one.anew], [one.category for one in work])
        graphs = [one.category for one in work if one.graph]
        hnsw = self._manifest.hnsw
        now = old._replace(counts=self._manifest.counts, graphs=graphs, links=hnsw["links"], build=hnsw["build"])
        write_collection(self._do.connection, self._collections, self._name, now._replace(state=uuid.uuid4().hex))
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
        check_collection(self._manifest, old)
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
        self._do.run(
            "CREATE TEMP TABLE arriving (row bigint, twin bigint, vector vector({})) ON COMMIT DROP", self._manifest.dim
        )

    def _work(self, old: Collection) -> list[_Work]:
        """What is to be done with each category of the catalogue."""
        rows = np.array(self._do.all("SELECT row FROM pg_temp.fresh ORDER BY row"), np.int64).reshape(-1)
        gone = dict(
            self._do.all(
                f"SELECT category, count(*) FROM {{}} p WHERE NOT {AS_LISTED} GROUP BY category",
                self._products,
            )
        )
        hnsw, tables, work = self._manifest.hnsw, self._partitions.names(), []
        unordered = {category for (category,) in self._do.all(UNORDERED, self._products)}
        same = (old.links, old.build) == (hnsw["links"], hnsw["build"])
        for category, (start, end) in self._manifest.slices.items():
            some = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)]
            count, leaves = end - start, gone.get(category, 0)
            graph = count >= hnsw["from"] and self._manifest.dim <= LONGEST_IN_GRAPH
            anew = (
                partition(self._name, category) not in tables
                or category in unordered
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
            copy.set_types(["int8", "int8", "vector"])
            for some in np.array_split(work.rows, 1 + len(work.rows) // CHUNK):
                for row, twin, vector in zip(some.tolist(), _twins(vectors[some]).tolist(), vectors[some], strict=True):
                    copy.write_row((row, twin, vector))
        target = self._products
        if work.anew:
            target = self._partitions.new(work.category)
            self._do.run("CREATE TABLE {} (LIKE {} INCLUDING STORAGE)", target, self._products)
            self._do.run("UPDATE pg_temp.fresh SET position = row WHERE category = {}", work.category)
            self._do.run(
                f"INSERT INTO {{}} ({COLUMNS}) SELECT product, category, image, version, row, twin, stands, vector "
                "FROM {} JOIN pg_temp.listing USING (product, category, image, version) WHERE category = {} ORDER BY row",
                *(target, self._products, work.category),
            )
        elif work.gone:
            self._do.run(f"DELETE FROM {{}} p WHERE category = {{}} AND NOT {AS_LISTED}", target, work.category)
        self._do.run(
            f"INSERT INTO {{}} ({COLUMNS}) SELECT {COLUMNS} FROM (SELECT *, false AS stands FROM pg_temp.fresh JOIN pg_temp.arriving USING (row)) a ORDER BY position",
            target,
        )
        # One product of each photo stands for all in the graph, the first of those that there are by now.
        self._do.run(
            "UPDATE {0} p SET stands = NOT stands FROM (SELECT twin, min(position) AS first FROM {0} WHERE category = {1} GROUP BY twin) t "
            "WHERE category = {1} AND p.twin = t.twin AND stands <> (position = first)",
            *(target, work.category),
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
                "CREATE INDEX ON {} USING hnsw (vector vector_ip_ops) WITH (m = {}, ef_construction = {}) WHERE stands",
                *(table, hnsw["links"], hnsw["build"]),
            )
            self._do.run("CREATE INDEX ON {} (twin, position)", table)
        self._do.run("ANALYZE {}", table)


def _twins(vectors: Vectors) -> Integers:
    """A number for each vector, (n, D), which those of one photo share but for a few, (n,)."""
    factors = np.random.default_rng(0).integers(-(2**63), 2**63, vectors.shape[1])
    return (np.round(vectors / SAME).astype(np.int64) * factors).sum(1)


def _owner(folder: Path) -> str:
    """The id by which collections know a folder: written before anything is sent, so that a killed command finds its own again."""
    path = folder / OWNER
    if not path.exists():
        write_text(path, uuid.uuid4().hex + "\n")
    return path.read_text().strip()
