"""Searches a catalogue in Qdrant, a vector database, for catalogues beyond one machine.

It holds the same vectors as the catalogue's files. A category is a filter, which its index knows.

A collection holds one point per product: vector f_p, inner product as metric, payload part, product, category and
image. Without a server address it is Qdrant's local mode, a plain list in the catalogue's folder, for a first try and
for tests.
"""

import logging
import os
import sqlite3
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.progress import progress
from ctl_lightning.serving.catalogue.files import Found, Hit, Manifest, Vectors, check_identity, open_files

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

log = logging.getLogger(__name__)

BATCH = 256
"""Number of points per request."""

MANY = 10_000
"""More categories than any catalogue has."""

UPLOADED = "uploaded.sqlite"
"""File that notes batch by batch what is in the collection, so that an interrupted upload goes on there."""


def upload(folder: Path, manifest: Manifest) -> None:
    """Makes a part of the collection hold what the catalogue holds: what is new or changed is sent, what is gone is deleted.

    A part is the whole collection, or the share of one of several catalogues in it, each with a name of its own. A part
    belongs to one folder, which knows what it has sent.

    Args:
        folder: folder of the catalogue.
        manifest: what catalogue.json of that folder is going to say.

    Raises:
        InputError: no such server; the collection belongs to another checkpoint, or the part to another folder.
    """
    vectors, products = open_files(folder, manifest)
    products.close()
    with (
        _told_of_the_server(manifest.qdrant),
        closing(connect(folder, manifest.qdrant)) as client,
        closing(_open_notes(folder)) as notes,
    ):
        place = _claim(client, folder, manifest, notes)
        notes.execute("ATTACH ? AS catalogue", (str(folder / manifest.products),))
        _delete_gone(client, manifest, notes, place)
        _send_new(client, manifest, notes, place, vectors)


def _delete_gone(client: "QdrantClient", manifest: Manifest, notes: sqlite3.Connection, place: int) -> None:
    collection, part = str(manifest.qdrant["collection"]), str(manifest.qdrant["part"])
    query = "SELECT product FROM uploaded WHERE place = ? EXCEPT SELECT product FROM catalogue.products"
    gone = [name for (name,) in notes.execute(query, (place,))]
    for start in range(0, len(gone), BATCH):
        some = gone[start : start + BATCH]
        client.delete(collection, _models().PointIdsList(points=[_point(part, name) for name in some]))
        with notes:
            notes.executemany("DELETE FROM uploaded WHERE place = ? AND product = ?", [(place, name) for name in some])
    log.info("%s: %d products deleted", collection, len(gone))


def _send_new(
    client: "QdrantClient", manifest: Manifest, notes: sqlite3.Connection, place: int, vectors: Vectors
) -> None:
    collection, part, models = str(manifest.qdrant["collection"]), str(manifest.qdrant["part"]), _models()
    rows = notes.execute(
        "SELECT row, product, category, image, version FROM catalogue.products EXCEPT "
        "SELECT row, product, category, image, version FROM catalogue.products JOIN uploaded USING (product, category, image, version) "
        "WHERE place = ? ORDER BY row",
        (place,),
    ).fetchall()
    log.info("%s: %d products to send", collection, len(rows))
    with progress("uploading", len(vectors), len(vectors) - len(rows)) as shown:
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            client.upsert(
                collection,
                models.Batch(
                    ids=[_point(part, product) for _, product, *_ in some],
                    vectors=vectors[[row for row, *_ in some]].tolist(),
                    payloads=[
                        {"part": part, "product": product, "category": category, "image": image}
                        for _, product, category, image, _ in some
                    ],
                ),
            )
            with notes:
                notes.executemany(
                    "INSERT OR REPLACE INTO uploaded VALUES (?, ?, ?, ?, ?)", [(place, *row[1:]) for row in some]
                )
            shown.advance(len(some))


