"""Popularity: what is in many training pairs is recommended to everyone. It sees no picture, so its lift is 0."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.network import Network


class Popularity(Network):
    """d = minus the share of the category's training pairs that a product is in; equal for every scene, 0 for unseen products.

    Args:
        backbone: None.
        categories: how many.
    """

    sees = False

    def __init__(self, backbone: Backbone | None, categories: int) -> None:
        super().__init__(None)

    def prior(self, train_count: NDArray[Any], category: NDArray[Any]) -> NDArray[Any]:
        """Training counts and category indices of M products, (M,) each -> distances (M,)."""
        pairs = np.bincount(category, train_count)
        return -train_count / np.maximum(pairs, 1)[category]
