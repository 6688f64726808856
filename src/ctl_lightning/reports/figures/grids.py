"""Draws grids of photos: what was retrieved, what the attention looks at, how scenes were cut."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ctl_lightning.data.pairs import Box
from ctl_lightning.runtime.plotting import (
    HIT,
    KNOWN,
    MISS,
    Pixels,
    heat_map,
    in_grey,
    save_figure,
    short_name,
    show_image,
    with_aspect,
)


class Shown(NamedTuple):
    """A product in a retrieval grid: its picture, whether it is the true one, whether the scene has it in another pair."""

    image: Pixels
    hit: bool
    masked: bool


class Retrieval(NamedTuple):
    """One row of a retrieval grid.

    Attributes:
        category: name of the category.
        scene: the scene crop, (S, S, 3).
        aspect: width / height of the scene crop before it was made square.
        truth: picture of the true product, (S, S, 3).
        rank: rank of the true product.
        candidates: number of products that were ranked.
        nearest: the nearest products, best first.
    """

    category: str
    scene: Pixels
    aspect: float
    truth: Pixels
    rank: float
    candidates: int
    nearest: Sequence[Shown]


class Overlay(NamedTuple):
    """A row of an attention picture: scene crop, its width / height, and category -> weights of its regions, (grid, grid)."""

    scene: Pixels
    aspect: float
    maps: Mapping[str, NDArray[np.float64]]


class Cut(NamedTuple):
    """One pair of a crop sheet.

    Attributes:
        category: name of the category.
        scene: the whole scene, (H, W, 3).
        box: box of the product in the scene, normalised.
        crop: scene crop: what is left of the scene, normalised.
        stored: the scene crop as it is stored for the network, (S, S, 3).
        product: the product as it is stored for the network, (S, S, 3).
    """

    category: str
    scene: Pixels
    box: Box
    crop: Box
    stored: Pixels
    product: Pixels


def crop_sheet(path: Path, rows: Sequence[Cut]) -> None:
    """Draws the whole scene with the product's box (blue) and the scene crop (green) | stored crop | stored product.

    Each row of the sheet has two pairs.
    """
    lines = (len(rows) + 1) // 2
    figure = Figure(figsize=(9.5, 2.0 * lines), layout="constrained")
    grid = figure.subplots(lines, 6, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    figure.suptitle(
        "blue: the product's box; green: the scene crop, in which nothing of the product is left", fontsize=8
    )
    for number, row in enumerate(rows):
        whole, stored, product = grid[number // 2, 3 * (number % 2) : 3 * (number % 2) + 3]
        whole.set_axis_on()
        show_image(whole, row.scene)
        height, width = row.scene.shape[:2]
        for colour, (left, top, right, bottom) in ((HIT, row.crop), (KNOWN, row.box)):
            corner = (left * width, top * height)
            size = ((right - left) * width, (bottom - top) * height)
            whole.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=2))
        whole.set_title(short_name(row.category), fontsize=7)
        for axes, picture, title in ((stored, row.stored, "scene crop"), (product, row.product, "product")):
            axes.set_axis_on()
            show_image(axes, picture)
            axes.set_title(title, fontsize=7)
    save_figure(figure, path)


def retrieval_grid(path: Path, rows: Sequence[Retrieval]) -> None:
    """Draws scene crop | true product | nearest products; green: the true one, blue: another of the scene, grey: a miss."""
    columns = 2 + max(len(row.nearest) for row in rows)
    figure = Figure(figsize=(1.15 * columns, 1.45 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for number, row in enumerate(rows):
        show_image(grid[number, 0], with_aspect(row.scene, row.aspect))
        grid[number, 0].set_title(short_name(row.category), fontsize=7)
        show_image(grid[number, 1], row.truth, HIT)
        grid[number, 1].set_title(f"true: rank {row.rank:g} / {row.candidates}", fontsize=7)
        for place, axes in enumerate(grid[number, 2:]):
            if place < len(row.nearest):
                product = row.nearest[place]
                show_image(axes, product.image, HIT if product.hit else KNOWN if product.masked else MISS)
                axes.set_title(f"{place + 1}", fontsize=7)
            else:
                axes.set_visible(False)
    save_figure(figure, path)


def attention_overlays(path: Path, rows: Sequence[Overlay]) -> None:
    """Draws each scene crop and its attention for each category; the number is the heaviest weight over the mean weight."""
    columns = 1 + max(len(row.maps) for row in rows)
    figure = Figure(figsize=(1.5 * columns, 1.85 * len(rows)), layout="constrained")
    figure.suptitle("× n: the heaviest region has n times the mean weight", fontsize=8)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for number, row in enumerate(rows):
        scene = with_aspect(row.scene, row.aspect)
        show_image(grid[number, 0], scene)
        grid[number, 0].set_title("scene crop", fontsize=7)
        grey = np.repeat(in_grey(scene), 3, axis=2).astype(np.uint8)
        heaviest = max(weights.max() for weights in row.maps.values())
        for axes, (category, weights) in zip(grid[number, 1:], row.maps.items(), strict=False):
            show_image(axes, grey)
            smooth = heat_map(weights, scene.shape[1], scene.shape[0])
            axes.imshow(smooth, cmap="inferno", alpha=0.5, vmin=0, vmax=heaviest)
            axes.set_title(f"{short_name(category)}\n× {weights.max() / weights.mean():.1f}", fontsize=7)
        for axes in grid[number, 1 + len(row.maps) :]:
            axes.set_visible(False)
    save_figure(figure, path)
