"""How much does it gain to re-rank, by our distance, the candidates that another system ordered?"""

import numpy as np

from ctl_lightning.data.evaluation_set import EvaluationSet, Integers
from ctl_lightning.metrics.intervals import Floats, Interval, interval, paired_difference
from ctl_lightning.metrics.pair_metrics import Distances

CANDIDATES = 20
"""Number of products in each list, the true one among them."""


def reranking_results(
    task: EvaluationSet, distances: Distances, seed: int = 0
) -> dict[str, dict[str, Interval | float]]:
    """nDCG (Järvelin & Kekäläinen 2002) of lists from two simple systems, before and after ordering them by distance.

    A list holds a pair's product and random products of its category that no pair of the scene names. The systems are
    "shuffled", which knows nothing, and "popularity", which puts first the products in the most training pairs.
    Products that a system, or the distance, cannot tell apart share the mean gain of their places.

    Args:
        task: pairs and catalogue.
        distances: function that gives the distances of queries to products.
        seed: random seed of the lists.

    Returns:
        {system: {"candidates": mean length of the lists, "given": nDCG before, "reranked": after, "gain": the difference with "p"}}
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    before: dict[str, list[float]] = {"shuffled": [], "popularity": []}
    after, lengths = [], []
    for pair, own in enumerate(task.positive.tolist()):
        others = np.flatnonzero(task.product_category == task.category[pair])
        others = others[(others != own) & ~np.isin(others, task.masked[pair])]
        drawn = generator.choice(others, min(CANDIDATES - 1, len(others)), replace=False)
        listed = np.sort(np.append(drawn, own))
        place = int(np.searchsorted(listed, own))
        distance = distances(task.query[[pair]], listed)[0]
        before["shuffled"].append(ndcg(np.zeros(len(listed)), place))
        before["popularity"].append(ndcg(-task.train_count[listed].astype(float), place))
        after.append(ndcg(distance, place))
        lengths.append(len(listed))
    reranked = np.array(after)
    return {
        system: {
            "candidates": float(np.mean(lengths)),
            "given": interval(np.array(given), task.scene),
            "reranked": interval(reranked, task.scene),
            "gain": paired_difference(reranked, np.array(given), task.scene),
        }
        for system, given in before.items()
    }


def ndcg(distance: Floats, relevant: int) -> float:
    """nDCG of a list with one relevant item, whose gain is 1 / log2(1 + rank).

    Items at equal distances share the mean gain of their places.

    Args:
        distance: distance of each item, (n,); the smaller, the earlier in the list.
        relevant: index of the relevant item.
    """
    own = distance[relevant]
    first, last = int((distance < own).sum()), int((distance <= own).sum())
    return float((1 / np.log2(np.arange(first, last) + 2)).mean())


def order(distances: Floats) -> Integers:
    """Distances (n,) of candidates -> their indices, the nearest first; equal ones keep their order."""
    return np.argsort(distances, kind="stable")
