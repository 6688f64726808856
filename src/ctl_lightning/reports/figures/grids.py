"""Draws grids of photos: what was retrieved, what the attention looks at, how scenes were cut."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from ctl_lightning.data.pairs import Box
from ctl_lightning.runtime.photo_sheet import PhotoSheet
from ctl_lightning.runtime.plotting import (
    HIT,
    KNOWN,
    MISS,
    Pixels,
    heat_map,
    in_grey,
    outlined,
    short_name,
    with_aspect,
)


class Shown(NamedTuple):
    """A product in a retrieval grid.

    Attributes:
        image: its picture, (S, S, 3).
        aspect: width / height of its photo before it was made square.
        hit: whether it is the true one.
        masked: whether the scene has it in another pair.
    """

    image: Pixels
    aspect: float
    hit: bool
    masked: bool


class Retrieval(NamedTuple):
    """One row of a retrieval grid.

    Attributes:
        category: name of the category.
        scene: the scene crop, (S, S, 3).
        aspect: width / height of the scene crop before it was made square.
        truth: the true product.
        rank: rank of the true product.
        candidates: number of products that were ranked.
        nearest: the nearest products, best first.
    """

    category: str
    scene: Pixels
    aspect: float
    truth: Shown
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
    heading = "blue: the product's box; green: the scene crop, in which nothing of the product is left"
    sheet = PhotoSheet((len(rows) + 1) // 2, 6, 170, heading)
    for number, row in enumerate(rows):
        line, column = number // 2, 3 * (number % 2)
        whole = outlined(outlined(row.scene, row.crop, HIT), row.box, KNOWN)
        sheet.photo(line, column, whole, short_name(row.category))
        sheet.photo(line, column + 1, row.stored, "scene crop")
        sheet.photo(line, column + 2, row.product, "product")
    sheet.write(path)


def twin_sheet(path: Path, rows: Sequence[Sequence[tuple[str, Pixels]]], photos: int) -> None:
    """Draws the first two pictures of photos that are there under several ids, four photos a row.

    Args:
        path: PNG file to write.
        rows: of each photo two pictures (H, W, 3), each with its title.
        photos: number of such photos in the data, of which some are drawn.
    """
    sheet = PhotoSheet(
        (len(rows) + 3) // 4, 8, 120, f"{len(rows)} of {photos:,} photos that are there under several ids"
    )
    for number, row in enumerate(rows):
        for place, (title, picture) in enumerate(row):
            sheet.photo(number // 4, 2 * (number % 4) + place, picture, title)
    sheet.write(path)


def retrieval_grid(path: Path, rows: Sequence[Retrieval]) -> None:
    """Draws scene crop | true product | nearest products; green: the true one, blue: another of the scene, grey: a miss."""
    sheet = PhotoSheet(len(rows), 2 + max(len(row.nearest) for row in rows), 118)
    for number, row in enumerate(rows):
        sheet.photo(number, 0, with_aspect(row.scene, row.aspect), short_name(row.category))
        truth = with_aspect(row.truth.image, row.truth.aspect)
        sheet.photo(number, 1, truth, f"true: rank {row.rank:g} / {row.candidates}", HIT)
        for place, product in enumerate(row.nearest):
            frame = HIT if product.hit else KNOWN if product.masked else MISS
            sheet.photo(number, 2 + place, with_aspect(product.image, product.aspect), f"{place + 1}", frame)
    sheet.write(path)


def attention_overlays(path: Path, rows: Sequence[Overlay], left_out: int) -> None:
    """Draws each scene crop and its attention for each category; the number is the heaviest weight over the mean weight.

    Args:
        path: PNG file to write.
        rows: scene crops.
        left_out: number of categories that are not among the maps.
    """
    drawn = max(len(row.maps) for row in rows)
    heading = "× n: the heaviest region has n times the mean weight"
    if left_out:
        heading += f"; the {drawn} largest of {drawn + left_out} categories"
    sheet = PhotoSheet(len(rows), 1 + drawn, 150, heading)
    for number, row in enumerate(rows):
        scene = with_aspect(row.scene, row.aspect)
        sheet.photo(number, 0, scene, "scene crop")
        heaviest = max(weights.max() for weights in row.maps.values())
        for place, (category, weights) in enumerate(row.maps.items()):
            smooth = np.clip(heat_map(weights, scene.shape[1], scene.shape[0]) / heaviest, 0, 1)
            heat = colormaps["inferno"](smooth)[..., :3] * 255
            blended = (0.5 * in_grey(scene) + 0.5 * heat).round().astype(np.uint8)
            title = f"{short_name(category)}\n× {weights.max() / weights.mean():.1f}"
            sheet.photo(number, 1 + place, blended, title)
    sheet.write(path)
