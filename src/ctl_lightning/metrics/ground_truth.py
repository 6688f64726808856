"""Where the truth is known: what is the best possible AUC, and does the attention find the garment that decides?"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ctl_lightning.data.crop import scene_crop
from ctl_lightning.data.evaluation_set import EvaluationSet, Integers
from ctl_lightning.data.pairs import Box
from ctl_lightning.data.sources.truth import Knowledge, Truth
from ctl_lightning.data.store.views import centre
from ctl_lightning.metrics.intervals import Floats, interval
from ctl_lightning.metrics.pair_metrics import score_pairs


def region_centre(
    region: int, grid: int, stored: int, size: int, box: Box, margin: float, place: Box
) -> tuple[float, float]:
    """Position (x, y) in the whole scene, both in [0, 1], of the centre of a region of an evaluation picture.

    Args:
        region: index of the region, row by row.
        grid: side of the grid of regions, which has grid x grid of them.
        stored: side of the stored scene crop, in pixels.
        size: side of its centre part that the network sees, in pixels.
        box: box of the pair, which was cut away.
        margin: how much the box was grown before, as a share of the image side.
        place: where in the stored square the scene crop lies; see `placed`.
    """
    row, column = divmod(region, grid)
    left, top, right, bottom = scene_crop(box, margin)
    start, _ = centre(stored, size)
    x, y = ((start + (cell + 0.5) / grid * size) / stored for cell in (column, row))
    x, y = (x - place[0]) / (place[2] - place[0]), (y - place[1]) / (place[3] - place[1])
    return left + x * (right - left), top + y * (bottom - top)


def truth_results(task: EvaluationSet, truth: Truth) -> dict[str, Any]:
    """{"oracle": {"auc": ...}, "ceilings": {"global": ..., "local": ...}}: the best possible AUC on these pairs."""
    knowledge: tuple[Knowledge, ...] = ("oracle", "global", "local")
    auc = {
        known: interval(score_pairs(task, truth_distances(task, truth, known)).auc, task.scene) for known in knowledge
    }
    return {"oracle": {"auc": auc["oracle"]}, "ceilings": {known: auc[known] for known in knowledge[1:]}}


def truth_distances(task: EvaluationSet, truth: Truth, knowledge: Knowledge) -> Any:
    """The generator's own distance, as a function: query indices (n,) and product indices (m,) -> distances (n, m)."""
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
        task: pairs to measure.
        attention: attention weights a_i of every query, (Q, R).
        boxes: box of the deciding garment of each pair.
        places: where each pair's scene crop lies in its stored square; see `placed`.
        stored_size: side of the stored scene crops, in pixels.
        image_size: side of their centre part that the network sees, in pixels.
        margin: how much each box was grown before it was cut away, as a share of the image side.

    Returns:
        {"attention": {"pointing": share of pairs whose heaviest region has its centre in the deciding garment,
        "pointing_uniform": the same for a region drawn at random, as uniform attention and chance would, "energy":
        total weight of the regions whose centre lies in it, mean over pairs, "energy_uniform": the same for equal
        weights}}
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
