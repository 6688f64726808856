"""How fast a catalogue is searched: exact slices, and graphs (HNSW) of each category that find 99 of 100."""

import os
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from ctl_lightning.benchmarks.timing import Row, alone, ratio
from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue.codes import write_codes
from ctl_lightning.serving.catalogue.exact import ExactCatalogue
from ctl_lightning.serving.catalogue.files import Listed, Manifest, Vectors, write_products
from ctl_lightning.serving.catalogue.hnsw import Graph, GraphCatalogue, faiss

DIM, CATEGORIES, NEAREST = 128, 11, 10
LINKS, BUILD, EFFORTS, ENOUGH = 32, 100, (32, 64, 128, 256, 512, 1024, 2048), 0.99
QUERIES = 1100
LATENT = 16
"""Dimensions of what random networks make vectors of; vectors that were learned fill a part of their space, too."""

EXACT, GRAPHS = "exact slices", "HNSW, a graph a category"


class Searched(NamedTuple):
    """What one process found.

    Attributes:
        opening: seconds until the catalogue was open, and answered its first query.
        p50: seconds a query, the median.
        rate: queries a second.
        memory: bytes that the process had more at the end, mapped files included.
        products: rows of the ten products found for each query, (n, 10).
    """

    opening: float
    p50: float
    rate: float
    memory: int
    products: Integers


def search_rows(products: int, rounds: int) -> list[Row]:
    """Measures queries of the ten nearest, one at a time, each kind in a process of its own.

    Args:
        products: how many, in 11 categories of equal size.
        rounds: how often each kind is measured, in turn.

    Returns:
        For vectors of a random network, and for vectors that are random themselves: time a query, queries/s, recall@10, memory, opening
        and building; of the graphs with the least effort in searching whose recall is 0.99. Without FAISS only exact slices.
    """
    rows = []
    for kind in ("learned", "random"):
        with tempfile.TemporaryDirectory() as temporary:
            rows += _rows(Path(temporary), kind, products, rounds)
    return rows


def search_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """How many times the queries of exact slices the graphs answer."""
    if not any(row.name == f"{GRAPHS}: queries" for row in rows):
        return {}
    return {"graphs_over_exact": ratio(list(rows), f"{GRAPHS}: queries", f"{EXACT}: queries", "search learned")}


