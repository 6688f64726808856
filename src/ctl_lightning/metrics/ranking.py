"""Who is how far from whom: embedded scene crops and products of a split, and the distances between them."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ctl_lightning.data.evaluation_set import Integers
from ctl_lightning.metrics.intervals import Floats
from ctl_lightning.models.components.distance import query_distance
from ctl_lightning.models.components.network import Network, SceneStyle


class Ranked(Protocol):
    """What is asked of the queries and products of a split."""

    def distances(self, queries: Integers, products: Integers) -> Floats:
        """Query indices (n,) and product indices (m,) -> (n, m)."""

    def attention(self) -> Floats:
        """a_i of every query, (Q, R); R = 0 if the method has no regions."""


class Ranking:
    """Embedded scene crops and products, and the distances between them.

    Where one vector q says all of a query, its products are in double precision: no two distances are equal by rounding, so the ranks are
    those that a catalogue gives, whatever computes its products.

    Args:
        network: whose distances.
        styles: of Q queries.
        products: f_p, (M, D).
    """

    def __init__(self, network: Network, styles: SceneStyle, products: Tensor) -> None:
        self._network = network
        self.styles = styles
        self.products = products
        with torch.no_grad():
            query = network.query(styles)
        self._queries = None if query is None else query.double()

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


class FixedRanking:
    """Distances that are equal for every scene.

    Args:
        distances: of M products, (M,).
        queries: how many, Q.
    """

    def __init__(self, distances: Floats, queries: int) -> None:
        self._distance = distances
        self._queries = queries

    def distances(self, queries: Integers, products: Integers) -> Floats:
        """Query indices (n,) and product indices (m,) -> (n, m)."""
        return np.tile(self._distance[products], (len(queries), 1))

    def attention(self) -> Floats:
        """None: (Q, 0)."""
        return np.zeros((self._queries, 0))
