"""Which pairs of a ranked split are worth looking at, and what their pictures show."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ctl_lightning.data.crop import crop_key, scene_crop, to_pixels
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.evaluation_set import EvaluationSet
from ctl_lightning.data.images import open_upright, size_upright
from ctl_lightning.data.pairs import Box, Pair
from ctl_lightning.data.twins.groups import Twins
from ctl_lightning.metrics.classification import Classifier, Samples, bins, precision_recall_curve, roc_curve
from ctl_lightning.metrics.pair_metrics import Distances, PairScores
from ctl_lightning.metrics.ranking import Ranking
from ctl_lightning.models.components.network import Network
from ctl_lightning.reports.figures.curves import ClassifierCurves
from ctl_lightning.reports.figures.grids import Cut, Overlay, Retrieval, Shown
from ctl_lightning.runtime.plotting import Pixels

RETRIEVALS, NEAREST, OVERLAYS, CUTS, TWINS = 10, 10, 4, 10, 50
CONFUSED, EMBEDDED = 500, 1000

ATTENDED, LARGEST = 10, 30
"""Categories, the largest, of which attention is drawn, and of which confusion and intervals are."""


def retrieval_rows(
    data: TripletDataModule, task: EvaluationSet, distances: Distances, scores: PairScores
) -> list[Retrieval]:
    """Ten pairs spread evenly over the categories, not chosen by success, with their ten nearest products."""
    pictures, rows = data.pictures, []
    for pair in _spread(task.category.tolist(), RETRIEVALS):
        candidates = np.flatnonzero(task.product_category == task.category[pair])
        distance = distances(task.query[[pair]], candidates)[0]
        nearest = candidates[np.argsort(distance, kind="stable")[:NEAREST]]
        masked = set(task.masked[pair].tolist())
        rows.append(
            Retrieval(
                category=task.pairs[pair].category,
                scene=pictures.centre(task.queries[task.query[pair]][0]),
                aspect=_scene_aspect(data, task.pairs[pair]),
                truth=_shown(data, task, int(task.positive[pair]), pair),
                rank=float(scores.rank[pair]),
                candidates=len(candidates) - len(masked & set(candidates.tolist())),
                nearest=[_shown(data, task, one, pair) for one in nearest.tolist()],
            )
        )
    return rows


def largest(task: EvaluationSet, count: int) -> list[int]:
    """Indices of the `count` categories with the most pairs, in the order of all categories."""
    pairs = np.bincount(task.category, minlength=len(task.categories))
    return sorted(np.argsort(-pairs, kind="stable")[:count].tolist())


def attention_rows(data: TripletDataModule, task: EvaluationSet, network: Network) -> list[Overlay]:
    """Four scene crops, each with an attention map of each of the ten largest categories."""
    device = next(network.parameters()).device
    network.eval()
    shown = largest(task, ATTENDED)
    categories = torch.tensor(shown, device=device)
    rows = []
    for pair in _spread(task.category.tolist(), OVERLAYS):
        crop, _ = task.queries[task.query[pair]]
        image = data.pictures.evaluation([crop]).to(device)
        with torch.no_grad():
            weights = network.embed_scene(image, categories).attention
        grid = math.isqrt(weights.shape[1])
        maps = weights.reshape(-1, grid, grid).double().cpu().numpy()
        rows.append(
            Overlay(
                data.pictures.centre(crop),
                _scene_aspect(data, task.pairs[pair]),
                dict(zip([task.categories[one] for one in shown], maps, strict=True)),
            )
        )
    return rows


def classifier_curves(classifier: Classifier, judged: Samples) -> ClassifierCurves:
    """The curves that a classifier's pictures show of these samples."""
    said, truth = classifier.is_compatible(judged.distance), judged.compatible
    probability = classifier.probability(judged.distance)
    place = bins(probability)
    rows = [(probability[place == b].mean(), truth[place == b].mean(), (place == b).sum()) for b in np.unique(place)]
    return ClassifierCurves(
        roc_curve(judged.distance, truth),
        precision_recall_curve(judged.distance, truth),
        (float(said[~truth].mean()), float(said[truth].mean()), float(truth[said].mean()) if said.any() else 1.0),
        np.array(rows, float).T,
    )


