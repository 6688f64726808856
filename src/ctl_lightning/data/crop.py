"""What is left of a scene without the product's box: the scene crop (Kang et al. 2019, section 3.1), all strips, numbers alone."""

import math

from ctl_lightning.data.pairs import NO_BOX, Box

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
"""All of a scene."""

LEAST = 0.08
"""Smallest area of a strip, as a share of the scene, and smallest side, as a share of the scene's, that is worth a look."""


def scene_crop(box: Box, margin: float) -> Box:
    """The largest of the four strips above, below, left and right of the box, after the box has grown by a margin.

    Args:
        box: box of the product in the scene.
        margin: distance that each side of the box moves outwards, as a share of the image side, such as 0.05.

    Returns:
        The strip as a box; empty (area 0) if the grown box covers the scene; the whole scene for NO_BOX.
    """
    if box == NO_BOX:
        return WHOLE
    return max(_beside(box, margin), key=area)


def _beside(box: Box, margin: float) -> tuple[Box, ...]:
    """The strips above, below, left and right of a box that has grown by a margin."""
    left, top = max(0.0, box[0] - margin), max(0.0, box[1] - margin)
    right, bottom = min(1.0, box[2] + margin), min(1.0, box[3] + margin)
    return (0.0, 0.0, 1.0, top), (0.0, bottom, 1.0, 1.0), (0.0, 0.0, left, 1.0), (right, 0.0, 1.0, 1.0)


def area(box: Box) -> float:
    """The box's share of the image's area."""
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def to_pixels(crop: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a crop in pixels, rounded inwards to keep the grown box out; at least one pixel."""
    left, top, right, bottom = crop
    x0, y0 = math.ceil(left * width), math.ceil(top * height)
    x1, y1 = math.floor(right * width), math.floor(bottom * height)
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def crop_key(scene: str, box: Box) -> str:
    """Key of a scene crop in the image store."""
    return f"{scene}@{','.join(map(str, box))}"


def strips(box: Box, margin: float) -> list[Box]:
    """All strips beside the box that are worth a look, the largest, which is the scene crop, first.

    Args:
        box: box of the product in the scene.
        margin: distance that each side of the box moves outwards, as a share of the image side, such as 0.05.

    Returns:
        The scene crop, then those other strips whose area and sides are at least LEAST; the whole scene for NO_BOX.
    """
    first = scene_crop(box, margin)
    others = [strip for strip in _beside(box, margin) if box != NO_BOX and strip != first]
    worth = [one for one in others if min(area(one), one[2] - one[0], one[3] - one[1]) >= LEAST]
    return [first, *sorted(worth, key=area, reverse=True)]


GEOMETRY = 9
"""Number of values of `geometry`."""


def geometry(box: Box, margin: float) -> tuple[float, ...]:
    """What can be known of a product from its box alone, without a pixel: GEOMETRY numbers.

    The four sides, width, height, area, logarithm of width over height, and the area of the scene crop.
    """
    width, height = max(box[2] - box[0], 1e-6), max(box[3] - box[1], 1e-6)
    return *box, width, height, width * height, math.log(width / height), area(scene_crop(box, margin))
