"""Which product becomes the negative of a training or evaluation triplet."""

from collections.abc import Sequence
from typing import Literal

from ctl_lightning.data.pairs import Pair, PairTable
from ctl_lightning.data.seeding import random_integers

Sampled = Literal["uniform", "pairs"]
Negatives = Literal[Sampled, "in_batch"]
"""Where negatives come from. "in_batch": none is drawn, the other products of the batch are the negatives."""


class NegativeSampler:
    """Draws a product of the positive's category that no pair of the scene names: a scene may have several positives.

    Args:
        table: all pairs of the source; a product that any of them names for a scene is never a negative of that scene.
        usable: ids of the products whose image can be read.
        pairs: pairs whose products are drawn, category by category, if `negatives` is "pairs"; unused otherwise.
        negatives: "uniform": any product of the category (the paper's); "pairs": the product of a random one of `pairs`, so that
            a product is as often a negative as a positive, and its popularity teaches nothing.
    """

    def __init__(self, table: PairTable, usable: frozenset[str], pairs: Sequence[Pair], negatives: Sampled) -> None:
        self._named = table.products_of_scene
        self._usable = usable
        self._pools: dict[str, Sequence[str]]
        if negatives == "uniform":
            # All products, not the usable ones: an image that breaks must not change the other draws.
            self._pools = dict(table.products_of_category)
        else:
            pools: dict[str, list[str]] = {}
            for pair in pairs:
                pools.setdefault(pair.category, []).append(pair.product)
            self._pools = {category: sorted(products) for category, products in pools.items()}

    def exists(self, pair: Pair) -> bool:
        """Whether the pair has at least one possible negative."""
        return any(self.allowed(pair, product) for product in self._pools.get(pair.category, ()))

    def draw(self, pair: Pair, *key: object) -> str:
        """The negative that `key` chooses for a pair; the pair must have a possible one."""
        pool = self._pools[pair.category]
        for attempt in range(1000):
            product = pool[random_integers([len(pool)], *key, attempt)[0]]
            if self.allowed(pair, product):
                return product
        allowed = [product for product in pool if self.allowed(pair, product)]
        return allowed[random_integers([len(allowed)], *key)[0]]

    def allowed(self, pair: Pair, product: str) -> bool:
        """Whether a product of the pair's category can be its negative: readable, and named by no pair of the scene."""
        return product in self._usable and product not in self._named[pair.scene]
