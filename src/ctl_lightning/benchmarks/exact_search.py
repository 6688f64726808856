"""How fast exact search is on one core: by codes, by the vectors as in version 0.1, by FAISS, and how fast memory is read."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from ctl_lightning.benchmarks.search import CATEGORIES, DIM, NEAREST, one_slice_each, vectors_of, write_files
from ctl_lightning.benchmarks.timing import Row, alone, rates, ratio
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue.codes import kernel, write_codes
from ctl_lightning.serving.catalogue.exact import ExactCatalogue
from ctl_lightning.serving.catalogue.files import Vectors
from ctl_lightning.serving.catalogue.hnsw import faiss

TOGETHER = 32
QUERIES = 1024

CODES, FLOATS = "codes", "vectors, as version 0.1"
FLAT, QUANTISED = "FAISS IndexFlatIP", "FAISS SQ8, ranked again"
AGAIN = 64
"""Candidates of FAISS's 8-bit index that are ranked in double precision; it promises nothing about the ten nearest."""

ONE, MANY = "one query", f"{TOGETHER} queries at once"


def exact_rows(products: int, seconds: float, rounds: int) -> list[Row]:
    """Milliseconds of a query of the ten nearest of a category, in turn, on one core.

    Args:
        products: number of products, in 11 categories of equal size.
        seconds: length of each measurement, in seconds.
        rounds: number of times that each is measured.

    Returns:
        A row for each way and number of queries at once, and for reading the vectors and codes of a category. FAISS gives
        numbers of rows, ours products. Without NumKong or FAISS their rows are left out.
    """
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        found = _measured(Path(folder), products, seconds, rounds)
    return [Row("exact search", name, [1000 / rate for rate in values], "ms") for name, values in found.items()]


def exact_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """How many times longer other ways take than codes; and codes than reading them."""
    names = {row.name for row in rows if row.group == "exact search"}
    if f"{CODES}, {ONE}" not in names:
        return {}
    pairs = {
        "float_over_int8_query": (f"{FLOATS}, {ONE}", f"{CODES}, {ONE}"),
        "float_over_int8_batch": (f"{FLOATS}, {ONE}", f"{CODES}, {MANY}"),  # version 0.1 had one at a time alone
        "int8_query_over_reading": (f"{CODES}, {ONE}", f"reading the {CODES} of a category"),
        "faiss_flat_over_query": (f"{FLAT}, {ONE}", f"{CODES}, {ONE}"),
        "faiss_flat_over_batch": (f"{FLAT}, {MANY}", f"{CODES}, {MANY}"),
        "faiss_sq8_over_query": (f"{QUANTISED}, {ONE}", f"{CODES}, {ONE}"),
        "faiss_sq8_over_batch": (f"{QUANTISED}, {MANY}", f"{CODES}, {MANY}"),
    }
    return {
        name: ratio(list(rows), over, under, "exact search") for name, (over, under) in pairs.items() if over in names
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """Programs that start meanwhile use one thread in matrix products."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _measured(folder: Path, products: int, seconds: float, rounds: int) -> Mapping[str, list[float]]:
    """In a process of its own, which alone has one core and one thread. Way -> queries or categories a second."""
    return alone(measure_here, folder, products, seconds, rounds)


def measure_here(folder: Path, products: int, seconds: float, rounds: int) -> Mapping[str, list[float]]:
    """What `_measured` measures, in this process, which keeps to its first core from now on."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    slices, vectors = one_slice_each(products), vectors_of("learned", products, 1)
    plain = write_files(folder, vectors, slices)
    ways = {FLOATS: _searching(ExactCatalogue(folder, plain))}
    if kernel() is not None:
        ways = {CODES: _searching(ExactCatalogue(folder, write_codes(folder, plain)))} | ways
    mapped = [np.load(folder / "vectors-0.npy", mmap_mode="r")[start:end] for start, end in slices.values()]
    with suppress(InputError):  # FAISS is not installed
        ways |= {FLAT: _flat(mapped), QUANTISED: _quantised(mapped)}
    queries = vectors_of("learned", QUERIES, 2) + vectors_of("learned", QUERIES, 3)
    work: dict[str, Callable[[], Iterator[int]]] = {
        f"{way}, {name}": partial(_asked, search, queries, together)
        for name, together in ((ONE, 1), (MANY, TOGETHER))
        for way, search in ways.items()
    }
    work[f"reading the {FLOATS.partition(',')[0]} of a category"] = partial(_read, mapped)
    if kernel() is not None:
        codes = np.load(next(folder.glob("codes-*")), mmap_mode="r")
        work[f"reading the {CODES} of a category"] = partial(
            _read, [codes[start:end] for start, end in slices.values()]
        )
    return rates(work, seconds, rounds)


Search = Callable[[int, Vectors], object]
"""Finds the ten nearest of a category, given by its number, for queries (B, D)."""


def _searching(catalogue: ExactCatalogue) -> Search:
    names = list(catalogue.counts)
    return lambda category, queries: catalogue.search(queries, names[category], NEAREST)


def _flat(vectors: Sequence[Vectors]) -> Search:
    indices = []
    for some in vectors:
        index = faiss().IndexFlatIP(DIM)
        index.add(np.ascontiguousarray(some))
        indices.append(index)
    return lambda category, queries: indices[category].search(queries, NEAREST)


def _quantised(vectors: Sequence[Vectors]) -> Search:
    indices = []
    for some in vectors:
        index = faiss().IndexScalarQuantizer(DIM, faiss().ScalarQuantizer.QT_8bit, faiss().METRIC_INNER_PRODUCT)
        index.train(np.ascontiguousarray(some))
        index.add(np.ascontiguousarray(some))
        indices.append(index)

    def search(category: int, queries: Vectors) -> list[Any]:
        found = []
        for query, rows in zip(queries, indices[category].search(queries, AGAIN)[1], strict=True):
            exact = vectors[category][rows].astype(np.float64) @ query.astype(np.float64)
            found.append(rows[np.argsort(-exact, kind="stable")[:NEAREST]])
        return found

    return search


def _asked(search: Search, queries: Vectors, together: int) -> Iterator[int]:
    """Queries in turn, each batch in the next category, so that no category stays in the processor's cache."""
    for step in count():
        start = step * together % QUERIES
        search(step % CATEGORIES, queries[start : start + together])
        yield together


def _read(parts: Sequence[Any]) -> Iterator[int]:
    for step in count():
        part = parts[step % len(parts)]
        part.reshape(-1).view(np.int64).sum()  # nothing but additions, so memory decides
        yield 1
