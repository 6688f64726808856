"""How does every pair's product rank among all products of its category: AUC, lift, hit@k, MRR, median rank.

`metric_values` is the list of them; one added there is in results.json, pairs.csv, the log and the printed table. The
paper's table takes its own from it (`reports/paper_rows.py`).

All ranking is by distance, smaller is better (torchmetrics' retrieval metrics ignore items whose score is not positive).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctl_lightning.data.evaluation_set import EvaluationSet, Integers
from ctl_lightning.metrics.intervals import Floats, Interval, interval, paired_difference
from ctl_lightning.metrics.other_scenes import auc_of_other_scenes

Distances = Callable[[Integers, Integers], Floats]
"""Query indices (n,) and product indices (m,) -> distances (n, m)."""

HITS = (1, 5, 10, 50)
CHUNK = 256
"""Number of pairs ranked at a time: limits the memory to CHUNK x products of a category."""


@dataclass(frozen=True)
class PairScores:
    """How each of N pairs was ranked; every attribute is (N,).

    Attributes:
        auc: share of the negatives that are farther than the positive; ties count half.
        auc_matched: the same against negatives of the positive's kind: for a seen positive the seen ones, weighted by
            their training frequency; for an unseen one the unseen ones. NaN where there are none.
        auc_shuffled: mean `auc` when the pair is given the scene crop of every pair of its category that has another
            scene. NaN where there are none.
        auc_geometry: the same over those pairs alone whose boxes are most like its own, see `most_alike`. NaN where
            there are none: no box, or a small category.
        rank: 1 + number of nearer negatives + half of the ties.
        correct: whether the positive of the seeded triplet is nearer than its negative; ½ for a tie.
        positive: distance of the positive of the seeded triplet.
        negative: distance of the negative of the seeded triplet.
    """

    auc: Floats
    auc_matched: Floats
    auc_shuffled: Floats
    auc_geometry: Floats
    rank: Floats
    correct: Floats
    positive: Floats
    negative: Floats


def score_pairs(task: EvaluationSet, distances: Distances) -> PairScores:
    """Ranks every pair's product against all products of its category, the scene's other products masked.

    Args:
        task: pairs and catalogue.
        distances: function that gives the distances of queries to products.
    """
    auc, matched, shuffled, geometry, rank, near, far = (np.full(len(task.pairs), np.nan) for _ in range(7))
    for category in np.unique(task.category):
        products = np.flatnonzero(task.product_category == category)
        pairs = np.flatnonzero(task.category == category)
        for start in range(0, len(pairs), CHUNK):
            at = pairs[start : start + CHUNK]
            positive = np.searchsorted(products, task.positive[at])
            negative = np.searchsorted(products, task.negative[at])
            allowed, like_positive = _weights(task, at, products)
            distance = distances(task.query[at], products)
            auc[at] = weighted_auc(distance, positive, allowed)
            matched[at] = weighted_auc(distance, positive, like_positive)
            rank[at] = 1 + nearer(distance, positive, allowed)
            near[at], far[at] = distance[np.arange(len(at)), positive], distance[np.arange(len(at)), negative]
        shuffled[pairs], geometry[pairs] = auc_of_other_scenes(task, pairs, products, auc[pairs], distances)
    correct = (near < far) + 0.5 * (near == far)
    return PairScores(auc, matched, shuffled, geometry, rank, correct, near, far)


def _weights(task: EvaluationSet, pairs: Integers, products: Integers) -> tuple[Floats, Floats]:
    """Weight of each product as a negative of each pair, for `auc` and for `auc_matched`, (n, m) each."""
    allowed = np.ones((len(pairs), len(products)))
    for row, pair in enumerate(pairs):
        allowed[row, np.isin(products, task.masked[pair])] = 0
    allowed[products == task.positive[pairs][:, None]] = 0
    positive = np.searchsorted(products, task.positive[pairs])
    return allowed, matched_weights(allowed, positive, task.train_count[products])


def matched_weights(allowed: Floats, positive: Integers, train_count: Integers) -> Floats:
    """Weights of the negatives of the positive's kind: seen ones by their training frequency, or unseen ones.

    Args:
        allowed: 1 for the negatives of each query, else 0, (n, m).
        positive: column of each query's own product, (n,).
        train_count: number of training pairs that each product is in, (m,).

    Returns:
        Weights, (n, m).
    """
    seen = train_count[positive] > 0
    return allowed * np.where(seen[:, None], train_count, train_count == 0)


def weighted_auc(distance: Floats, positive: Integers, weight: Floats) -> Floats:
    """Weighted share of negatives (n, m) farther than column `positive` (n,) -> (n,); NaN without negatives."""
    own = np.take_along_axis(distance, positive[:, None], axis=1)
    farther = (distance > own) + 0.5 * (distance == own)
    with np.errstate(invalid="ignore"):
        return (farther * weight).sum(1) / weight.sum(1)


def nearer(distance: Floats, positive: Integers, allowed: Floats) -> Floats:
    """Number of negatives that are nearer than the positive, ties counted half, (n,)."""
    own = np.take_along_axis(distance, positive[:, None], axis=1)
    return (((distance < own) + 0.5 * (distance == own)) * allowed).sum(1)


def summarise(
    task: EvaluationSet, scores: PairScores, seed: int = 0
) -> dict[str, dict[str, Interval] | dict[str, dict[str, Interval]]]:
    """All metrics over all pairs, over those with a seen product, those with an unseen one, and by category.

    Returns:
        {"all": {METRIC: {"value", "low", "high"}}, "seen": ..., "unseen": ..., "by_category": {category: ...}}
    """
    values = metric_values(scores)
    return {
        "all": _table(values, task.scene, np.ones(len(task.pairs), bool), seed),
        "seen": _table(values, task.scene, task.seen, seed),
        "unseen": _table(values, task.scene, ~task.seen, seed),
        "by_category": {
            name: _table(values, task.scene, task.category == index, seed)
            for index, name in enumerate(task.categories)
            if (task.category == index).any()
        },
    }


def compare(
    task: EvaluationSet, first: PairScores, second: PairScores, seed: int = 0
) -> dict[str, dict[str, Interval]]:
    """How much larger the metrics of `first` are than those of `second`, pair by pair; `median_rank` is left out.

    Returns:
        {"all": {METRIC: {"value", "low", "high", "p"}}, "seen": ..., "unseen": ...}
    """
    values, others = metric_values(first), metric_values(second)
    groups = {"all": np.ones(len(task.pairs), bool), "seen": task.seen, "unseen": ~task.seen}
    return {
        group: {
            name: paired_difference(values[name][chosen], others[name][chosen], task.scene[chosen], seed)
            for name in values
            if name != "median_rank"
        }
        for group, chosen in groups.items()
    }


def metric_values(scores: PairScores) -> dict[str, Floats]:
    """Metric -> its value for each pair, (N,); a metric is the mean over pairs, `median_rank` the median."""
    return {
        "auc": scores.auc,
        "auc_matched": scores.auc_matched,
        "auc_shuffled": scores.auc_shuffled,
        "lift": scores.auc - scores.auc_shuffled,
        "auc_geometry": scores.auc_geometry,
        "lift_geometry": scores.auc - scores.auc_geometry,
        "binary_accuracy": scores.correct,
        **{f"hit@{k}": (scores.rank <= k).astype(float) for k in HITS},
        "mrr": 1 / scores.rank,
        "median_rank": scores.rank,
    }


def logged_values(scores: PairScores, seen: NDArray[np.bool_]) -> dict[str, float]:
    """One number of each metric over all pairs, as a run logs them, and the AUC of seen and of unseen products.

    Args:
        scores: how each of N pairs was ranked.
        seen: (N,) whether the pair's product occurs in training.
    """
    values = metric_values(scores)
    means = {name: mean(value) for name, value in values.items() if name != "median_rank"}
    return means | {
        "median_rank": float(np.median(scores.rank)),
        "auc_seen": mean(values["auc"][seen]),
        "auc_unseen": mean(values["auc"][~seen]),
    }


def _table(values: dict[str, Floats], scenes: Integers, chosen: NDArray[np.bool_], seed: int) -> dict[str, Interval]:
    return {
        name: interval(value[chosen], scenes[chosen], np.median if name == "median_rank" else np.mean, seed)
        for name, value in values.items()
    }


def mean(values: Sequence[float] | Floats) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = np.asarray(values)[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
