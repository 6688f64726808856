"""Gives popularity back when serving: products that were in many training pairs come nearer, by one number each."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.serving.catalogue.exact import ExactCatalogue
from ctl_lightning.serving.catalogue.files import Bonus, Catalogue, Found, Hit, Vectors
from ctl_lightning.serving.trained import Trained


class FavouringCatalogue:
    """Ranks by d' = d - w · log(1 + n), where n is the number of training pairs of a product, as exactly as by d.

    On unit vectors d = 2 - 2 cos, so w is twice the weight of a score cos + (w / 2) · log(1 + n).

    Args:
        catalogue: catalogue that is searched.
        weight: weight w, at least 0.
        train_counts: product id -> n; another product has n = 0.
    """

    def __init__(self, catalogue: ExactCatalogue, weight: float, train_counts: Mapping[str, int]) -> None:
        self._catalogue = catalogue
        self._weight = weight
        self._train_counts = train_counts
        self._bonuses: dict[str, Bonus] = {}

    @property
    def counts(self) -> Mapping[str, int]:
        """Category -> number of its products."""
        return self._catalogue.counts

    def search(self, queries: Vectors, category: str, k: int) -> list[list[Hit]]:
        """The k products of a category with the smallest d', equal ones in the order of their rows; `distance` stays d."""
        return self._catalogue.search(queries, category, k, self._bonus(category))

    def find(self, products: Sequence[str]) -> dict[str, Found]:
        """See `Catalogue.find`."""
        return self._catalogue.find(products)

    def snapshot(self) -> AbstractContextManager["FavouringCatalogue"]:
        """The catalogue itself: its files are never changed."""
        return nullcontext(self)

    def check(self) -> None:
        """See `Catalogue.check`."""
        self._catalogue.check()

    def close(self) -> None:
        """See `Catalogue.close`."""
        self._catalogue.close()

    def _bonus(self, category: str) -> Bonus:
        if category not in self._bonuses:
            counts = [self._train_counts.get(product, 0) for product in self._catalogue.products(category)]
            self._bonuses[category] = self._weight * np.log1p(np.array(counts, np.float64))
        return self._bonuses[category]


def favouring(catalogue: Catalogue, weight: float, trained: Trained) -> Catalogue:
    """The catalogue itself for a weight of 0, else with popularity.

    Args:
        catalogue: catalogue that is searched.
        weight: weight w; see `FavouringCatalogue`.
        trained: checkpoint, which says in how many training pairs each product was.

    Raises:
        InputError: a weight that is no number from 0 on; a checkpoint without numbers of training pairs; a catalogue
            that FAISS, Qdrant or PostgreSQL searches, which know distances alone.
    """
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise InputError(f"popularity={weight}: give a number from 0 on, such as 0.1; 0: popularity does not count")
    if weight == 0:
        return catalogue
    if trained.train_counts is None:
        raise InputError(
            f"popularity={weight}: ckpt_path={trained.path} does not say in how many training pairs each product was, as an older "
            "version of ctl_lightning wrote it; train again, or leave popularity out"
        )
    if type(catalogue) is not ExactCatalogue:
        raise InputError(
            f"popularity={weight}: the catalogue is searched by FAISS, Qdrant or PostgreSQL, which know distances alone; make it search exactly "
            "(python -m ctl_lightning.catalogue with catalogue.backend=exact), or leave popularity out"
        )
    return FavouringCatalogue(catalogue, weight, trained.train_counts)
