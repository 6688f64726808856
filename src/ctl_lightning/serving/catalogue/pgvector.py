"""Searches a catalogue in PostgreSQL with pgvector, where there is such a database already, or several machines are to search.

It holds the same vectors as the catalogue's files, in the tables of pgvector_tables.py. Large categories have a graph
(HNSW), the others are scanned, and the answer is exact. All that is read for a look is of one snapshot of the database,
on the primary or on a standby.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue.exact import ROUNDING
from ctl_lightning.serving.catalogue.files import Found, Hit, Manifest, Vectors
from ctl_lightning.serving.catalogue.pgvector_tables import (
    COLLECTIONS,
    Collection,
    check_collection,
    local_settings,
    read_collection,
)
from ctl_lightning.serving.catalogue.postgres import SECONDS, Connections, address, driver, hosts, told

if TYPE_CHECKING:
    import psycopg

Answer = TypeVar("Answer")

MORE = 16
"""Products that are asked for beyond k: those that only rounding may have put behind the k-th."""

SETTINGS = {
    "statement_timeout": "30s",
    "jit": "off",  # compiling takes longer than most searches
    "max_parallel_workers_per_gather": 0,  # starting a worker does, too; the requests of a service are parallel themselves
    "enable_sort": "off",  # a graph is used wherever there is one; without it, sorting is the only way
    "hnsw.iterative_scan": "relaxed_order",  # goes on until there are enough, past deleted products
}

EXACTLY = "SELECT product, image, position, vector FROM {} WHERE category = %s ORDER BY (vector <#> %b) + 0 LIMIT %s"
"""The nearest products of a category; the sum keeps a graph from being used."""

BY_GRAPH = (
    "SELECT p.* FROM (SELECT twin FROM {0} WHERE category = %s AND stands ORDER BY vector <#> %b LIMIT %s) n CROSS JOIN LATERAL "
    "(SELECT product, image, position, vector FROM {0} p WHERE category = %s AND p.twin = n.twin ORDER BY position LIMIT %s) p"
)
"""The nearest in a category's graph, and those that have the same photo."""

ALL_WITHIN = "SELECT product, image, position, vector FROM {} WHERE category = %s AND vector <#> %b <= %s"
NAMED = "SELECT product, category, image, vector FROM {} WHERE product = ANY(%s)"


class _Row(NamedTuple):
    """A row of the table of products; rows are ranked by distance, then by position."""

    product: str
    image: str
    position: int
    vector: Vectors

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> "_Row":
        product, image, position, vector = row
        return cls(product, image, position, _numbers(vector))


class PgvectorCatalogue:
    """Searches a collection. It does not need the vectors in the catalogue's folder, and can be used from several threads.

    Args:
        folder: folder of the catalogue.
        manifest: what catalogue.json of that folder says.

    Raises:
        InputError: no such database or collection; the collection belongs to another checkpoint.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._manifest = manifest
        self._url = manifest.database["url"]
        self._connections = Connections(self._url)
        self._lock = threading.Lock()
        self._answer: Future[None] | None = None
        self._counts: Mapping[str, int] = {}
        self.check()

    @property
    def counts(self) -> Mapping[str, int]:
        """Category -> number of its products, as of the last time that anything was read."""
        return self._counts

    def search(self, queries: Vectors, category: str, k: int) -> list[list[Hit]]:
        """See `Catalogue.search`; of a category with a graph, about the k nearest."""
        with self.snapshot() as snapshot:
            return snapshot.search(queries, category, k)

    def find(self, products: Sequence[str]) -> dict[str, Found]:
        """See `Catalogue.find`."""
        with self.snapshot() as snapshot:
            return snapshot.find(products)

    @contextmanager
    def snapshot(self) -> Iterator["Snapshot"]:
        """See `Catalogue.snapshot`. Raises InputError: no such database or collection, or it is another checkpoint's now."""
        with told(self._url), self._connections.turn():
            snapshot = Snapshot(self._manifest, self._connections)
            try:
                self._counts = snapshot.counts
                yield snapshot
            finally:
                snapshot.end()

    def check(self) -> None:
        """See `Catalogue.check`; a server counts as away after two seconds without an answer of each host."""
        with self._lock:
            if self._answer is None or self._answer.done():  # one that is waited for is not asked again
                self._answer = Future()
                threading.Thread(target=self._ask, args=[self._answer], daemon=True).start()
            answer = self._answer
        patience = SECONDS * hosts(self._url)
        try:
            answer.result(patience)
        except TimeoutError:
            raise InputError(
                f"catalogue.url={address(self._url)}: no answer within {patience} seconds; start the server"
            ) from None

    def _ask(self, answer: "Future[None]") -> None:
        try:
            with self.snapshot():
                pass
        except BaseException as error:
            answer.set_exception(error)
        else:
            answer.set_result(None)

    def close(self) -> None:
        """Closes the connections."""
        self._connections.close()


