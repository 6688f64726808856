"""Draws a look: the scene with its box or its attention, and a sheet of the scene and all products."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from ctl_lightning.data.images import open_upright, reason, to_rgb
from ctl_lightning.data.pairs import Box
from ctl_lightning.runtime.photo_sheet import PhotoSheet
from ctl_lightning.runtime.plotting import KNOWN, MISS, Pixels, heat_map, in_grey, outlined, short_name
from ctl_lightning.serving.recommender import Look

SCENE, PRODUCT = 480, 240
"""Longest side of a scene and of a product as they are shown, in pixels."""


def thumbnail(image: Image.Image, side: int) -> Pixels:
    """A picture, (H, W, 3), made smaller if its longest side has more than `side` pixels."""
    small = to_rgb(image)  # a copy, of a mode that can be made smaller
    small.thumbnail((side, side))
    return np.asarray(small)


class Scene(NamedTuple):
    """The pictures of a look's scene, (H, W, 3) each.

    Attributes:
        whole: the whole scene; with a box, the box drawn in it, and pale outside the scene crop.
        attention: for each category, the scene with what the attention looks at; None: the method has no attention.
    """

    whole: Pixels
    attention: Sequence[Pixels | None]


def scene_pictures(look: Look) -> Scene:
    """Draws the pictures of a look's scene."""
    scene = thumbnail(look.photo, SCENE)
    return Scene(
        scene if look.box is None else boxed(scene, look.box, look.kept),
        [None if one.attention is None else attended(scene, look.seen, one.attention) for one in look.answers],
    )


def product_picture(path: Path, side: int = PRODUCT) -> Pixels | str:
    """A catalogue photo, (H, W, 3), with no side longer than `side` pixels; or why there is none, without the file's folder, because anybody may see it."""
    try:
        return thumbnail(open_upright(path), side)
    except OSError as error:
        return f"{path.name}: {reason(error)}"


class Completed(NamedTuple):
    """One category of a look.

    Attributes:
        category: name of the category.
        attention: the scene with what the attention looks at, (H, W, 3); None: the method has no attention.
        products: caption and photo, (H, W, 3), of each product, the best first; in place of a missing photo, why it is
            missing.
    """

    category: str
    attention: Pixels | None
    products: Sequence[tuple[str, Pixels | str]]


def attended(scene: Pixels, seen: Box, weights: NDArray[np.float64]) -> Pixels:
    """A scene in grey with the weights of its regions in colour; darker where the network does not look at all.

    Args:
        scene: picture of the scene, (H, W, 3).
        seen: part of the scene that the regions cover, normalised; it can reach beyond the scene.
        weights: weights of the regions, (grid, grid), rows from top to bottom; the heaviest is the brightest.

    Returns:
        Picture, (H, W, 3).
    """
    height, width = scene.shape[:2]
    grey = in_grey(scene)
    left, top, right, bottom = (
        round(edge * side) for edge, side in zip(seen, (width, height, width, height), strict=True)
    )
    smooth = heat_map(weights, max(1, right - left), max(1, bottom - top))
    heat = colormaps["inferno"](np.clip(smooth / weights.max(), 0, 1))[..., :3] * 255
    picture = np.broadcast_to(grey * 0.45, scene.shape).copy()
    rows, columns = slice(max(0, top), min(height, bottom)), slice(max(0, left), min(width, right))
    inside = heat[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    picture[rows, columns] = 0.5 * grey[rows, columns] + 0.5 * inside
    return picture.round().astype(np.uint8)


def boxed(scene: Pixels, box: Box, kept: Sequence[Box]) -> Pixels:
    """A scene, (H, W, 3), with a box drawn in it, and pale outside the parts that are kept."""
    height, width = scene.shape[:2]
    picture = (255 - (255 - scene.astype(float)) * 0.3).astype(np.uint8)
    for part in kept:
        inside = [round(edge * side) for edge, side in zip(part, (width, height, width, height), strict=True)]
        rows, columns = slice(inside[1], inside[3]), slice(inside[0], inside[2])
        picture[rows, columns] = scene[rows, columns]
    return outlined(picture, box, KNOWN)


def look_sheet(path: Path, scene: Pixels, rows: Sequence[Completed], left_out: int) -> None:
    """Draws the scene | one row per category: what the attention looks at, and the best products with captions.

    Args:
        path: PNG file to write.
        scene: the scene, (H, W, 3).
        rows: the categories that are drawn.
        left_out: number of categories that are not.
    """
    columns = max((len(row.products) for row in rows), default=0)
    heading = "rank · distance (smaller goes better) · probability; dark or pale: what is not looked at"
    if left_out:
        heading += f"; {left_out} of {len(rows) + left_out} categories, those with fewer products, are not drawn"
    span = min(max(len(rows), 2), 3)
    sheet = PhotoSheet(max(len(rows), 2), span + 1 + columns, 150, heading)
    sheet.photo(0, 0, scene, "the scene", span=span)
    for number, row in enumerate(rows):
        sheet.photo(number, span, scene if row.attention is None else row.attention, short_name(row.category))
        for place, (caption, photo) in enumerate(row.products):
            if isinstance(photo, str):
                sheet.words(number, span + 1 + place, photo, caption)
            else:
                sheet.photo(number, span + 1 + place, photo, caption, MISS)
    sheet.write(path)
