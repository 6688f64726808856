"""Parts of scenes that no image store has: all strips beside a box, at their own proportions; the box itself; whole scenes.

They are decoded when they are asked for: a frozen backbone sees each of them once.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ctl_lightning.data.crop import WHOLE, area, strips
from ctl_lightning.data.images import Aspect, Interpolation, at_own_proportions, open_upright, to_square
from ctl_lightning.data.pairs import Box


class Strip(NamedTuple):
    """A strip of a scene.

    Attributes:
        picture: its pixels, uint8 (1, 3, H, W).
        area: its share of the scene's area.
    """

    picture: Tensor
    area: float


class ScenePart(NamedTuple):
    """What a key of `ScenePictures` means: a file of a scene, and the box in it; NO_BOX: none."""

    path: Path
    box: Box


class Cut(NamedTuple):
    """How parts of scenes are cut and resized.

    Attributes:
        margin: distance that a box grows on each side before it is cut away, as a share of the image side.
        short_side: side in pixels that the shorter side of a scene has when its strips are cut.
        image_size: side of the square of a box, in pixels.
        aspect: how the box becomes that square.
        interpolation: filter that resizes.
    """

    margin: float
    short_side: int
    image_size: int
    aspect: Aspect
    interpolation: Interpolation


def strips_of(scene: Image.Image, box: Box, cut: Cut) -> list[Strip]:
    """All strips of an upright scene beside a box, as a network sees them; no pixel of the grown box is among them."""
    found = []
    for strip in strips(box, cut.margin):
        pixels = at_own_proportions(scene, None if strip == WHOLE else strip, cut.short_side, cut.interpolation)
        found.append(Strip(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None], area(strip)))
    return found


def box_of(scene: Image.Image, box: Box, cut: Cut) -> Tensor:
    """The pixels of a box of an upright scene as the square that the network sees, uint8 (1, 3, S, S).

    All of the box: it is tight, where of a product's photo the outermost pixels are cut off.
    """
    square = to_square(scene, box, cut.image_size, cut.aspect, cut.interpolation)
    return torch.from_numpy(square.copy()).permute(2, 0, 1)[None]


class ScenePictures:
    """Strips and boxes of scenes on disk.

    Args:
        parts: what each key means.
        cut: how they are cut.
    """

    def __init__(self, parts: Mapping[str, ScenePart], cut: Cut) -> None:
        self._parts = parts
        self._cut = cut
        self._last: tuple[Path, Image.Image] | None = None

    def strips(self, keys: Sequence[str], views: int) -> list[list[Strip]]:
        """The strips of each key. `views` is 0: there are no random ones."""
        return [strips_of(self._scene(key), self._parts[key].box, self._cut) for key in keys]

    def boxes(self, keys: Sequence[str], views: int) -> Tensor:
        """The box of each key, uint8 (B, 3, S, S). `views` is 0: there are no random ones."""
        return torch.cat([box_of(self._scene(key), self._parts[key].box, self._cut) for key in keys])

    def _scene(self, key: str) -> Image.Image:
        path = self._parts[key].path
        if self._last is None or self._last[0] != path:  # keys come sorted: those of one scene follow each other
            self._last = path, open_upright(path)
        return self._last[1]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_last": None}
