"""Exact search in a catalogue: one matrix product with the vectors of a category."""

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.serving.catalogue.files import Hit, Manifest, Vectors, open_files

ROUNDING = 1e-5
"""More than a sum of some hundred products of unit vectors in single precision can be wrong."""


def nearest(vectors: Vectors, query: Vectors, k: int) -> Integers:
    """The rows of about the k vectors with the largest inner products: of those, and of what rounding could have put behind them.

    Args:
        vectors: (n, D).
        query: q, (D,).
        k: how many, at least 1.

    Returns:
        min(k, n) rows or more, in their order.
    """
    if k >= len(vectors):
        return np.arange(len(vectors))
    scores = vectors @ query
    least = np.partition(scores, -k)[-k] - ROUNDING
    return np.flatnonzero(scores >= least)


class ExactCatalogue:
    """Searches a category's slice with one matrix product.

    Args:
        folder: of the catalogue.
        manifest: of it.

    Raises:
        InputError: a file of it is missing or broken.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._slices = manifest.slices
        self._vectors, self._products = open_files(folder, manifest)
        self._lock = threading.Lock()

    @property
    def counts(self) -> Mapping[str, int]:
        """Category -> how many products it has."""
        return {category: end - start for category, (start, end) in self._slices.items()}

    def search(self, query: Vectors, category: str, k: int) -> list[Hit]:
        """As `Catalogue.search`."""
        start, end = self._slices[category]
        rows = start + self._nearest(category, self._vectors[start:end], query, k)
        # In double precision, as `evaluate` ranks; equal ones in the order of their rows.
        distances = 2 - self._vectors[rows].astype(np.float64) @ query.astype(np.float64)
        best = np.argsort(distances, kind="stable")[:k]
        rows, distances = rows[best], distances[best]
        with self._lock:  # one connection, many threads
            named = [
                self._products.execute("SELECT product, image FROM products WHERE row = ?", (int(row),)).fetchone()
                for row in rows
            ]
        return [
            Hit(product, Path(image), vector, float(distance))
            for (product, image), vector, distance in zip(named, self._vectors[rows], distances, strict=True)
        ]

    def _nearest(self, category: str, vectors: Vectors, query: Vectors, k: int) -> Integers:
        """Rows of the category's slice, (n, D), among which the k nearest are; in increasing order."""
        return nearest(vectors, query, k)