class QdrantCatalogue:
    """Searches a collection. It does not need the vectors in the catalogue's folder.

    Args:
        folder: folder of the catalogue.
        manifest: what catalogue.json of that folder says.

    Raises:
        InputError: no such server or collection; the collection belongs to another checkpoint.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._manifest = manifest
        self._collection = str(manifest.qdrant["collection"])
        self._client = connect(folder, manifest.qdrant)
        with _told_of_the_server(manifest.qdrant):
            _check_collection(self._client, folder, manifest)
            found = self._client.facet(self._collection, "category", limit=MANY, exact=True)
        self._counts = {str(hit.value): hit.count for hit in found.hits}

    @property
    def counts(self) -> Mapping[str, int]:
        """Category -> number of its products when the catalogue was opened."""
        return self._counts

    def search(self, queries: Vectors, category: str, k: int) -> list[list[Hit]]:
        """About the k products of a category that are nearest to each query q, (B, D), the nearest first."""
        models = _models()
        only = models.Filter(must=[models.FieldCondition(key="category", match=models.MatchValue(value=category))])
        asked = [
            models.QueryRequest(query=query.tolist(), filter=only, limit=k, with_payload=True, with_vector=True)
            for query in queries
        ]
        with _told_of_the_server(self._manifest.qdrant):
            found = self._client.query_batch_points(self._collection, asked)
        return [self._hits(query, one.points) for query, one in zip(queries, found, strict=True)]

    def _hits(self, query: Vectors, points: Sequence[Any]) -> list[Hit]:
        vectors = [np.asarray(point.vector, np.float32) for point in points]
        hits = [
            Hit(
                point.payload["product"],
                Path(point.payload["image"]),
                vector,
                2 - float(vector.astype(np.float64) @ query.astype(np.float64)),
            )
            for point, vector in zip(points, vectors, strict=True)
            if point.payload is not None
        ]
        return sorted(hits, key=lambda hit: hit.distance)

    def find(self, products: Sequence[str]) -> dict[str, Found]:
        """See `Catalogue.find`; of the products of all parts of the collection."""
        models = _models()
        named = models.Filter(must=[models.FieldCondition(key="product", match=models.MatchAny(any=list(products)))])
        with _told_of_the_server(self._manifest.qdrant):
            points, _ = self._client.scroll(
                self._collection, named, limit=max(1, len(products)), with_payload=True, with_vectors=True
            )
        return {
            point.payload["product"]: Found(
                point.payload["product"],
                point.payload["category"],
                Path(point.payload["image"]),
                np.asarray(point.vector, np.float32),
            )
            for point in points
            if point.payload is not None
        }

    def snapshot(self) -> AbstractContextManager["QdrantCatalogue"]:
        """The catalogue itself: Qdrant has no snapshot to read from, so a look may see a change that is under way."""
        return nullcontext(self)

    def check(self) -> None:
        """See `Catalogue.check`."""
        with _told_of_the_server(self._manifest.qdrant):
            self._client.collection_exists(self._collection)

    def close(self) -> None:
        """Closes the connection; in local mode, another process can open it then."""
        self._client.close()


def check_server(folder: Path, where: Mapping[str, str | None]) -> None:
    """Raises InputError if there is no server, or it does not answer. Arguments as of `connect`."""
    with _told_of_the_server(where), closing(connect(folder, where)) as client:
        client.get_collections()


def connect(folder: Path, where: Mapping[str, str | None]) -> "QdrantClient":
    """A client of the catalogue's server, or of the local mode. The server's key, if it has one, is in QDRANT_API_KEY.

    Args:
        folder: folder of the catalogue.
        where: server address, collection and part, as in `Manifest.qdrant`.

    Raises:
        InputError: Qdrant's client is not installed; another process has the local mode open.
    """
    try:
        from qdrant_client import QdrantClient
    except ImportError:
        raise InputError(
            "catalogue.backend=qdrant: its client is not installed; pip install 'ctl_lightning[qdrant]'"
        ) from None
    url = where["url"]
    try:
        if url is not None:
            key = os.environ.get("QDRANT_API_KEY")
            # The check would warn of a server that does not answer before our own message does.
            return QdrantClient(url=url, api_key=key, timeout=60, check_compatibility=False)
        return QdrantClient(path=str(folder / "qdrant"))
    except RuntimeError as error:
        if "already accessed" not in str(error):
            raise
        raise InputError(
            f"catalogue={folder}: another process has it open, and Qdrant's local mode is for one; give a server with catalogue.url=URL"
        ) from None
    except ValueError as error:
        raise InputError(f"catalogue.url={url}: {' '.join(str(error).split())}; give http://HOST:6333") from None


def _claim(client: "QdrantClient", folder: Path, manifest: Manifest, notes: sqlite3.Connection) -> int:
    """Makes the collection if it is missing, with its indices before any point, and claims the part for this folder.

    Returns:
        Number of the part in the notes.
    """
    where, models = manifest.qdrant, _models()
    collection = str(where["collection"])
    if not client.collection_exists(collection):
        try:
            client.create_collection(
                collection,
                vectors_config=models.VectorParams(size=manifest.dim, distance=models.Distance.DOT),
                # The id names the collection, whatever address it moves to.
                metadata={"identity": manifest.identity, "id": uuid.uuid4().hex},
            )
        except Exception:
            if not client.collection_exists(collection):  # the process of another part was faster
                raise
    described = _check_collection(client, folder, manifest)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Payload indexes have no effect in the local Qdrant")
        for name in ("category", "part", "product"):
            client.create_payload_index(collection, name, models.PayloadSchemaType.KEYWORD)
    ours = models.Filter(must=[models.FieldCondition(key="part", match=models.MatchValue(value=where["part"]))])
    found = client.count(collection, ours, exact=True).count
    name = repr([described["id"], where["part"]])
    claimed = notes.execute("SELECT id FROM places WHERE name = ?", (name,)).fetchone()
    if claimed is None:
        if found:
            raise InputError(
                f"catalogue.collection={collection} catalogue.part={where['part']}: another folder's catalogue is there, with {found} products; "
                "give another name of one of them, or delete it with Qdrant's own tools"
            )
        with notes:
            notes.execute("INSERT INTO places (name) VALUES (?)", (name,))
        claimed = notes.execute("SELECT id FROM places WHERE name = ?", (name,)).fetchone()
    place = int(claimed[0])
    if found < notes.execute("SELECT COUNT(*) FROM uploaded WHERE place = ?", (place,)).fetchone()[0]:
        log.warning("%s has lost products: all are sent again", collection)
        with notes:
            notes.execute("DELETE FROM uploaded WHERE place = ?", (place,))
    return place


def _check_collection(client: "QdrantClient", folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Metadata of the collection: "identity", the same as the catalogue's, and "id", its own."""
    collection = str(manifest.qdrant["collection"])
    if not client.collection_exists(collection):
        raise InputError(
            f"catalogue={folder}: there is no collection {collection} on {manifest.qdrant['url'] or 'disk'}; make it with "
            "python -m ctl_lightning.catalogue"
        )
    described = client.get_collection(collection).config.metadata or {}
    if not {"identity", "id"} <= described.keys():
        raise InputError(f"catalogue.collection={collection}: it is not one of ctl_lightning; give another name")
    check_identity(folder, manifest, described["identity"])
    return described