def pair_rows(data: TripletDataModule) -> list[Cut]:
    """Ten test pairs spread evenly over the categories: the whole scene, its box and crop, and what is stored."""
    pairs = data.pairs["test"]
    rows = []
    for number in _spread([data.categories.index(pair.category) for pair in pairs], CUTS):
        pair = pairs[number]
        scene = open_upright(data.source.image_path(data.root, pair.scene)).convert("RGB")
        scene.thumbnail((400, 400))
        crop, product = data.store[crop_key(pair.scene, pair.box)], data.store[pair.product]
        rows.append(Cut(pair.category, np.asarray(scene), pair.box, scene_crop(pair.box, data.margin), crop, product))
    return rows


def twin_rows(data: TripletDataModule, twins: Twins) -> list[list[tuple[str, Pixels]]]:
    """At most fifty photos that are there under several ids, spread over all of them: title and picture of two ids each."""
    every = max(1, -(-len(twins.photos) // TWINS))
    rows = []
    for photo in twins.photos[::every]:
        shown = [*(("scene", scene) for scene in photo.scenes), *(("product", name) for name in photo.products)]
        row = []
        for kind, name in (shown[0], shown[-1]):
            picture = open_upright(data.source.image_path(data.root, name)).convert("RGB")
            picture.thumbnail((240, 240))
            row.append((f"{kind} {name[:10]}", np.asarray(picture)))
        rows.append(row)
    return rows


def hard_negatives(task: EvaluationSet, distances: Distances) -> NDArray[np.float64]:
    """Which categories a network mistakes for each other: those of the products nearest to a scene crop, of all products.

    Args:
        task: pairs of the split; at most 500 of them are used, spread over the categories.
        distances: function that gives the distances between queries and products.

    Returns:
        Shares, (C, C): for the pairs of a category (row), the share of each category among the ten nearest products
        that no pair of their scene names; NaN for a category without pairs.
    """
    found = np.full((len(task.categories), len(task.categories)), np.nan)
    products = np.arange(len(task.products))
    for pair in _spread(task.category.tolist(), CONFUSED):
        distance = distances(task.query[[pair]], products)[0].copy()
        distance[[*task.masked[pair], task.positive[pair]]] = np.inf
        row = found[task.category[pair]]
        row[np.isnan(row)] = 0.0
        nearest = np.argsort(distance, kind="stable")[:NEAREST]
        np.add.at(row, task.product_category[nearest[np.isfinite(distance[nearest])]], 1)
    return found / found.sum(1, keepdims=True)


def embedded_products(task: EvaluationSet, ranking: Ranking) -> tuple[list[str], NDArray[np.float64]]:
    """At most 1,000 products of a catalogue, spread over the categories: names of their categories, and f_p, (n, D)."""
    chosen = _spread(task.product_category.tolist(), EMBEDDED)
    vectors = ranking.products[chosen].double().cpu().numpy()
    return [task.categories[task.product_category[one]] for one in chosen], vectors


def _spread(categories: Sequence[int], count: int) -> list[int]:
    """Places of up to `count` pairs, sorted by category: the first of every category, then the second of each, ..."""
    before: Counter[int] = Counter()
    turns = []
    for pair, category in enumerate(categories):
        turns.append((before[category], category, pair))
        before[category] += 1
    return sorted((pair for _, _, pair in sorted(turns)[:count]), key=lambda pair: categories[pair])


def _shown(data: TripletDataModule, task: EvaluationSet, product: int, pair: int) -> Shown:
    name = task.products[product]
    hit, masked = product == task.positive[pair], product in task.masked[pair].tolist()
    return Shown(data.pictures.centre(name), _aspect(data, name), hit, masked)


def _scene_aspect(data: TripletDataModule, pair: Pair) -> float:
    return _aspect(data, pair.scene, scene_crop(pair.box, data.margin))


def _aspect(data: TripletDataModule, image: str, crop: Box = (0.0, 0.0, 1.0, 1.0)) -> float:
    """Width / height at which a crop of a picture is to be shown: as it was before it was stretched to a square."""
    if data.aspect != "stretch":
        return 1.0
    try:
        size = size_upright(data.source.image_path(data.root, image))
    except OSError:  # the image store has the picture, and its file is gone
        return 1.0
    left, top, right, bottom = to_pixels(crop, *size)
    return (right - left) / (bottom - top)
