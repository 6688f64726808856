"""How long a look takes, from a photo's file to the products of all categories: as in version 0.1, and by each engine today."""

import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from ctl_lightning.benchmarks.packing import before
from ctl_lightning.benchmarks.served import Served, engines, write_catalogue
from ctl_lightning.benchmarks.timing import Row, alone, in_turn, ratio
from ctl_lightning.data.images import ImageItem
from ctl_lightning.models.components.backbone import Features
from ctl_lightning.models.components.network import SceneStyle
from ctl_lightning.runtime.memory import can_keep, keep_freed_memory
from ctl_lightning.serving.catalogue.opening import open_catalogue
from ctl_lightning.serving.encoder import Encoder
from ctl_lightning.serving.engines import EngineName
from ctl_lightning.serving.recommender import Answer, Recommended, Recommender

BEFORE = "version 0.1: torch, heads once a category"
NEAREST = 3


def look_rows(given: Served, rounds: int) -> list[Row]:
    """Milliseconds a look, the median of the photos, on one core; each time in a process of its own, as memory that is kept stays kept.

    Args:
        given: checkpoint, products and scenes.
        rounds: how often each way is measured, in turn.
    """
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_catalogue(folder, given)
        ways = {name: partial(_measured, given, folder, name) for name in (BEFORE, *engines())}
        return [Row("look", name, values, "ms") for name, values in in_turn(ways, rounds).items()]


def _measured(given: Served, folder: Path, way: str) -> float:
    return alone(milliseconds, given, folder, way)


def milliseconds(given: Served, folder: Path, way: str) -> float:
    """The median of the photos: BEFORE, or with an engine, as `recommend` and `demo` run it."""
    torch.set_num_threads(1)
    if way != BEFORE and can_keep():
        keep_freed_memory()
    encoder = Encoder(given.checkpoint, engine="torch" if way == BEFORE else cast(EngineName, way))
    recommender = Recommender(encoder, open_catalogue(folder, encoder, None))
    times = []
    for photo in (*given.scenes[:3], *given.scenes):  # what only a first one does is not measured
        began = time.perf_counter()
        if way == BEFORE:
            look_before(recommender, photo)
        else:
            recommender.look(photo, k=NEAREST)
        times.append(time.perf_counter() - began)
    return 1000 * median(times[3:])


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
    """A look as version 0.1 made it: Pillow alone; all heads, and the parts of the distance, for each category anew.

    But it searches as today: of a small catalogue that takes as long as it did.
    """
    encoder, network, names = recommender.encoder, recommender.encoder.network, recommender.categories
    size, options = encoder.size, encoder.trained.config["data"]
    square = before(ImageItem("", photo, None), options["stored_size"], options["interpolation"])
    start = (options["stored_size"] - size) // 2
    with torch.inference_mode():
        pixels = torch.from_numpy(square[start : start + size, start : start + size].copy()).permute(2, 0, 1)[None]
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
