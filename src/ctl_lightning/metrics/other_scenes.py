"""What is a pair's AUC when it is given other scenes: every other one of its category, or those with the most alike box?

One table of the distances of a category answers for all of its pairs: in the row of another scene, a pair's AUC follows
from how many products are farther than the pair's own, less those that the pair masks.
"""

from collections.abc import Callable

import numpy as np

from ctl_lightning.data.evaluation_set import EvaluationSet, Integers
from ctl_lightning.data.pairs import NO_BOX
from ctl_lightning.metrics.intervals import Floats

ALIKE = 10
"""Number of pairs with the most alike boxes; at most a quarter of the category's, of which all others are far away."""

BLOCK = 256
"""Number of queries, or of boxes, at a time: limits the memory to BLOCK x (products or pairs of a category)."""


def auc_of_other_scenes(
    task: EvaluationSet,
    pairs: Integers,
    products: Integers,
    auc: Floats,
    distances: Callable[[Integers, Integers], Floats],
) -> tuple[Floats, Floats]:
    """The mean AUC of a category's pairs when they are given other scenes' crops.

    Every pair of another scene gives its crop once, so a crop that several pairs share counts as often. Both are taken
    from the pair's own AUC as a mean of differences: a method that ignores the scene loses exactly nothing, whatever a
    mean rounds.

    Args:
        task: pairs and catalogue.
        pairs: the n pairs of a category.
        products: the m products of the category, ascending.
        auc: the pairs' AUC with their own scenes, (n,).
        distances: function that gives the distances of queries to products.

    Returns:
        The mean over all pairs of other scenes, and over the pairs of `most_alike`, (n,) each; NaN where there is none.
    """
    queries, query, times = np.unique(task.query[pairs], return_inverse=True, return_counts=True)
    scene = task.scene[pairs]
    scene_of_query = np.empty(len(queries), np.int64)
    scene_of_query[query] = scene
    alike = most_alike(task.boxes[pairs], scene)
    giver = np.where(alike >= 0, query[alike], -1)
    levels, level = np.unique(np.searchsorted(products, task.positive[pairs]), return_inverse=True)
    masked, first = _no_negatives(task, pairs, products)
    own, negatives = np.repeat(levels[level], np.diff(first)), len(products) - np.diff(first)
    lost, lost_alike = np.zeros(len(pairs)), np.zeros(len(pairs))
    for start in range(0, len(queries), BLOCK):
        rows = slice(start, start + BLOCK)
        table = distances(queries[rows], products)
        farther = _farther(table, levels)[:, level]
        among_masked = (table[:, masked] > table[:, own]) + 0.5 * (table[:, masked] == table[:, own])
        farther -= np.add.reduceat(among_masked, first[:-1], axis=1)
        with np.errstate(invalid="ignore"):
            gap = auc - farther / negatives
        lost += (np.where(scene_of_query[rows, None] != scene, times[rows, None], 0) * gap).sum(0)
        for given in giver.T:
            here = np.flatnonzero((given >= start) & (given < start + BLOCK))
            lost_alike[here] += gap[given[here] - start, here]
    others = len(pairs) - (scene[:, None] == scene_of_query) @ times
    with np.errstate(invalid="ignore"):
        return auc - lost / others, auc - lost_alike / (giver >= 0).sum(1)


def most_alike(boxes: Floats, scenes: Integers) -> Integers:
    """For each of a category's pairs, the pairs of other scenes whose boxes are most like its own.

    Boxes are compared by their four numbers, width, height and area, each standardised over the category's pairs, with
    the Euclidean distance; of equally alike ones the first are taken. Pairs without a box neither have nor are such.

    Args:
        boxes: box of each of the n pairs, (n, 4).
        scenes: scene number of each pair, (n,).

    Returns:
        Indices of pairs, the most alike first, (n, k); -1 where there are fewer. k is `ALIKE`, or a quarter of the pairs
        with a box if that is less.
    """
    known = np.flatnonzero((boxes != np.array(NO_BOX)).any(1))
    count = min(ALIKE, len(known) // 4)
    found = np.full((len(boxes), count), -1)
    if not count:
        return found
    left, top, right, bottom = boxes[known].T
    features = [left, top, right, bottom, right - left, bottom - top, (right - left) * (bottom - top)]
    scaled = [feature / (feature.std() or 1) for feature in features]
    for start in range(0, len(known), BLOCK):
        rows = slice(start, start + BLOCK)
        at = known[rows]
        apart = sum((np.square(feature[rows, None] - feature) for feature in scaled), np.zeros(1))
        apart[scenes[at][:, None] == scenes[known]] = np.inf
        nearest = np.argsort(apart, axis=1, kind="stable")[:, :count]
        there = np.isfinite(np.take_along_axis(apart, nearest, axis=1))
        found[at] = np.where(there, known[nearest], -1)
    return found


def _no_negatives(task: EvaluationSet, pairs: Integers, products: Integers) -> tuple[Integers, Integers]:
    """The columns of `products` that are no negatives of each pair: its own product and the masked ones.

    Returns:
        The columns of all n pairs one after another, and where those of each pair begin, with the end of the last, (n + 1,).
    """
    columns = []
    for pair in pairs.tolist():
        named = np.append(task.masked[pair], task.positive[pair])
        named = named[task.product_category[named] == task.category[pair]]
        columns.append(np.unique(np.searchsorted(products, named)))
    return np.concatenate(columns), np.cumsum([0, *map(len, columns)])


def _farther(table: Floats, columns: Integers) -> Floats:
    """How many columns of each row (q, m) are farther than each of p chosen ones, ties counted half, (q, p)."""
    ordered = np.sort(table, axis=1)
    nearer = [
        np.searchsorted(row, values, "left") + np.searchsorted(row, values, "right")
        for row, values in zip(ordered, table[:, columns], strict=True)
    ]
    return table.shape[1] - 0.5 * np.array(nearer)
