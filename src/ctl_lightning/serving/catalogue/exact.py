"""Exact search in a catalogue: one matrix product with the codes or vectors of a category, then double precision."""

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.serving.catalogue.codes import open_codes
from ctl_lightning.serving.catalogue.files import Bonus, Found, Hit, Manifest, Vectors, open_files

ROUNDING = 1e-5
"""More than the rounding error of an inner product of unit vectors with some hundred numbers, in single precision."""

FEW = 1 / 16
"""Largest share of a category's vectors that are ranked in double precision; beyond it their own inner products take less time."""


def nearest(vectors: Vectors, query: Vectors, k: int, bonus: Bonus | None = None) -> Integers:
    """Rows of the k vectors with the largest inner products, bonus included, and of those that only rounding may have put behind them.

    Args:
        vectors: vectors to search, (n, D).
        query: query q, (D,).
        k: number of vectors to find, at least 1.
        bonus: what is added to each inner product, (n,); None: nothing.

    Returns:
        At least min(k, n) row numbers, in increasing order.
    """
    if k >= len(vectors):
        return np.arange(len(vectors))
    # Added in double precision: a large bonus would round away more of the inner product than ROUNDING allows for.
    scores = vectors @ query if bonus is None else (vectors @ query) + bonus
    least = np.partition(scores, -k)[-k] - ROUNDING
    return np.flatnonzero(scores >= least)


class ExactCatalogue:
    """Searches the codes of a category with one matrix product, or its vectors, where there are no codes.

    Args:
        folder: folder of the catalogue.
        manifest: what catalogue.json of that folder says.

    Raises:
        InputError: a file of the catalogue is missing or broken.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._slices = manifest.slices
        self._vectors, self._products = open_files(folder, manifest)
        self._codes = open_codes(folder, manifest)
        self._lock = threading.Lock()

    @property
    def counts(self) -> Mapping[str, int]:
        """Category -> number of its products."""
        return {category: end - start for category, (start, end) in self._slices.items()}

    def products(self, category: str) -> Sequence[str]:
        """Ids of a category's products, in the order of their rows."""
        with self._lock:
            found = self._products.execute(
                "SELECT product FROM products WHERE row >= ? AND row < ? ORDER BY row", self._slices[category]
            ).fetchall()
        return [product for (product,) in found]

    def find(self, products: Sequence[str]) -> dict[str, Found]:
        """See `Catalogue.find`."""
        asked = set(products)
        with self._lock:
            rows = self._products.execute(
                "SELECT row, product, category, image FROM products WHERE product IN (SELECT value FROM json_each(?))",
                (json.dumps(list(asked)),),
            ).fetchall()
        return {
            product: Found(product, category, Path(image), np.array(self._vectors[row]))
            for row, product, category, image in rows
            if product in asked  # SQLite cuts a text at a zero
        }

    def snapshot(self) -> AbstractContextManager["ExactCatalogue"]:
        """The catalogue itself: its files are never changed."""
        return nullcontext(self)

    def check(self) -> None:
        """Does nothing: what was opened can be searched."""

    def close(self) -> None:
        """Closes the file of products; the mapped ones are let go with the catalogue."""
        with self._lock:
            self._products.close()

    def search(self, queries: Vectors, category: str, k: int, bonus: Bonus | None = None) -> list[list[Hit]]:
        """See `Catalogue.search`; `bonus` is taken off the distances for the rank, (n,), in the order of `products`."""
        start, end = self._slices[category]
        vectors = np.asarray(self._vectors)[start:end]  # still mapped; np.memmap itself takes long to be cut
        found = self._nearest(category, vectors, queries, k, bonus)
        return [self._ranked(query, vectors, rows, start, k, bonus) for query, rows in zip(queries, found, strict=True)]

    def _nearest(
        self, category: str, vectors: Vectors, queries: Vectors, k: int, bonus: Bonus | None
    ) -> list[Integers]:
        """Rows of the category's slice `vectors`, (n, D), that include the k nearest of each query; in increasing order."""
        most = FEW * len(vectors)
        if category not in self._codes or k > most:
            return [nearest(vectors, query, k, bonus) for query in queries]
        found = self._codes[category].candidates(queries, k, bonus)
        return [
            rows if len(rows) <= most else nearest(vectors, query, k, bonus)
            for query, rows in zip(queries, found, strict=True)
        ]

    def _ranked(
        self, query: Vectors, vectors: Vectors, rows: Integers, start: int, k: int, bonus: Bonus | None
    ) -> list[Hit]:
        """The k best of some rows of a slice that begins at row `start`, as `evaluate` ranks: in double precision.

        Each sum is taken by itself: a matrix product would round equal vectors differently, by their place among the rows.
        """
        chosen = vectors[rows]
        distances = 2 - (chosen.astype(np.float64) * query).sum(1)
        taken = np.zeros(len(rows)) if bonus is None else bonus[rows]
        best = np.argsort(distances - taken, kind="stable")[:k]  # equal ones in the order of their rows
        with self._lock:  # one connection, many threads
            named = self._products.execute(
                "SELECT product, image FROM json_each(?) JOIN products ON row = value ORDER BY key",
                (str((start + rows[best]).tolist()),),
            ).fetchall()
        return [
            Hit(product, Path(image), vector, distance, less)
            for (product, image), vector, distance, less in zip(
                named, chosen[best], distances[best].tolist(), taken[best].tolist(), strict=True
            )
        ]
