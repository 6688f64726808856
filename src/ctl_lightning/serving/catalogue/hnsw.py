"""Searches large categories with FAISS: a graph finds nearly all of the nearest products.

The graphs are HNSW (Malkov and Yashunin 2016, arXiv 1603.09320). Each large category has one of its own: one graph of
all products with a filter by category would lose products that it looks for.
"""

import logging
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import mapped_array, replacing
from ctl_lightning.runtime.progress import progress
from ctl_lightning.serving.catalogue.exact import ExactCatalogue
from ctl_lightning.serving.catalogue.files import Bonus, Listed, Manifest, Vectors

log = logging.getLogger(__name__)

EQUAL = 1e-5
"""Two vectors of one photo differ by less in each number; they differ at all because rounding depends on batch size."""

SAME = 64
"""Number of candidates among which a node with an equal vector is looked for (efSearch)."""

GONE_AT_MOST = 0.25
"""Largest share of removed nodes before a graph is built anew: they stay in it as steps of a search, and cost time."""


def faiss() -> ModuleType:
    """Imports FAISS. Raises InputError: it is not installed."""
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it logs every kind of processor that this is not
    try:
        import faiss
    except ImportError:
        raise InputError(
            "catalogue.backend=faiss: FAISS is not installed; pip install 'ctl_lightning[faiss]'"
        ) from None
    return faiss


