"""Do the same products come back for every scene? Hubs: products that are among the nearest of many scenes."""

from collections import Counter

import numpy as np
from scipy.stats import skew

from ctl_lightning.data.evaluation_set import EvaluationSet, Integers
from ctl_lightning.metrics.pair_metrics import CHUNK, Distances, mean

SHOWN = 4
"""Number of nearest products that a look shows of each category."""

NEAREST = 10
"""Number of nearest products whose frequency is looked at for skewness."""


def hub_results(task: EvaluationSet, distances: Distances) -> dict[str, float | None]:
    """How often the same products are among the nearest; nothing is masked, as nothing is when products are recommended.

    Of equally near products the first are taken. Categories of at most ten products are left out of the share and the
    skewness: there every product is among the nearest. With few scenes the share is high by chance (with one it is 1).

    Args:
        task: pairs and catalogue.
        distances: function that gives the distances of queries to products.

    Returns:
        "share": share of a category's scenes that have the most frequent product among their four nearest, mean over
        the categories. "skewness": how unevenly often a category's products are among the ten nearest of its queries:
        third standardised moment (Radovanović et al. 2010, section 3.1), mean over the categories. "coverage": share of
        the catalogue's products that are among the four nearest of any query of their category. None where there is
        nothing to measure.
    """
    shares, skewness, shown = [], [], 0
    for category in np.unique(task.category):
        products = np.flatnonzero(task.product_category == category)
        pairs = np.flatnonzero(task.category == category)
        queries, first = np.unique(task.query[pairs], return_index=True)
        nearest = _nearest(distances, queries, products)
        shown += len(np.unique(nearest[:, :SHOWN]))
        if len(products) <= NEAREST:
            continue
        scene = task.scene[pairs[first]]
        by_scene = {
            (one, product) for one, row in zip(scene.tolist(), nearest.tolist(), strict=True) for product in row[:SHOWN]
        }
        ((_, most),) = Counter(product for _, product in by_scene).most_common(1)
        shares.append(most / len(np.unique(scene)))
        skewness.append(float(skew(np.bincount(nearest.ravel(), minlength=len(products)))))
    found = {"share": mean(shares), "skewness": mean(skewness), "coverage": shown / len(task.products)}
    return {name: None if np.isnan(value) else value for name, value in found.items()}


def _nearest(distances: Distances, queries: Integers, products: Integers) -> Integers:
    """Columns of `products` that are the `NEAREST` of each query, the nearest first, (q, at most NEAREST)."""
    blocks = [queries[start : start + CHUNK] for start in range(0, len(queries), CHUNK)]
    # A copy, or each block's whole order stays in memory.
    return np.concatenate(
        [np.argsort(distances(block, products), axis=1, kind="stable")[:, :NEAREST].copy() for block in blocks]
    )
