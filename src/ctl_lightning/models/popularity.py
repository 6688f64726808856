"""The method `popularity`: recommends to everyone what is in many training pairs. It sees no picture: lift 0."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctl_lightning.models.components.backbone import Backbone
from ctl_lightning.models.components.network import Network


class Popularity(Network):
    """d = minus the share of its category's training pairs that a product is in; 0 if unseen. The same for every scene.

    Args:
        backbone: None; this method has no image network.
        categories: number of categories; this method does not use it.
    """

    sees = False

    def __init__(self, backbone: Backbone | None, categories: int) -> None:
        super().__init__(None)

    def prior(self, train_count: NDArray[Any], category: NDArray[Any]) -> NDArray[Any]:
        """Numbers of training pairs and category indices of M products, (M,) each -> distances (M,)."""
        pairs = np.bincount(category, train_count)
        return -train_count / np.maximum(pairs, 1)[category]