class Graph:
    """The graph of one category's vectors, by inner product. Products with equal vectors share a node.

    In shops many products share a photo; hundreds of equal nodes would link only to each other, and be found or lost as
    one.

    Args:
        index: FAISS index of the nodes' vectors.
        nodes: node of each row of the category's slice, (n,).
    """

    def __init__(self, index: Any, nodes: Integers) -> None:
        self._index = index
        self._nodes = nodes
        # Row numbers sorted by node, and where those of each node begin.
        self._rows = np.argsort(nodes, kind="stable")
        self._begin = np.searchsorted(nodes[self._rows], np.arange(index.ntotal + 1))
        living = np.unique(nodes)
        self._gone = 1 - len(living) / max(1, index.ntotal)
        self._living = faiss().IDSelectorBatch(living) if self._gone else None

    @classmethod
    def build(cls, vectors: Vectors, links: int, effort: int) -> "Graph":
        """Builds a graph.

        Args:
            vectors: vectors of the category's slice, (n, D), in the order of their rows.
            links: number of links from each node to others (M).
            effort: number of candidates that are looked at for the links (efConstruction).
        """
        index = faiss().IndexHNSWFlat(vectors.shape[1], links, faiss().METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = effort
        first, nodes = _distinct(vectors)
        index.add(np.ascontiguousarray(vectors[first]))
        return cls(index, nodes)

    def changed(self, moved: Integers, vectors: Vectors) -> "Graph | None":
        """The graph after products were added and removed.

        Args:
            moved: for each row of the old slice, its row in the new slice; -1: it is removed.
            vectors: vectors of the new slice, (n, D).

        Returns:
            The changed graph. None: too much of it is removed; build another.
        """
        nodes = np.full(len(vectors), -1)
        nodes[moved[moved >= 0]] = self._nodes[moved >= 0]
        added = np.flatnonzero(nodes < 0)
        if len(added):
            first, own = _distinct(vectors[added])
            new = np.ascontiguousarray(vectors[added[first]])
            found = self._index.search(new, 1, params=faiss().SearchParametersHNSW(efSearch=SAME))[1][:, 0]
            same = np.array(
                [
                    np.allclose(self._index.reconstruct(int(node)), one, atol=EQUAL)
                    for node, one in zip(found, new, strict=True)
                ]
            )
            place = np.where(same, found, self._index.ntotal - 1 + np.cumsum(~same))
            if not same.all():
                self._index.add(new[~same])
            nodes[added] = place[own]
        graph = Graph(self._index, nodes)
        return None if graph._gone > GONE_AT_MOST else graph

    def search(self, query: Vectors, k: int, effort: int) -> Integers:
        """Rows that include about the k nearest to a query; in increasing order.

        Args:
            query: query q, (D,).
            k: number of nearest vectors to find.
            effort: number of candidates that are looked at (efSearch).
        """
        options = faiss().SearchParametersHNSW(efSearch=max(effort, k), sel=self._living)
        found = self._index.search(query[None], k, params=options)[1][0]
        rows = [self._rows[self._begin[node] : self._begin[node + 1]] for node in found[found >= 0]]
        return np.sort(np.concatenate([np.empty(0, np.int64), *rows]))

    def save(self, path: Path) -> None:
        """Writes PATH.faiss and PATH.npy. Raises InputError: the disk is full, or cannot be written to."""
        with replacing(path.with_name(f"{path.name}.faiss")) as temporary:
            try:
                faiss().write_index(self._index, str(temporary))
            except RuntimeError as error:
                said = " ".join(str(error).split())[:200]
                raise InputError(
                    f"{path}.faiss: cannot be written ({said}); make room and run the command again"
                ) from None
        with replacing(path.with_name(f"{path.name}.npy")) as temporary:
            np.save(temporary, self._nodes)

    @classmethod
    def load(cls, path: Path, to_change: bool = False) -> "Graph":
        """Reads what `save` wrote; memory-mapped, unless it is to be changed. Raises InputError: it cannot be read."""
        where = path.with_name(f"{path.name}.faiss")
        try:
            index = faiss().read_index(str(where), 0 if to_change else faiss().IO_FLAG_MMAP_IFC)
            nodes = np.array(mapped_array(path.with_name(f"{path.name}.npy")))
        except (RuntimeError, OSError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise InputError(
                f"{where}: not a readable graph ({said}); make the catalogue anew in another folder"
            ) from None
        return cls(index, nodes)


class GraphCatalogue(ExactCatalogue):
    """Searches large categories with their graphs, the others exactly. Arguments and errors as of `ExactCatalogue`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        super().__init__(folder, manifest)
        self._effort = manifest.hnsw["search"]
        self._graphs = {category: Graph.load(folder / name) for category, name in manifest.graphs.items()}

    def _nearest(
        self, category: str, vectors: Vectors, queries: Vectors, k: int, bonus: Bonus | None
    ) -> list[Integers]:
        # A graph gives up when it is asked for all products of a category.
        if category not in self._graphs or k > self._effort:
            return super()._nearest(category, vectors, queries, k, bonus)
        enough = min(k, len(vectors))
        found = [self._graphs[category].search(query, enough, self._effort) for query in queries]
        return [
            rows
            if len(rows) >= enough
            else super(GraphCatalogue, self)._nearest(category, vectors, query[None], k, bonus)[0]
            for query, rows in zip(queries, found, strict=True)
        ]


def _distinct(vectors: Vectors) -> tuple[Integers, Integers]:
    """Rows of the distinct vectors among n, (n, D); and for each of the n its place among the distinct ones, (n,)."""
    rounded = np.ascontiguousarray(np.round(vectors / EQUAL).astype(np.int32))
    _, first, own = np.unique(
        rounded.view(f"V{rounded.itemsize * rounded.shape[1]}")[:, 0], return_index=True, return_inverse=True
    )
    return first, own


def make_graphs(
    folder: Path, old: Manifest | None, new: Manifest, known: Sequence[Listed], listed: Sequence[Listed]
) -> dict[str, str]:
    """Keeps, changes or builds the graph of each category that is large enough.

    Args:
        folder: folder of the catalogue.
        old: manifest of the old catalogue; None: there was none.
        new: manifest of the new catalogue; its vectors are written already.
        known: products of the old catalogue, in the order of its rows.
        listed: products of the new catalogue, in the order of its rows.

    Returns:
        Category -> name of its graph files, without .faiss and .npy.

    Raises:
        InputError: a graph cannot be read or written.
    """
    options = new.hnsw
    vectors: Vectors = mapped_array(folder / new.vectors)
    large = {category: rows for category, rows in new.slices.items() if rows[1] - rows[0] >= options["from"]}
    same = old is not None and all(old.hnsw.get(name) == options[name] for name in ("links", "build"))
    graphs = {}
    total = sum(end - start for start, end in large.values())
    with progress("building graphs", total) as shown:
        for category, (start, end) in large.items():
            content = sha256(repr([new.identity, options["links"], options["build"]]).encode())
            for one in listed[start:end]:
                content.update(repr(one.photo).encode())
            graphs[category] = name = f"graph-{content.hexdigest()[:12]}"
            if not (folder / f"{name}.npy").exists():
                graph = None
                if old is not None and same and category in old.graphs:
                    moved = _moved(known[slice(*old.slices[category])], listed[start:end])
                    graph = Graph.load(folder / old.graphs[category], to_change=True).changed(moved, vectors[start:end])
                if graph is None:
                    log.info("building the graph of %s: %d products", category, end - start)
                    graph = Graph.build(vectors[start:end], options["links"], options["build"])
                graph.save(folder / name)
            shown.advance(end - start)
    return graphs


def _moved(before: Sequence[Listed], after: Sequence[Listed]) -> Integers:
    """For each row of the old slice, its row in the new one; -1: its product is gone, or has another vector now."""
    row = {one.photo: number for number, one in enumerate(after)}
    return np.array([row.get(one.photo, -1) for one in before], np.int64)
