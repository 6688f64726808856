"""Qdrant's own engine, in this process (wheel qdrant-edge-py), behind those calls of its client that our code makes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

DISTANCES = {models.Distance.DOT: edge.Distance.Dot}

THRESHOLD = 100
"""Kilobytes of vectors from which a graph is built, and searched: a server has 10,000, and the tests have not that many points."""


class Engine:
    """Collections in a folder, each one a shard of the engine. Another `Engine` of the folder reads what is on disk.

    It stands where the client of a server stands: `close` closes that client alone, `stop` the engine.

    Attributes:
        sent: number of points of each `upsert`.
        away: whether it does not answer.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards = {path.parent.name: edge.EdgeShard.load(str(path.parent)) for path in _configs(folder)}
        self.sent: list[int] = []
        self.away = False

    def stop(self) -> None:
        for shard in self._shards.values():
            shard.close()

    def optimize(self, collection: str) -> None:
        """Builds the graphs, as a server does behind its answers."""
        self._shards[collection].optimize()

    def info(self, collection: str) -> "edge.ShardInfo":
        return self._shards[collection].info()

    def graph_options(self, collection: str) -> tuple[int, int | None]:
        """Links of a point in the graph of the whole collection, and in those of the values of an index."""
        (path,) = (path for path in _configs(self._folder) if path.parent.name == collection)
        options = json.loads(path.read_text())["hnsw_config"]
        return options["m"], options.get("payload_m")

    # The calls of QdrantClient, with its names, arguments and results.

    def close(self) -> None:
        pass

    def get_collections(self) -> Sequence[str]:
        with self._answering():
            return list(self._shards)

    def collection_exists(self, collection_name: str) -> bool:
        with self._answering():
            return collection_name in self._shards

    def create_collection(
        self,
        collection_name: str,
        *,
        vectors_config: models.VectorParams,
        hnsw_config: models.HnswConfigDiff | None = None,
        metadata: Mapping[str, Any],
    ) -> None:
        given = hnsw_config.model_dump(exclude_none=True) if hnsw_config is not None else {}
        # What a server has by default, but for the thresholds; one thread, so that the graph is the same each time.
        graph = {"m": 16, "ef_construct": 100, "full_scan_threshold": THRESHOLD, "max_indexing_threads": 1} | given
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size=vectors_config.size, distance=DISTANCES[vectors_config.distance]),
            hnsw_config=edge.HnswIndexConfig(**graph),
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=THRESHOLD, default_segment_number=1),
        )
        folder = self._folder / collection_name
        self._shards[collection_name] = edge.EdgeShard.create(str(folder), config)
        (folder / "metadata.json").write_text(json.dumps(metadata))

    def get_collection(self, collection_name: str) -> Any:
        with self._answering():
            metadata = json.loads((self._folder / collection_name / "metadata.json").read_text())
            return SimpleNamespace(config=SimpleNamespace(metadata=metadata))

    def create_payload_index(
        self, collection_name: str, field_name: str, field_schema: models.KeywordIndexParams
    ) -> None:
        schema = edge.KeywordIndexParams(enable_hnsw=field_schema.enable_hnsw)
        self._shards[collection_name].update(edge.UpdateOperation.create_field_index(field_name, schema))

    def upsert(self, collection_name: str, points: models.Batch) -> None:
        assert points.payloads is not None
        assert isinstance(points.vectors, list)
        of_engine = [
            edge.Point(id, vector, payload)  # type: ignore[arg-type]  # one unnamed vector a point
            for id, vector, payload in zip(points.ids, points.vectors, points.payloads, strict=True)
        ]
        self._shards[collection_name].update(edge.UpdateOperation.upsert_points(of_engine))
        self.sent.append(len(of_engine))

    def delete(self, collection_name: str, points_selector: models.PointIdsList) -> None:
        self._shards[collection_name].update(edge.UpdateOperation.delete_points(list(points_selector.points)))

    def count(self, collection_name: str, count_filter: models.Filter, *, exact: bool) -> models.CountResult:
        request = edge.CountRequest(exact=exact, filter=_filter(count_filter))
        return models.CountResult(count=self._shards[collection_name].count(request))

    def facet(self, collection_name: str, key: str, *, limit: int, exact: bool) -> models.FacetResponse:
        with self._answering():
            found = self._shards[collection_name].facet(edge.FacetRequest(key, limit=limit, exact=exact))
            hits = [models.FacetValueHit(value=hit.value, count=hit.count) for hit in found.hits]
            return models.FacetResponse(hits=hits)

    def query_batch_points(self, collection_name: str, requests: Sequence[models.QueryRequest]) -> list[Any]:
        asked = edge.QueryBatchRequest([_query(request) for request in requests])
        with self._answering():
            found = self._shards[collection_name].query_batch(asked)
        return [SimpleNamespace(points=points) for points in found]

    def retrieve(
        self, collection_name: str, ids: Sequence[str], *, with_payload: bool, with_vectors: bool
    ) -> list[Any]:
        with self._answering():
            return self._shards[collection_name].retrieve(list(ids), with_payload, with_vectors)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Raises what the client of a server raises that is away."""
        if self.away:
            from qdrant_client.http.exceptions import ResponseHandlingException

            raise ResponseHandlingException(ConnectionRefusedError("Connection refused"))
        yield


def _configs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/edge_config.json"))


def _filter(given: models.Filter) -> edge.Filter:
    """A filter whose conditions are all of equal values, the only ones that our code gives."""
    assert isinstance(given.must, list)
    conditions = []
    for one in given.must:
        assert isinstance(one, models.FieldCondition)
        assert isinstance(one.match, models.MatchValue)
        conditions.append(edge.FieldCondition(one.key, match=edge.MatchValue(one.match.value)))
    return edge.Filter(must=[*conditions])


def _query(given: models.QueryRequest) -> edge.QueryRequest:
    assert isinstance(given.query, list)
    assert given.filter is not None
    exact = given.params is not None and bool(given.params.exact)
    return edge.QueryRequest(
        limit=given.limit or 10,
        query=edge.Query.Nearest(given.query),
        filter=_filter(given.filter),
        params=edge.SearchParams(exact=exact),
        with_payload=bool(given.with_payload),
        with_vector=bool(given.with_vector),
    )
