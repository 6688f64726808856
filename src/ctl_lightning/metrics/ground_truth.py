"""What can be measured where the truth is known: the best AUC that there can be, and whether the attention finds what decides."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ctl_lightning.data.crop import scene_crop
from ctl_lightning.data.evaluation_set import EvaluationSet, Integers
from ctl_lightning.data.pairs import Box
from ctl_lightning.data.sources.synthetic import Knowledge, Truth
from ctl_lightning.data.store.views import centre
from ctl_lightning.metrics.intervals import Floats, interval
from ctl_lightning.metrics.retrieval import score_pairs


def region_centre(
    region: int, grid: int, stored: int, size: int, box: Box, margin: float, place: Box
) -> tuple[float, float]:
    """Where in the whole scene, (x, y) in [0, 1], the centre of a region of an evaluation picture lies.

    Args:
        region: index, row by row.
        grid: regions are grid x grid.
        stored: side of the stored crop, in pixels.
        size: side of its centre that the network sees.
        box: of the pair, which was cut away.
        margin: that the box was grown by.
        place: where in the stored square the crop lies; see `placed`.
    """
    row, column = divmod(region, grid)
    left, top, right, bottom = scene_crop(box, margin)
    start, _ = centre(stored, size)
    x, y = ((start + (cell + 0.5) / grid * size) / stored for cell in (column, row))
    x, y = (x - place[0]) / (place[2] - place[0]), (y - place[1]) / (place[3] - place[1])
    return left + x * (right - left), top + y * (bottom - top)


def truth_results(task: EvaluationSet, truth: Truth) -> dict[str, Any]:
    """{"oracle": {"auc": ...}, "ceilings": {"global": ..., "local": ...}}: the best AUC that there can be on these pairs."""
    knowledge: tuple[Knowledge, ...] = ("oracle", "global", "local")
    auc = {
        known: interval(score_pairs(task, truth_distances(task, truth, known)).auc, task.scene) for known in knowledge
    }
    return {"oracle": {"auc": auc["oracle"]}, "ceilings": {known: auc[known] for known in knowledge[1:]}}


def truth_distances(task: EvaluationSet, truth: Truth, knowledge: Knowledge) -> Any:
    """The generator's own distance as a function of query indices (n,) and product indices (m,) -> (n, m)."""
    pair_of_query = {query: pair for query, pair in zip(task.query.tolist(), task.pairs, strict=True)}
    rows: dict[int, Floats] = {}

    def distances(queries: Integers, products: Integers) -> Floats:
        names = [task.products[product] for product in products]
        for query in set(queries.tolist()) - rows.keys():  # a query is only ever asked for its own category's products
            rows[query] = truth.distance(pair_of_query[query], names, knowledge)
        return np.stack([rows[query] for query in queries.tolist()])

    return distances


def attention_results(
    task: EvaluationSet,
    attention: Floats,
    boxes: Sequence[Box],
    places: Sequence[Box],
    stored_size: int,
    image_size: int,
    margin: float,
) -> dict[str, Any]:
    """How well the attention finds the garment that decides.

    Args:
        task: the pairs.
        attention: a_i of every query, (Q, R).
        boxes: of the deciding garment of each pair.
        places: of each pair's scene crop in its stored square.
        stored_size: see `region_centre`.
        image_size: see `region_centre`.
        margin: see `region_centre`.

    Returns:
        {"attention": {"pointing": share of pairs whose heaviest region has its centre in the deciding garment,
        "pointing_uniform": the same for a region drawn at random, as uniform attention and chance would,
        "energy": mean weight of all regions whose centre lies in it, "energy_uniform": the same for equal weights}}
    """
    grid = math.isqrt(attention.shape[1])
    inside = np.zeros((len(task.pairs), grid * grid))
    for row, (pair, (left, top, right, bottom)) in enumerate(zip(task.pairs, boxes, strict=True)):
        for region in range(grid * grid):
            x, y = region_centre(region, grid, stored_size, image_size, pair.box, margin, places[row])
            inside[row, region] = left <= x <= right and top <= y <= bottom
    weights = attention[task.query]
    heaviest = weights == weights.max(1, keepdims=True)
    chance = inside.mean(1)
    return {
        "attention": {
            "pointing": interval((heaviest * inside).sum(1) / heaviest.sum(1), task.scene),
            "pointing_uniform": interval(chance, task.scene),
            "energy": interval((weights * inside).sum(1), task.scene),
            "energy_uniform": interval(chance, task.scene),
        }
    }
