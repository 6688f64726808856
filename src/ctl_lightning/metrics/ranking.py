"""Who is how far from whom: embedded scene crops and products of a split, and the distances between them."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ctl_lightning.data.evaluation_set import EvaluationSet, Integers
from ctl_lightning.metrics.intervals import Floats
from ctl_lightning.models.components.distance import query_distance
from ctl_lightning.models.components.pooled_network import PooledNetwork
from ctl_lightning.models.components.style_network import SceneStyle, StyleNetwork
from ctl_lightning.models.imagenet import RawFeatures


class Ranked(Protocol):
    """What is asked of the queries and products of a split."""

    def distances(self, queries: Integers, products: Integers) -> Floats:
        """Query indices (n,) and product indices (m,) -> (n, m)."""

    def attention(self) -> Floats:
        """a_i of every query, (Q, R); R = 0 if the method has no regions."""


def with_query(network: StyleNetwork | PooledNetwork) -> StyleNetwork | RawFeatures | None:
    """The network, if its distance is 2 - q·p of one vector q a scene and category; None: it is another one."""
    if (isinstance(network, StyleNetwork) and network.squared) or isinstance(network, RawFeatures):
        return network
    return None


class Ranking:
    """Embedded scene crops and products, and the distances between them.

    Where one vector q says all of a query, its products are in double precision: no two distances are equal by rounding, so the ranks are
    those that a catalogue gives, whatever computes its products.

    Args:
        network: whose distances.
        styles: of Q queries.
        products: f_p, (M, D).
    """

    def __init__(self, network: StyleNetwork | PooledNetwork, styles: SceneStyle, products: Tensor) -> None:
        self._network = network
        self.styles = styles
        self.products = products
        queried = with_query(network)
        with torch.no_grad():
            self._queries = None if queried is None else queried.query(styles).double()

    @torch.no_grad()
    def distances(self, queries: Integers, products: Integers) -> Floats:
        """Query indices (n,) and product indices (m,) -> (n, m)."""
        device = self.products.device
        rows = torch.from_numpy(queries).to(device)
        if self._queries is not None:
            chosen = self.products[torch.from_numpy(products).to(device)].double()
            return query_distance(self._queries[rows], chosen).cpu().numpy()
        style = SceneStyle(*(part[rows] for part in self.styles))
        distance = self._network.distances(style, self.products[torch.from_numpy(products).to(device)])
        return distance.double().cpu().numpy()

    def attention(self) -> Floats:
        """a_i of every query, (Q, R); R = 0 if the method has no regions."""
        return self.styles.attention.double().cpu().numpy()


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
