"""A trained checkpoint as a function of photos: how well products complete a scene, which of them do, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ctl_lightning.classifier import Classifier
from ctl_lightning.data.crop import area, scene_crop
from ctl_lightning.data.images import open_upright, reason, to_square
from ctl_lightning.data.pairs import Box
from ctl_lightning.data.views import centre
from ctl_lightning.errors import InputError, suggestion
from ctl_lightning.intervals import Floats
from ctl_lightning.reranking import order
from ctl_lightning.restoring import Trained
from ctl_lightning.style.network import SceneStyle

Photo = Path | Image.Image
"""An image file, or a picture that is open already."""

BATCH = 64


@dataclass(frozen=True)
class Judgement:
    """What is said of one candidate.

    Attributes:
        candidate: its place in the list that was given, from 0.
        distance: smaller: goes better with the scene.
        probability: that it goes with the scene, in a world where one candidate in two does; None: the checkpoint has no classifier.
        compatible: whether the distance is within the classifier's threshold; None: likewise.
    """

    candidate: int
    distance: float
    probability: float | None
    compatible: bool | None


class Compatibility:
    """Judges candidates of one category for a scene.

    >>> compatibility = Compatibility(Path("runs/.../checkpoints/best-epoch004.ckpt"))
    >>> compatibility.rerank(Path("room.jpg"), "Lamps", [Path("lamp1.jpg"), Path("lamp2.jpg")])

    Args:
        path: of a checkpoint, or of its run directory.
        device: torch's name of it.

    Raises:
        InputError: unreadable or foreign checkpoint; a method that sees no pictures.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        trained = Trained(path)
        self._module = trained.module()
        if not self._module.sees:
            raise InputError(
                f"ckpt_path={trained.path}: {trained.method} sees no pictures; give a checkpoint of another method"
            )
        try:
            self._module.to(device)
        except (RuntimeError, AssertionError) as error:  # what torch raises differs from build to build
            raise InputError(f"device={device}: {' '.join(str(error).split())[:200]}") from None
        self._device = device
        self._options = trained.config["data"]
        self.trained = trained
        self.classifier: Classifier | None = trained.classifier
        self.categories: list[str] = trained.categories

    def distances(self, scene: Photo, category: str, candidates: Sequence[Photo], box: Box | None = None) -> Floats:
        """The distance of each candidate to the scene, (n,).

        Args:
            scene: the photo.
            category: of the candidates; one of `categories`, or the last part of one.
            candidates: catalogue photos.
            box: what is to be replaced, normalised (left, top, right, bottom): it is cut away as in training. None: nothing is.

        Raises:
            InputError: an unreadable picture, an unknown category, a box that is no box or leaves nothing.
        """
        index = torch.tensor([self.categories.index(self._category(category))], device=self._device)
        crop = None
        if box is not None:
            left, top, right, bottom = box
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise InputError(f"box={list(box)}: give [left, top, right, bottom], from 0 to 1, not empty")
            crop = scene_crop(box, self._options["margin"])
            if area(crop) < self._options["min_area"]:
                raise InputError(
                    f"box={list(box)}: beside it {max(0.0, area(crop)):.0%} of the scene are left, and it was trained with "
                    f"{self._options['min_area']:.0%} at least; give a smaller box, or none"
                )
        found = []
        with torch.inference_mode():
            style: SceneStyle = self._module.network.embed_scene(self._batch([scene], crop), index)
            for start in range(0, len(candidates), BATCH):
                vectors = self._module.network.embed_product(self._batch(candidates[start : start + BATCH], None))
                found.append(self._module.network.distances(style, vectors)[0])
        return torch.cat([torch.empty(0, device=self._device), *found]).double().cpu().numpy()

    def classify(
        self, scene: Photo, category: str, candidates: Sequence[Photo], box: Box | None = None
    ) -> list[Judgement]:
        """What is said of each candidate, in the order in which they were given. Arguments and errors as of `distances`."""
        distances = self.distances(scene, category, candidates, box)
        if self.classifier is None:
            return [Judgement(place, float(distance), None, None) for place, distance in enumerate(distances)]
        probability = self.classifier.probability(distances)
        compatible = self.classifier.is_compatible(distances)
        return [
            Judgement(place, float(distances[place]), float(probability[place]), bool(compatible[place]))
            for place in range(len(distances))
        ]

    def rerank(
        self, scene: Photo, category: str, candidates: Sequence[Photo], box: Box | None = None
    ) -> list[Judgement]:
        """The same, the nearest first; equal ones stay in the order in which they were given."""
        judged = self.classify(scene, category, candidates, box)
        return [judged[place] for place in order(np.array([judgement.distance for judgement in judged]))]

    def _category(self, name: str) -> str:
        if name in self.categories:
            return name
        ends = [category.rpartition("|")[2] for category in self.categories]
        if ends.count(name) == 1:
            return self.categories[ends.index(name)]
        known = ", ".join(repr(category) for category in self.categories)
        raise InputError(
            f"category={name}: unknown to this checkpoint{suggestion(name, [*self.categories, *ends])}; it knows {known}"
        )

    def _batch(self, photos: Sequence[Photo], crop: Box | None) -> Tensor:
        """uint8 (n, 3, S, S): cut, made square and centred as in training."""
        options = self._options
        start, end = centre(options["stored_size"], options["image_size"])
        squares = [
            torch.from_numpy(to_square(_opened(photo), crop, options["stored_size"], options["aspect"]).copy())
            for photo in photos
        ]
        return torch.stack(squares)[:, start:end, start:end].permute(0, 3, 1, 2).to(self._device)


def _opened(photo: Photo) -> Image.Image:
    if isinstance(photo, Image.Image):
        return photo
    try:
        return open_upright(photo)
    except OSError as error:
        raise InputError(f"{photo}: {reason(error)}; give an image file") from None
