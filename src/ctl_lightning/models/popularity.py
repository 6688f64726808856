"""Popularity: what is in many training pairs is recommended to everyone. It sees no picture, so its lift is 0."""

import numpy as np

from ctl_lightning.data.evaluation_set import EvaluationSet, Integers
from ctl_lightning.metrics.intervals import Floats


class PopularityRanking:
    """d = minus the share of the category's training pairs that a product is in; equal for every scene, 0 for unseen products.

    Args:
        task: what is ranked; it counts the training pairs.
    """

    def __init__(self, task: EvaluationSet) -> None:
        pairs = np.bincount(task.product_category, task.train_count, len(task.categories))
        self._distance = -task.train_count / np.maximum(pairs, 1)[task.product_category]
        self._queries = len(task.queries)

    def distances(self, queries: Integers, products: Integers) -> Floats:
        """Query indices (n,) and product indices (m,) -> (n, m)."""
        return np.tile(self._distance[products], (len(queries), 1))

    def attention(self) -> Floats:
        """None: (Q, 0)."""
        return np.zeros((self._queries, 0))
