"""Judges photos with a checkpoint: how well products go with a scene, which of them do, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctl_lightning.data.pairs import Box
from ctl_lightning.metrics.classification import Classifier
from ctl_lightning.metrics.intervals import Floats
from ctl_lightning.metrics.reranking import order
from ctl_lightning.serving.encoder import Encoder, Photo
from ctl_lightning.serving.engines import EngineName

BATCH = 64


@dataclass(frozen=True)
class Judgement:
    """What the checkpoint says of one candidate.

    Attributes:
        candidate: place of the candidate in the given list, from 0.
        distance: distance to the scene; the smaller, the better it goes with the scene.
        probability: probability that it goes with the scene, if one candidate in two does; None: the checkpoint has no
            classifier.
        compatible: whether the distance is within the classifier's threshold; None: the checkpoint has no classifier.
    """

    candidate: int
    distance: float
    probability: float | None
    compatible: bool | None


class Compatibility:
    """Judges candidates of one category for a scene.

    Examples:
        >>> compatibility = Compatibility("runs/.../checkpoints/best-epoch004.ckpt")
        >>> compatibility.rerank("room.jpg", "Lamps", ["lamp1.jpg", "lamp2.jpg"])

    Args:
        path: checkpoint file, or its run directory.
        device: torch device, such as "cuda:0".
        engine: what runs the backbone: "torch", or "onnx", which is faster on a CPU and opens some seconds later.

    Raises:
        InputError: unreadable or foreign checkpoint; a method that sees no pictures; an engine that cannot run this backbone.
    """

    def __init__(self, path: Path | str, device: str = "cpu", engine: EngineName = "torch") -> None:
        self._encoder = Encoder(Path(path).expanduser(), device, engine)
        self.trained = self._encoder.trained
        self.classifier: Classifier | None = self.trained.classifier
        self.categories: list[str] = self.trained.categories

    def distances(self, scene: Photo, category: str, candidates: Sequence[Photo], box: Box | None = None) -> Floats:
        """The distance of each candidate to the scene, (n,).

        Args:
            scene: photo of the scene.
            category: category of the candidates: one of `categories`, or the last part of one.
            candidates: n catalogue photos.
            box: box to cut away as in training, because its product is to be replaced; normalised (left, top, right,
                bottom). None: nothing is cut away.

        Raises:
            InputError: an unreadable picture, an unknown category, a box that is no box or leaves nothing.
        """
        encoder = self._encoder
        found = []
        with torch.inference_mode():
            style = encoder.scene(scene, box, [category])
            for start in range(0, len(candidates), BATCH):
                vectors = encoder.products(map(encoder.square, candidates[start : start + BATCH]))
                found.append(encoder.network.distances(style, vectors)[0])
        return torch.cat([torch.empty(0, device=encoder.device), *found]).double().cpu().numpy()

    def classify(
        self, scene: Photo, category: str, candidates: Sequence[Photo], box: Box | None = None
    ) -> list[Judgement]:
        """Judges each candidate, in the order in which they were given. Arguments and errors as of `distances`."""
        return judged(self.distances(scene, category, candidates, box), self.classifier)

    def rerank(
        self, scene: Photo, category: str, candidates: Sequence[Photo], box: Box | None = None
    ) -> list[Judgement]:
        """The judgements of `classify`, nearest first; equal distances stay in the order in which they were given."""
        return nearest_first(self.classify(scene, category, candidates, box))


def judged(distances: Floats, classifier: Classifier | None) -> list[Judgement]:
    """What a checkpoint's classifier says of n distances, (n,)."""
    if classifier is None:
        return [Judgement(place, float(distance), None, None) for place, distance in enumerate(distances)]
    probability = classifier.probability(distances)
    compatible = classifier.is_compatible(distances)
    return [
        Judgement(place, float(distances[place]), float(probability[place]), bool(compatible[place]))
        for place in range(len(distances))
    ]


def nearest_first(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Judgements by their distance; equal distances stay in the order in which they were given."""
    return [judgements[place] for place in order(np.array([judgement.distance for judgement in judgements]))]


def order_data(
    scene: str, category: str, names: Sequence[str], ordered: Sequence[Judgement], classifier: Classifier | None
) -> dict[str, Any]:
    """Ordered candidates, which have these names, as plain values, as in rerank.json."""
    return {
        "scene": scene,
        "category": category,
        "classifier": classifier and classifier.plain(),
        "order": [
            {
                "candidate": names[found.candidate],
                "was": found.candidate + 1,
                "distance": found.distance,
                "probability": found.probability,
                "compatible": found.compatible,
            }
            for found in ordered
        ],
    }