def _open_notes(folder: Path) -> sqlite3.Connection:
    """Opens the notes of what was sent where. Raises InputError: they are broken."""
    path = folder / UPLOADED
    notes = sqlite3.connect(path)
    try:
        notes.executescript(
            "CREATE TABLE IF NOT EXISTS places (id INTEGER PRIMARY KEY, name TEXT UNIQUE);"
            "CREATE TABLE IF NOT EXISTS uploaded "
            "(place INTEGER, product TEXT, category TEXT, image TEXT, version TEXT, PRIMARY KEY (place, product))"
        )
    except sqlite3.Error as error:
        notes.close()
        raise InputError(f"{path}: cannot be read ({error}); delete it and the collection: all is sent again") from None
    return notes


def _point(part: str, product: str) -> str:
    """Id of a product's point: Qdrant wants a number or a UUID, and one product of a part is always the same point."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{part}/{product}"))


def _models() -> Any:
    from qdrant_client import models

    return models


@contextmanager
def _told_of_the_server(where: Mapping[str, str | None]) -> Iterator[None]:
    """Turns the error of a server that does not answer, or refuses, into an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        from qdrant_client.http.exceptions import ApiException

        if not isinstance(error, (ApiException, ValueError)):  # a server raises the first, the local mode the second
            raise
        said = (str(error).strip().splitlines() or ["no answer"])[0]
        raise InputError(
            f"catalogue.url={where['url']}: {said}; start the server, or give another address, and run the same command again"
        ) from None