def vectors_of(kind: str, count: int, seed: int) -> Vectors:
    """Unit vectors, (count, DIM): "random" ones, or "learned", the same random network's of random points in 16 dimensions."""
    random = np.random.default_rng(seed)
    if kind == "random":
        found = random.standard_normal((count, DIM), np.float32)
    else:
        weights = np.random.default_rng(0)
        inner = weights.standard_normal((LATENT, 4 * DIM), np.float32) / LATENT**0.5
        outer = weights.standard_normal((4 * DIM, DIM), np.float32)
        points = random.standard_normal((count, LATENT), np.float32)
        found = np.concatenate(
            [np.maximum(part @ inner, 0) @ outer for part in np.array_split(points, 1 + count // 10_000)]
        )
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def one_slice_each(products: int) -> dict[str, tuple[int, int]]:
    """Name of each of the 11 categories -> its first row, and the row after its last one."""
    edges = np.linspace(0, products, CATEGORIES + 1).round().astype(int).tolist()
    return {f"category {number}": (edges[number], edges[number + 1]) for number in range(CATEGORIES)}


def write_files(folder: Path, vectors: Vectors, slices: dict[str, tuple[int, int]]) -> Manifest:
    """Writes the vectors, (N, DIM), and products of a catalogue, without codes."""
    np.save(folder / "vectors-0.npy", vectors)
    listed = [
        Listed(f"product {row}", category, f"{row}.jpg", "")
        for category, (start, end) in slices.items()
        for row in range(start, end)
    ]
    write_products(folder / "products.sqlite", listed)
    return Manifest({}, DIM, slices, "vectors-0.npy", "products.sqlite")


def _rows(folder: Path, kind: str, products: int, rounds: int) -> list[Row]:
    slices = one_slice_each(products)
    vectors = vectors_of(kind, products, 1)
    manifest = write_codes(folder, write_files(folder, vectors, slices))
    queries = vectors_of(kind, QUERIES, 2) + vectors_of(kind, QUERIES, 3)  # of a scene, and of what is attended to
    exact = _searched(folder, manifest, queries)
    try:
        faiss()
    except InputError:
        found = [_searched(folder, manifest, queries) for _ in range(rounds)]
        return _as_rows(kind, EXACT, found, exact.products)
    began = time.perf_counter()
    graphs = {}
    for number, (category, (start, end)) in enumerate(slices.items()):
        Graph.build(vectors[start:end], LINKS, BUILD).save(folder / f"graph-{number}")
        graphs[category] = f"graph-{number}"
    built = time.perf_counter() - began
    for effort in EFFORTS:
        graphed = replace(manifest, backend="faiss", graphs=graphs, hnsw={"search": effort})
        if _recall(_searched(folder, graphed, queries).products, exact.products) >= ENOUGH:
            break
    turns = [(_searched(folder, manifest, queries), _searched(folder, graphed, queries)) for _ in range(rounds)]
    size = sum(path.stat().st_size for path in folder.glob("graph-*"))
    group = f"search {kind}"
    return [
        *_as_rows(kind, EXACT, [one for one, _ in turns], exact.products),
        *_as_rows(kind, GRAPHS, [one for _, one in turns], exact.products),
        Row(group, f"{GRAPHS}: efSearch", [float(effort)], "candidates"),
        Row(group, f"{GRAPHS}: building", [built], "s"),
        Row(group, f"{GRAPHS}: files", [size / 1e6], "MB"),
        Row(group, f"{EXACT}: files", [vectors.nbytes * (4 + 1) / 4 / 1e6], "MB"),
    ]


def _as_rows(kind: str, name: str, found: Sequence[Searched], truth: Integers) -> list[Row]:
    return [
        Row(f"search {kind}", f"{name}: {what}", values, unit)
        for what, values, unit in (
            ("query, p50", [1000 * one.p50 for one in found], "ms"),
            ("queries", [one.rate for one in found], "1/s"),
            ("recall@10", [_recall(one.products, truth) for one in found], ""),
            ("memory", [one.memory / 1e6 for one in found], "MB"),
            ("opening, to the first answer", [1000 * one.opening for one in found], "ms"),
        )
    ]


def _recall(found: Integers, truth: Integers) -> float:
    """The share of the ten nearest that was found; (n, 10) each."""
    return float(
        np.mean([len(set(row) & set(true)) / NEAREST for row, true in zip(found.tolist(), truth.tolist(), strict=True)])
    )


def _searched(folder: Path, manifest: Manifest, queries: Vectors) -> Searched:
    """In a process of its own, so that nothing is open or in its memory yet."""
    return alone(_search, folder, manifest, queries)


def _search(folder: Path, manifest: Manifest, queries: Vectors) -> Searched:
    if manifest.backend == "faiss":
        faiss()  # importing it is no part of opening
    names = list(manifest.slices)
    before, began = _resident(), time.perf_counter()
    catalogue = GraphCatalogue(folder, manifest) if manifest.backend == "faiss" else ExactCatalogue(folder, manifest)
    catalogue.search(queries[:1], names[0], NEAREST)
    opening = time.perf_counter() - began
    for number, query in enumerate(queries):  # the files' pages come into memory
        catalogue.search(query[None], names[number % len(names)], NEAREST)
    times, products = [], []
    for number, query in enumerate(queries):
        start = time.perf_counter()
        (hits,) = catalogue.search(query[None], names[number % len(names)], NEAREST)
        times.append(time.perf_counter() - start)
        products.append([int(hit.product.removeprefix("product ")) for hit in hits])
    found = [row + [-1] * (NEAREST - len(row)) for row in products]
    return Searched(opening, median(times), len(times) / sum(times), _resident() - before, np.array(found))


def _resident() -> int:
    """Bytes of this process that are in memory; where the system does not say, the most that it ever had."""
    listing = Path("/proc/self/statm")
    if listing.exists():
        return int(listing.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
