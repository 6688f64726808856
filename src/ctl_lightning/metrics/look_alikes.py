"""How often is the answer a look-alike of what is worn already, and not what completes the look?"""

import numpy as np
import torch
from torch.nn import functional as F

from ctl_lightning.data.evaluation_set import EvaluationSet
from ctl_lightning.metrics.intervals import Floats, Interval, interval
from ctl_lightning.metrics.pair_metrics import CHUNK
from ctl_lightning.metrics.ranking import Ranking

ALIKE = 10
"""Number of products that count as look-alikes of one: those whose vectors have the largest cosines with its own."""


def look_alikes(task: EvaluationSet, ranking: Ranking) -> Interval:
    """Share of the pairs whose nearest product is the pair's product, or a look-alike of it by the method's own vectors.

    Where the product can be seen in the scene, as in a photo without a box, a large share says that the method finds again
    what is there. Look-alikes are of the product's category; categories of at most ten products are left out.

    Args:
        task: pairs and catalogue.
        ranking: distances and vectors of the method.
    """
    return interval(look_alike_pairs(task, ranking), task.scene)


def look_alike_pairs(task: EvaluationSet, ranking: Ranking) -> Floats:
    """1 or 0 for each pair, (N,); NaN in a category of at most ten products."""
    found, vectors = np.full(len(task.pairs), np.nan), F.normalize(ranking.products.double().cpu(), dim=1)
    for category in np.unique(task.category):
        products = np.flatnonzero(task.product_category == category)
        if len(products) <= ALIKE:
            continue
        pairs = np.flatnonzero(task.category == category)
        of_category = vectors[torch.from_numpy(products)]
        for start in range(0, len(pairs), CHUNK):
            some = pairs[start : start + CHUNK]
            own = np.searchsorted(products, task.positive[some])
            cosine = (of_category[torch.from_numpy(own)] @ of_category.T).numpy()
            cosine[np.arange(len(some)), own] = np.inf
            alike = np.argsort(-cosine, axis=1, kind="stable")[:, : ALIKE + 1]
            nearest = ranking.distances(task.query[some], products).argmin(1)
            found[some] = (alike == nearest[:, None]).any(1)
    return found
