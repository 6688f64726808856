"""Who is how far from whom: embedded scene crops and products of a split, and the distances between them."""

from typing import Protocol

import torch
from torch import Tensor

from ctl_lightning.baselines.pooled import PooledNetwork
from ctl_lightning.data.evaluation import Integers
from ctl_lightning.intervals import Floats
from ctl_lightning.style.network import SceneStyle, StyleNetwork


class Ranked(Protocol):
    """What is asked of the queries and products of a split."""

    def distances(self, queries: Integers, products: Integers) -> Floats:
        """Query indices (n,) and product indices (m,) -> (n, m)."""

    def attention(self) -> Floats:
        """a_i of every query, (Q, R); R = 0 if the method has no regions."""


class Ranking:
    """Embedded scene crops and products, and the distances between them.

    Args:
        network: whose distances.
        styles: of Q queries.
        products: f_p, (M, D).
    """

    def __init__(self, network: StyleNetwork | PooledNetwork, styles: SceneStyle, products: Tensor) -> None:
        self._network = network
        self.styles = styles
        self.products = products

    @torch.no_grad()
    def distances(self, queries: Integers, products: Integers) -> Floats:
        """Query indices (n,) and product indices (m,) -> (n, m)."""
        device = self.products.device
        rows = torch.from_numpy(queries).to(device)
        style = SceneStyle(*(part[rows] for part in self.styles))
        distance = self._network.distances(style, self.products[torch.from_numpy(products).to(device)])
        return distance.double().cpu().numpy()

    def attention(self) -> Floats:
        """a_i of every query, (Q, R); R = 0 if the method has no regions."""
        return self.styles.attention.double().cpu().numpy()
