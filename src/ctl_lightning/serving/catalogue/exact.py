"""Exact search in a catalogue: one matrix product with the vectors of a category."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.serving.catalogue.files import Bonus, Hit, Manifest, Vectors, open_files

ROUNDING = 1e-5
"""More than the rounding error of an inner product of unit vectors with some hundred numbers, in single precision."""


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
    """Searches the vectors of a category with one matrix product.

    Args:
        folder: folder of the catalogue.
        manifest: what catalogue.json of that folder says.

    Raises:
        InputError: a file of the catalogue is missing or broken.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._slices = manifest.slices
        self._vectors, self._products = open_files(folder, manifest)
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

    def search(self, query: Vectors, category: str, k: int, bonus: Bonus | None = None) -> list[Hit]:
        """See `Catalogue.search`; `bonus` is taken off the distances for the rank, (n,), in the order of `products`."""
        start, end = self._slices[category]
        vectors = self._vectors[start:end]
        rows = start + (
            self._nearest(category, vectors, query, k) if bonus is None else nearest(vectors, query, k, bonus)
        )
        # In double precision, as `evaluate` ranks; equal distances in the order of their rows.
        distances = 2 - self._vectors[rows].astype(np.float64) @ query.astype(np.float64)
        taken = np.zeros(len(rows)) if bonus is None else bonus[rows - start]
        best = np.argsort(distances - taken, kind="stable")[:k]
        rows, distances, taken = rows[best], distances[best], taken[best]
        with self._lock:  # one connection, many threads
            named = [
                self._products.execute("SELECT product, image FROM products WHERE row = ?", (int(row),)).fetchone()
                for row in rows
            ]
        return [
            Hit(product, Path(image), vector, float(distance), float(less))
            for (product, image), vector, distance, less in zip(
                named, self._vectors[rows], distances, taken, strict=True
            )
        ]

    def _nearest(self, category: str, vectors: Vectors, query: Vectors, k: int) -> Integers:
        """Rows of the category's slice `vectors`, (n, D), that include the k nearest; in increasing order."""
        return nearest(vectors, query, k)