class Snapshot:
    """A collection as it is at one moment. Used by one thread.

    If its connection is lost, it goes on with a new one, maybe to another server, if the collection is in the same
    state there.

    Args:
        manifest: what catalogue.json says.
        connections: connections to the database.

    Raises:
        InputError: no such database or collection, or it is another checkpoint's.
    """

    def __init__(self, manifest: Manifest, connections: Connections) -> None:
        from psycopg import sql

        self._manifest, self._connections = manifest, connections
        self._name = str(manifest.database["collection"])
        self._products = sql.Identifier(self._name)
        self._connection = connections.take()
        try:
            self._collection: Collection | None = None
            self._collection = self._retried(self._begin)
        except BaseException:
            self.end()
            raise

    @property
    def counts(self) -> Mapping[str, int]:
        """Category -> number of its products."""
        return self._state.counts

    @property
    def _state(self) -> Collection:
        assert self._collection is not None
        return self._collection

    def search(self, queries: Vectors, category: str, k: int) -> list[list[Hit]]:
        """See `Catalogue.search`; of a category with a graph, about the k nearest."""
        k = min(k, self.counts.get(category, 0))
        by_graph = category in self._state.graphs and k + MORE <= self._manifest.hnsw["search"]
        found = self._best(BY_GRAPH if by_graph else EXACTLY, queries, category, k + MORE)
        if not by_graph:
            found = [self._with_equals(query, rows, category, k) for query, rows in zip(queries, found, strict=True)]
        elif lacking := [place for place, rows in enumerate(found) if len(rows) < k]:
            for place, rows in zip(lacking, self._best(EXACTLY, queries[lacking], category, k + MORE), strict=True):
                found[place] = rows
        return [_ranked(query, rows, k) for query, rows in zip(queries, found, strict=True)]

    def find(self, products: Sequence[str]) -> dict[str, Found]:
        """See `Catalogue.find`."""
        # No database takes a zero in a text, or half a character; no product is named so.
        asked = [one for one in products if "\0" not in one and one == one.encode(errors="replace").decode()]
        (rows,) = self._retried(lambda connection: self._rows(connection, NAMED, [[asked]]))
        return {
            product: Found(product, category, Path(image), _numbers(vector))
            for product, category, image, vector in rows
        }

    def snapshot(self) -> AbstractContextManager["Snapshot"]:
        """The snapshot itself."""
        return nullcontext(self)

    def check(self) -> None:
        """Does nothing: what is asked next tells."""

    def close(self) -> None:
        """Does nothing: it ends with its block."""

    def end(self) -> None:
        """Gives the connection back."""
        self._connections.give_back(self._connection)

    def _begin(self, connection: "psycopg.Connection[Any]") -> Collection:
        """Begins a transaction, and reads the collection's row in it."""
        from psycopg import sql

        errors = driver().errors
        try:
            with connection.pipeline():
                for statement in local_settings(SETTINGS | {"hnsw.ef_search": self._manifest.hnsw["search"]}):
                    connection.execute(statement)  # takes no snapshot yet
                # A table that takes another's place is empty in snapshots of before. With the lock first there is none of those.
                connection.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(self._products))
                collection = read_collection(connection, sql.Identifier(COLLECTIONS), self._name)
        except (errors.UndefinedTable, errors.WrongObjectType):
            collection = None
        if collection is None:
            raise InputError(
                f"catalogue.collection={self._name}: there is no such collection in {address(str(self._manifest.database['url']))}; make it with "
                "python -m ctl_lightning.catalogue"
            )
        check_collection(self._manifest, collection)
        return collection

    def _retried(self, ask: Callable[["psycopg.Connection[Any]"], Answer]) -> Answer:
        """What `ask` gives; if the connection is lost, once more with a new one."""
        psycopg = driver()
        try:
            return ask(self._connection)
        except psycopg.errors.QueryCanceled:
            raise  # it took too long, and would again
        except psycopg.OperationalError:
            self._connection.close()
            self._connection = self._connections.take(fresh=True)
            if self._collection is not None:
                now = self._begin(self._connection)
                if now.state != self._collection.state:
                    raise InputError(
                        f"catalogue.collection={self._name}: it was changed while it was read, and the connection was lost; ask again"
                    ) from None
            return ask(self._connection)

    def _best(self, query: str, queries: Vectors, category: str, count: int) -> list[list[_Row]]:
        """The best `count` rows of each query, by the server's single precision."""
        asked = [[category, one, count, *([category, count] if query is BY_GRAPH else [])] for one in queries]
        return [
            [_Row.of(row) for row in rows]
            for rows in self._retried(lambda connection: self._rows(connection, query, asked))
        ]

    def _rows(self, connection: "psycopg.Connection[Any]", query: str, asked: Sequence[Any]) -> list[list[Any]]:
        """The rows of a query with each of some parameters, in one message to the server and back."""
        from psycopg import sql

        statement = sql.SQL(query).format(self._products)
        with connection.pipeline():
            cursors = [connection.cursor(binary=True).execute(statement, parameters) for parameters in asked]
        return [cursor.fetchall() for cursor in cursors]

    def _with_equals(self, query: Vectors, rows: list[_Row], category: str, k: int) -> list[_Row]:
        """The rows found, and where those reach no further than rounding does, all that may belong to the k best."""
        if len(rows) < k + MORE:
            return rows
        distances = _distances(query, rows)
        last = np.sort(distances)[k - 1] + 2 * ROUNDING
        if distances.max() > last:
            return rows
        asked = [[category, query, float(last) - 2]]
        (found,) = self._retried(lambda connection: self._rows(connection, ALL_WITHIN, asked))
        return [_Row.of(row) for row in found]


def _numbers(vector: Any) -> Vectors:
    """The numbers of a vector as pgvector gives it, (D,)."""
    return vector.to_numpy().astype(np.float32)


def _distances(query: Vectors, rows: Sequence[_Row]) -> Any:
    """Distance of each row in double precision, as `ExactCatalogue` takes it, (n,)."""
    return 2 - (np.array([row.vector for row in rows]).astype(np.float64) * query).sum(1)


def _ranked(query: Vectors, rows: Sequence[_Row], k: int) -> list[Hit]:
    """The k best of some rows."""
    if not rows:
        return []
    distances = _distances(query, rows)
    best = np.lexsort(([row.position for row in rows], distances))[:k]
    return [
        Hit(rows[place].product, Path(rows[place].image), rows[place].vector, float(distances[place])) for place in best
    ]
