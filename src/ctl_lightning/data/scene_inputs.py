"""What a method is shown of a scene: the scene crop, all strips beside the box, the box itself, or numbers of it alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ctl_lightning.data.crop import geometry
from ctl_lightning.data.pairs import Box
from ctl_lightning.data.store.features import CachedFeatures
from ctl_lightning.data.store.views import Views

SceneInput = Literal["crop", "strips", "box", "geometry"]
"""What is shown of a scene. "crop": the scene crop (the paper's); "strips": all strips beside the box, as the mean of
their pooled vectors weighted by area; "box": the worn product itself, which is a ceiling and no result; "geometry": numbers
of the box, without a pixel."""

UNSTORED: tuple[SceneInput, ...] = ("strips", "box")
"""Inputs that a frozen backbone's cached features are needed for: no store has their pictures."""

CONTROLS: tuple[SceneInput, ...] = ("box", "geometry")
"""Inputs that are there to find out what others are worth: nobody is served by them, and all pairs need a box."""


class GeometryViews:
    """Numbers of boxes in place of features: pooled (B, GEOMETRY), no regions.

    Args:
        boxes: box of each scene crop, by its key.
        margin: distance that a box grows on each side before it is cut away, as a share of the image side.
    """

    def __init__(self, boxes: Mapping[str, Box], margin: float) -> None:
        self._boxes = boxes
        self._margin = margin

    def training(self, images: Sequence[str], draws: Sequence[tuple[object, ...]]) -> CachedFeatures:
        """The numbers of each box, which nothing random changes."""
        return self.evaluation(images)

    def evaluation(self, images: Sequence[str]) -> CachedFeatures:
        """The numbers of each box."""
        numbers = torch.tensor([geometry(self._boxes[image], self._margin) for image in images])
        return CachedFeatures(numbers, numbers.new_empty(len(images), 0, 0))


def pooled_blocks(views: Views, keys: Sequence[str], size: int) -> Iterator[Tensor]:
    """Pooled features of these pictures as evaluation sees them, `size` at a time, (B, F) each."""
    for start in range(0, len(keys), size):
        yield views.evaluation(keys[start : start + size])[0]
