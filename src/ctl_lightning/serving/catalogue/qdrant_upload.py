"""Uploads a catalogue to Qdrant: a part of a collection is made to hold what the catalogue's files hold.

What was sent is noted in the catalogue's folder, batch by batch, so that an interrupted upload goes on where it was.
"""

import logging
import sqlite3
import uuid
import warnings
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.progress import progress
from ctl_lightning.serving.catalogue.files import Manifest, Vectors, open_files
from ctl_lightning.serving.catalogue.qdrant import (
    check_collection,
    client_models,
    connect,
    point_of,
    told_of_the_server,
)

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

log = logging.getLogger(__name__)

BATCH = 256
"""Number of points per request."""

LINKS = 16
"""Links of a product in the graph of its category (payload_m): as many as Qdrant's graphs have by default."""

UPLOADED = "uploaded.sqlite"
"""File that notes what is in the collection."""

UNDER_WAY = ""
"""Version of a product that is being sent: whether it is in the collection is not known yet."""


def upload(folder: Path, manifest: Manifest) -> None:
    """Makes a part of the collection hold what the catalogue holds: what is new or changed is sent, what is gone is deleted.

    A part is the whole collection, or the share of one of several catalogues in it, each with a name of its own. A part
    belongs to one folder, which knows what it has sent.

    Args:
        folder: folder of the catalogue.
        manifest: what catalogue.json of that folder is going to say.

    Raises:
        InputError: no such server; the collection belongs to another checkpoint, or the part to another folder; it does
            not hold as many products as the catalogue afterwards.
    """
    vectors, products = open_files(folder, manifest)
    products.close()
    with (
        told_of_the_server(manifest.qdrant),
        closing(connect(folder, manifest.qdrant)) as client,
        closing(_open_notes(folder)) as notes,
    ):
        place = _claim(client, folder, manifest, notes)
        notes.execute("ATTACH ? AS catalogue", (str(folder / manifest.products),))
        _delete_gone(client, manifest, notes, place)
        _send_new(client, manifest, notes, place, vectors)
        _check_count(client, manifest)


def _delete_gone(client: "QdrantClient", manifest: Manifest, notes: sqlite3.Connection, place: int) -> None:
    collection, part = str(manifest.qdrant["collection"]), str(manifest.qdrant["part"])
    query = "SELECT product FROM uploaded WHERE place = ? EXCEPT SELECT product FROM catalogue.products"
    gone = [name for (name,) in notes.execute(query, (place,))]
    for start in range(0, len(gone), BATCH):
        some = gone[start : start + BATCH]
        client.delete(collection, client_models().PointIdsList(points=[point_of(part, name) for name in some]))
        with notes:
            notes.executemany("DELETE FROM uploaded WHERE place = ? AND product = ?", [(place, name) for name in some])
    log.info("%s: %d products deleted", collection, len(gone))


def _send_new(
    client: "QdrantClient", manifest: Manifest, notes: sqlite3.Connection, place: int, vectors: Vectors
) -> None:
    collection, part, models = str(manifest.qdrant["collection"]), str(manifest.qdrant["part"]), client_models()
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
            # Noted before it is sent: a product whose batch was interrupted, and that is gone by the next run, is deleted then.
            _note(notes, place, [(*row[1:4], UNDER_WAY) for row in some])
            client.upsert(
                collection,
                models.Batch(
                    ids=[point_of(part, product) for _, product, *_ in some],
                    vectors=vectors[[row for row, *_ in some]].tolist(),
                    payloads=[
                        {"part": part, "product": product, "category": category, "image": image}
                        for _, product, category, image, _ in some
                    ],
                ),
            )
            _note(notes, place, [row[1:] for row in some])
            shown.advance(len(some))


def _note(notes: sqlite3.Connection, place: int, rows: Iterable[tuple[str, str, str, str]]) -> None:
    """Notes product, category, image and version of what a part has."""
    with notes:
        notes.executemany("INSERT OR REPLACE INTO uploaded VALUES (?, ?, ?, ?, ?)", [(place, *row) for row in rows])


def _check_count(client: "QdrantClient", manifest: Manifest) -> None:
    """Raises InputError if the part does not hold as many products as the catalogue: somebody else changed it, or it lost some."""
    where, wanted = manifest.qdrant, sum(manifest.counts.values())
    found = client.count(str(where["collection"]), _of_part(where["part"]), exact=True).count
    if found != wanted:
        raise InputError(
            f"catalogue.collection={where['collection']} catalogue.part={where['part']}: it has {found} products after the upload of {wanted}; run the "
            "same command again, and if that does not help delete the points of this part with Qdrant's own tools first: all are sent again then"
        )


def _of_part(part: str | None) -> Any:
    models = client_models()
    return models.Filter(must=[models.FieldCondition(key="part", match=models.MatchValue(value=part))])


def _claim(client: "QdrantClient", folder: Path, manifest: Manifest, notes: sqlite3.Connection) -> int:
    """Makes the collection if it is missing, with its indices before any point, and claims the part for this folder.

    Returns:
        Number of the part in the notes.
    """
    where, models = manifest.qdrant, client_models()
    collection = str(where["collection"])
    if not client.collection_exists(collection):
        try:
            client.create_collection(
                collection,
                vectors_config=models.VectorParams(size=manifest.dim, distance=models.Distance.DOT),
                # A graph of each category and none of all: every search is in one category, and finds more in its own.
                hnsw_config=models.HnswConfigDiff(m=0, payload_m=LINKS),
                # The id names the collection, whatever address it moves to.
                metadata={"identity": manifest.identity, "id": uuid.uuid4().hex},
            )
        except Exception:
            if not client.collection_exists(collection):  # the process of another part was faster
                raise
    described = check_collection(client, folder, manifest)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Payload indexes have no effect in the local Qdrant")
        for name in ("category", "part"):
            graphs = name == "category"
            client.create_payload_index(collection, name, models.KeywordIndexParams(type="keyword", enable_hnsw=graphs))
    found = client.count(collection, _of_part(where["part"]), exact=True).count
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
    sent = notes.execute("SELECT COUNT(*) FROM uploaded WHERE place = ? AND version != ?", (place, UNDER_WAY))
    if found < sent.fetchone()[0]:
        log.warning("%s has lost products: all are sent again", collection)
        with notes:
            notes.execute("DELETE FROM uploaded WHERE place = ?", (place,))
    return place


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
