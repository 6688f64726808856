"""Searches a catalogue in Qdrant, a vector database, for catalogues beyond one machine.

It holds the same vectors as the catalogue's files. A category is a filter, which its index knows.

A collection holds one point per product: vector f_p, inner product as metric, payload part, product, category and
image. Without a server address it is Qdrant's local mode, a plain list in the catalogue's folder, for a first try and
for tests.
"""

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue.files import Found, Hit, Manifest, Vectors, check_identity

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

MANY = 10_000
"""More categories than any catalogue has, and more parts than any collection."""


class QdrantCatalogue:
    """Searches a collection. It does not need the vectors in the catalogue's folder.

    Args:
        folder: folder of the catalogue.
        manifest: what catalogue.json of that folder says.

    Raises:
        InputError: no such server or collection; the collection belongs to another checkpoint.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        self._collection = str(manifest.qdrant["collection"])
        self._client = connect(folder, manifest.qdrant)
        with told_of_the_server(manifest.qdrant):
            check_collection(self._client, folder, manifest)
            self._counts = self._values("category")
            self._parts = list(self._values("part"))

    def _values(self, key: str) -> dict[str, int]:
        """Value of a key of the payload -> number of its points."""
        found = self._client.facet(self._collection, key, limit=MANY, exact=True)
        return {str(hit.value): hit.count for hit in found.hits}

    @property
    def counts(self) -> Mapping[str, int]:
        """Category -> number of its products when the catalogue was opened."""
        return self._counts

    def search(self, queries: Vectors, category: str, k: int) -> list[list[Hit]]:
        """About the k products of a category that are nearest to each query q, (B, D), the nearest first."""
        models = client_models()
        only = models.Filter(must=[models.FieldCondition(key="category", match=models.MatchValue(value=category))])
        asked = [
            models.QueryRequest(query=query.tolist(), filter=only, limit=k, with_payload=True, with_vector=True)
            for query in queries
        ]
        with told_of_the_server(self._manifest.qdrant):
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
        """See `Catalogue.find`; of the parts that the collection had when the catalogue was opened."""
        points = [point_of(part, product) for part in self._parts for product in products]
        with told_of_the_server(self._manifest.qdrant):
            found = self._client.retrieve(self._collection, points, with_payload=True, with_vectors=True)
        return {
            point.payload["product"]: Found(
                point.payload["product"],
                point.payload["category"],
                Path(point.payload["image"]),
                np.asarray(point.vector, np.float32),
            )
            for point in found
            if point.payload is not None
        }

    def snapshot(self) -> AbstractContextManager["QdrantCatalogue"]:
        """The catalogue itself: Qdrant has no snapshot to read from, so a look may see a change that is under way."""
        return nullcontext(self)

    def check(self) -> None:
        """See `Catalogue.check`; the collection has to be there still, and of the same checkpoint."""
        with told_of_the_server(self._manifest.qdrant):
            check_collection(self._client, self._folder, self._manifest)

    def close(self) -> None:
        """Closes the connection; in local mode, another process can open it then."""
        self._client.close()


def check_server(folder: Path, where: Mapping[str, str | None]) -> None:
    """Raises InputError if there is no server, or it does not answer. Arguments as of `connect`."""
    with told_of_the_server(where), closing(connect(folder, where)) as client:
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


def check_collection(client: "QdrantClient", folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Metadata of the collection: "identity", the same as the catalogue's, and "id", its own.

    Raises:
        InputError: there is no such collection, or it is not one of ours, or of another checkpoint.
    """
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


def point_of(part: str, product: str) -> str:
    """Id of a product's point: Qdrant wants a number or a UUID, and one product of a part is always the same point."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{part}/{product}"))


def client_models() -> Any:
    """The types of the client's requests."""
    from qdrant_client import models

    return models


@contextmanager
def told_of_the_server(where: Mapping[str, str | None]) -> Iterator[None]:
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
