"""Draws a look: the scene with its box or its attention, and a sheet of the scene and all products."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ctl_lightning.data.pairs import Box
from ctl_lightning.runtime.plotting import MISS, Pixels, heat_map, in_grey, save_figure, short_name, show_image


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


def boxed(scene: Pixels, box: Box, kept: Box) -> Pixels:
    """A scene, (H, W, 3), with a box drawn in it, and pale outside the part that is kept."""
    height, width = scene.shape[:2]
    (left, top, right, bottom), inside = (
        [round(edge * side) for edge, side in zip(part, (width, height, width, height), strict=True)]
        for part in (box, kept)
    )
    picture = (255 - (255 - scene.astype(float)) * 0.3).astype(np.uint8)
    rows, columns = slice(inside[1], inside[3]), slice(inside[0], inside[2])
    picture[rows, columns] = scene[rows, columns]
    line = max(2, round(max(height, width) / 150))
    for rows, columns in (
        (slice(top, top + line), slice(left, right)),
        (slice(max(0, bottom - line), bottom), slice(left, right)),
        (slice(top, bottom), slice(left, left + line)),
        (slice(top, bottom), slice(max(0, right - line), right)),
    ):
        picture[rows, columns] = (31, 119, 180)  # tab:blue
    return picture


def look_sheet(path: Path, scene: Pixels, rows: Sequence[Completed]) -> None:
    """Draws the scene | one row per category: what the attention looks at, and the best products with captions."""
    columns = max((len(row.products) for row in rows), default=0)
    figure = Figure(figsize=(2.6 + 1.5 * (columns + 1), 0.3 + 1.95 * max(len(rows), 2)), layout="constrained")
    grid = figure.add_gridspec(max(len(rows), 2), columns + 2, width_ratios=[1.8, *[1] * (columns + 1)])
    figure.suptitle(
        "rank · distance (smaller goes better) · probability; dark or pale: what is not looked at", fontsize=8
    )
    whole = figure.add_subplot(grid[:2, 0])
    show_image(whole, scene)
    whole.set_title("the scene", fontsize=8)
    for number, row in enumerate(rows):
        axes = figure.add_subplot(grid[number, 1])
        show_image(axes, scene if row.attention is None else row.attention)
        axes.set_title(short_name(row.category), fontsize=8, parse_math=False)
        for place, (caption, photo) in enumerate(row.products):
            axes = figure.add_subplot(grid[number, 2 + place])
            axes.set_title(caption, fontsize=7, parse_math=False)
            if isinstance(photo, str):
                axes.text(
                    0.5,
                    0.5,
                    fill(photo, 20),
                    ha="center",
                    va="center",
                    fontsize=6,
                    transform=axes.transAxes,
                    parse_math=False,
                )
                axes.set(xticks=[], yticks=[])
            else:
                show_image(axes, photo, MISS)
    save_figure(figure, path)
