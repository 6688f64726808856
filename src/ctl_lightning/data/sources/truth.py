"""What the generator of synthetic looks knows of them: what decides in each, and so the best distance that there can be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ctl_lightning.data.pairs import Box, Pair
from ctl_lightning.data.sources.drawing import (
    DECIDERS,
    PATTERNS,
    SEASONS,
    Attributes,
    SceneTruth,
    kind_and_decider,
)

Knowledge = Literal["oracle", "global", "local"]


@dataclass(frozen=True)
class Truth:
    """What the generator knows of its looks: `loyalty`, scene id -> what decides in it, product id -> what it shows."""

    loyalty: float
    looks: dict[str, SceneTruth]
    products: dict[str, Attributes]

    def distance(self, pair: Pair, products: Sequence[str], knowledge: Knowledge) -> NDArray[np.float64]:
        """Minus the log-likelihood ratio of each product given the pair's scene and category, (len(products),).

        Args:
            pair: pair with the scene and the category.
            products: ids of products of that category.
            knowledge: "oracle": everything is known; "global", "local": what that distance can know (the ceilings).
        """
        look = self.looks[pair.scene]
        shown = np.array([self.products[product] for product in products])
        kind, decider = kind_and_decider(pair.category)
        deciders = DECIDERS[kind] if knowledge == "global" else (decider,)
        patterns = np.mean(
            [self._ratio(shown[:, 1] == look.colours[garment], PATTERNS) for garment in deciders], axis=0
        )
        seasons = self._ratio(shown[:, 2] == look.season, SEASONS) if knowledge != "local" else np.ones(len(shown))
        return -np.log(patterns) - np.log(seasons)

    def _ratio(self, follows: NDArray[np.bool_], levels: int) -> NDArray[np.float64]:
        """Likelihood ratio to the catalogue, where each of the `levels` seasons or patterns is equally frequent."""
        return np.where(follows, self.loyalty, (1 - self.loyalty) / (levels - 1)) * levels

    def deciding_box(self, pair: Pair) -> Box:
        """The box, in the whole scene, of the garment that decides this pair's category."""
        return self.looks[pair.scene].boxes[kind_and_decider(pair.category)[1]]
