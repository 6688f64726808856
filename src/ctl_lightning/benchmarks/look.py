"""How long a look takes, from a photo's file to the products of all categories: as in version 0.1, and by each engine today."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from ctl_lightning.benchmarks.served import Served, engines
from ctl_lightning.benchmarks.timing import Row, in_turn, ratio
from ctl_lightning.data.images import to_rgb
from ctl_lightning.models.components.backbone import Features
from ctl_lightning.models.components.network import SceneStyle
from ctl_lightning.serving.catalogue.change import HNSW, QDRANT, Backend, change_catalogue
from ctl_lightning.serving.encoder import Encoder, opened
from ctl_lightning.serving.recommender import Answer, Recommended, Recommender, open_catalogue

BEFORE = "version 0.1: torch, heads once a category"
NEAREST = 3


def look_rows(given: Served, rounds: int) -> list[Row]:
    """Milliseconds a look, on one core: each photo in every way, one way after the other.

    Args:
        given: checkpoint, products and scenes.
        rounds: how often each photo is looked at in each way.
    """
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        first, *others = [Encoder(given.checkpoint, engine=name) for name in engines()]
        backend = Backend("exact", dict.fromkeys(HNSW), dict.fromkeys(QDRANT))
        change_catalogue(folder, first, given.products, "set", backend, 16, 1.0)
        found = [Recommender(one, open_catalogue(folder, one, None)) for one in (first, *others)]
        ways: dict[str, Callable[[Path], object]] = {BEFORE: lambda photo: look_before(found[0], photo)}
        for engine, one in zip(engines(), found, strict=True):
            ways[engine] = lambda photo, one=one: one.look(photo, k=NEAREST)  # type: ignore[misc]
        for look in ways.values():
            look(given.scenes[0])  # what only a first one does is not measured
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            of_photos = [
                in_turn({name: lambda look=look, one=one: _seconds(look, one) for name, look in ways.items()}, 1)  # type: ignore[misc]
                for one in given.scenes
            ]
            for way in ways:
                times[way].append(1000 * median(one[way][0] for one in of_photos))
    return [Row("look", name, values, "ms") for name, values in times.items()]


def look_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """The time of a look by torch, and in the way of version 0.1, over that with the fastest engine."""
    ours = [row for row in rows if row.group == "look" and row.name != BEFORE]
    if not ours:
        return {}
    fastest = min(ours, key=lambda row: row.value).name
    return {
        "torch_over_engine_look": ratio(rows, "torch", fastest, "look"),
        "before_over_look": ratio(rows, BEFORE, fastest, "look"),
    }


def look_before(recommender: Recommender, photo: Path) -> list[Answer]:
    """A look as version 0.1 made it: all heads, and the parts of the distance, for each category anew."""
    encoder, network, names = recommender.encoder, recommender.encoder.network, recommender.categories
    picture = to_rgb(opened(photo))
    with torch.inference_mode():
        pixels = torch.from_numpy(encoder.square(picture).copy()).permute(2, 0, 1)[None]
        features = network.backbone(pixels)
        every = Features(*(part.expand(len(names), *part.shape[1:]) for part in features))
        style = network.embed_scene(every, torch.tensor([encoder.categories.index(name) for name in names]))
        query = network.query(style)
    assert query is not None
    vectors = query.float().numpy()
    return [
        _answer(recommender, SceneStyle(*(part[row : row + 1] for part in style)), name, vectors[row])
        for row, name in enumerate(names)
    ]


def _answer(recommender: Recommender, style: SceneStyle, category: str, vector: NDArray[np.float32]) -> Answer:
    (hits,) = recommender.catalogue.search(vector[None], category, NEAREST)
    distances, classifier = np.array([hit.distance for hit in hits]), recommender.classifier
    chances = [None] * len(hits) if classifier is None else classifier.probability(distances).tolist()
    vectors = np.array([hit.vector for hit in hits])
    with torch.inference_mode():
        queries = recommender.encoder.network.queries(style)
    parts = {name: 2 - vectors @ one[0].float().numpy() for name, one in queries.items()}
    products = [
        Recommended(
            place + 1,
            hit.product,
            hit.image,
            hit.distance,
            {name: float(part[place]) for name, part in parts.items()},
            chance,
        )
        for place, (hit, chance) in enumerate(zip(hits, chances, strict=True))
    ]
    attention = None
    if recommender.encoder.network.attends:
        weights = style.attention[0].double().numpy()
        attention = weights.reshape(2 * (math.isqrt(len(weights)),))
    return Answer(category, products, attention, recommender.catalogue.counts[category])


def _seconds(look: Callable[[Path], object], photo: Path) -> float:
    began = time.perf_counter()
    look(photo)
    return time.perf_counter() - began
