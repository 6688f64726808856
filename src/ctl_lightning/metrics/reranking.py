"""What re-ranking gains: the order that another system gave, and ours, of the same candidates."""

import numpy as np

from ctl_lightning.data.evaluation_set import EvaluationSet, Integers
from ctl_lightning.metrics.intervals import Floats, Interval, interval, paired_difference
from ctl_lightning.metrics.retrieval import Distances

CANDIDATES = 20
"""So many products each list has, the true one among them."""


def reranking_results(
    task: EvaluationSet, distances: Distances, seed: int = 0
) -> dict[str, dict[str, Interval | float]]:
    """nDCG (Järvelin & Kekäläinen 2002) of lists that two simple systems gave, before and after they are ordered by distance.

    A list holds a pair's product and random products of its category that no pair of the scene names. The systems: "shuffled", which
    knows nothing, and "popularity", which puts first what is in the most training pairs. Products that a system, or the distance,
    holds for equal share the mean gain of their places.

    Args:
        task: the pairs and the catalogue.
        distances: of queries and products.
        seed: of the lists.

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
    """nDCG of a list with one relevant item, whose gain is 1 / log2(1 + rank); equal distances share their places' mean.

    Args:
        distance: of each item, (n,); the smaller, the earlier.
        relevant: which item it is.
    """
    own = distance[relevant]
    first, last = int((distance < own).sum()), int((distance <= own).sum())
    return float((1 / np.log2(np.arange(first, last) + 2)).mean())


def order(distances: Floats) -> Integers:
    """(n,) -> the indices of the candidates, the nearest first; equal ones stay in the order that they came in."""
    return np.argsort(distances, kind="stable")
