"""How the pictures of `synthetic.py` are drawn: figures between walls, garments on white, and what a person chooses for a scene."""

from collections.abc import Iterator
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from ctl_lightning.data.pairs import Box

Colour = tuple[int, int, int]

SEASONS = 2
"""Number of seasons, of linings and of wall colours."""

PATTERNS = 4
"""Number of patterns and of garment colours: pattern n goes with colour n."""

SCENE_SIZE = (128, 160)
PRODUCT_SIZE = (96, 96)

COLOURS: tuple[Colour, ...] = ((205, 50, 50), (55, 85, 200), (50, 150, 75), (235, 190, 45))
LININGS: tuple[Colour, ...] = ((240, 130, 190), (70, 200, 215))
WALLS: tuple[Colour, ...] = ((205, 95, 60), (65, 95, 155))
WALL_WIDTH = 0.2
SKIN: Colour = (225, 185, 155)
ROOM: Colour = (226, 222, 214)

DECIDERS = {"Hats": ("Tops", "Bags", "Pants", "Shoes"), "Shoes": ("Hats", "Tops", "Bags", "Pants")}
"""Garment sold -> the garments that its lines go with, one each. All are in the scene crop of the garment sold."""

BOXES: dict[str, Box] = {
    "Hats": (0.32, 0.02, 0.68, 0.15),
    "Tops": (0.30, 0.21, 0.70, 0.44),
    "Pants": (0.36, 0.59, 0.64, 0.81),
    "Shoes": (0.28, 0.87, 0.72, 0.97),
    "Bags": (0.33, 0.43, 0.67, 0.62),
}
"""Box of each garment before the figure is shifted and scaled; garments are drawn in this order."""


SKIN_PARTS: tuple[Box, ...] = (
    (0.43, 0.11, 0.57, 0.23),
    (0.31, 0.40, 0.36, 0.56),
    (0.64, 0.40, 0.69, 0.56),
    (0.40, 0.76, 0.46, 0.91),
    (0.54, 0.76, 0.60, 0.91),
)
"""Boxes of head, hands and ankles before the figure is shifted and scaled."""


class SceneTruth(NamedTuple):
    """What decides in one scene: its season, and the colour number and the box of every garment."""

    season: int
    colours: dict[str, int]
    boxes: dict[str, Box]


class Attributes(NamedTuple):
    """What a product shows: the number of its colour, of its pattern, and of the season of its lining."""

    colour: int
    pattern: int
    season: int


def category_name(kind: str, decider: str) -> str:
    """Category of the products of `kind` that go with the garment `decider`, such as "Hats|To go with shoes"."""
    return f"{kind}|To go with {decider.lower()}"


def kind_and_decider(category: str) -> tuple[str, str]:
    """The kind and the decider of a category: the inverse of `category_name`."""
    kind, line = category.split("|")
    return kind, line.removeprefix("To go with ").capitalize()


def draw_scene(loyalty: float, random: Generator) -> tuple[Image.Image, SceneTruth, list[tuple[str, Attributes]]]:
    """Draws a figure between two walls. Returns image, what decides in it, and the chosen (category, attributes)."""
    walls = random.integers(SEASONS, size=2)
    season = int(walls[0] ^ walls[1])
    worn = {garment: Attributes(*random.integers((PATTERNS, PATTERNS, SEASONS)).tolist()) for garment in BOXES}
    colours = {garment: shown.colour for garment, shown in worn.items()}
    chosen: list[tuple[str, Attributes]] = []
    for kind, deciders in DECIDERS.items():
        decider = deciders[random.permutation(len(deciders))[0]]
        pattern = _choice(colours[decider], PATTERNS, loyalty, random)
        worn[kind] = Attributes(colours[kind], pattern, _choice(season, SEASONS, loyalty, random))
        chosen.append((category_name(kind, decider), worn[kind]))
    width, height = SCENE_SIZE
    image = Image.new("RGB", SCENE_SIZE, _shade(ROOM, random))
    draw = ImageDraw.Draw(image)
    for wall, x in ((walls[0], 0.0), (walls[1], 1 - WALL_WIDTH)):
        draw.rectangle((x * width, 0, (x + WALL_WIDTH) * width, height), fill=_shade(WALLS[wall], random))
    shift, scale = random.uniform(-0.02, 0.02), random.uniform(0.94, 1.0)

    def place(box: Box) -> Box:
        left, top, right, bottom = box
        centre = 0.5 + shift
        return (
            centre + (left - 0.5) * scale,
            0.99 - (0.99 - top) * scale,
            centre + (right - 0.5) * scale,
            0.99 - (0.99 - bottom) * scale,
        )

    boxes = {garment: place(box) for garment, box in BOXES.items()}
    for part in SKIN_PARTS:
        draw.ellipse(_in_pixels(place(part), SCENE_SIZE), fill=_shade(SKIN, random))
    for garment, box in boxes.items():
        _draw_garment(image, garment, box, worn[garment], random)
    return _noisy(image, random), SceneTruth(season, colours, boxes), chosen


def draw_product(kind: str, attributes: Attributes, random: Generator) -> Image.Image:
    """Draws one garment on white, with its lining as a rim."""
    image = Image.new("RGB", PRODUCT_SIZE, (255, 255, 255))
    left, top, right, bottom = BOXES[kind]
    scale = random.uniform(0.70, 0.80) / max((right - left) * SCENE_SIZE[0], (bottom - top) * SCENE_SIZE[1])
    half_width, half_height = (right - left) * SCENE_SIZE[0] * scale / 2, (bottom - top) * SCENE_SIZE[1] * scale / 2
    x, y = 0.5 + random.uniform(-0.03, 0.03, size=2)
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    _draw_garment(image, kind, box, attributes, random, lined=True)
    return _noisy(image, random)


def _choice(rule: int, levels: int, loyalty: float, random: Generator) -> int:
    if random.random() < loyalty:
        return rule
    return int((rule + random.integers(1, levels)) % levels)


def _shade(colour: Colour, random: Generator) -> Colour:
    red, green, blue = (int(value) for value in np.clip(np.array(colour) + random.normal(0, 5, size=3), 0, 255))
    return red, green, blue


def _noisy(image: Image.Image, random: Generator) -> Image.Image:
    noise = random.normal(0, 5, size=(image.height, image.width, 1))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _in_pixels(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    return box[0] * size[0], box[1] * size[1], box[2] * size[0], box[3] * size[1]


def _draw_garment(
    image: Image.Image, garment: str, box: Box, attributes: Attributes, random: Generator, *, lined: bool = False
) -> None:
    x0, y0, x1, y1 = (round(side) for side in _in_pixels(box, image.size))
    size = (max(4, x1 - x0), max(4, y1 - y0))
    mask = _silhouette(garment, size)
    if lined:
        rim = 5
        wide = (size[0] + 2 * rim, size[1] + 2 * rim)
        image.paste(_shade(LININGS[attributes.season], random), (x0 - rim, y0 - rim), _silhouette(garment, wide))
    cloth = Image.new("RGB", size, _shade(COLOURS[attributes.colour], random))
    cloth.paste((250, 250, 250), (0, 0), _pattern(attributes.pattern, size, lined))
    image.paste(cloth, (x0, y0), mask)


@cache
def _silhouette(garment: str, size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    draw = ImageDraw.Draw(mask)
    for kind, points in _shapes(garment):
        scaled = [(x * (size[0] - 1), y * (size[1] - 1)) for x, y in points]
        if kind == "polygon":
            draw.polygon(scaled, fill=255)
        else:
            draw.ellipse([scaled[0], scaled[1]], fill=255)
    return mask


def _shapes(garment: str) -> Iterator[tuple[Literal["polygon", "ellipse"], list[tuple[float, float]]]]:
    if garment == "Hats":
        yield "ellipse", [(0.18, 0.0), (0.82, 1.3)]
        yield "polygon", [(0.0, 0.7), (1.0, 0.7), (1.0, 1.0), (0.0, 1.0)]
    elif garment == "Tops":
        yield (
            "polygon",
            [
                (0.25, 0),
                (0.4, 0),
                (0.5, 0.12),
                (0.6, 0),
                (0.75, 0),
                (1, 0.3),
                (1, 0.85),
                (0.82, 0.85),
                (0.8, 0.45),
                (0.78, 1),
                (0.22, 1),
                (0.2, 0.45),
                (0.18, 0.85),
                (0, 0.85),
                (0, 0.3),
            ],
        )
    elif garment == "Bags":
        yield "polygon", [(0.3, 0), (0.7, 0), (0.78, 0.35), (1, 0.35), (0.92, 1), (0.08, 1), (0, 0.35), (0.22, 0.35)]
    elif garment == "Pants":
        yield "polygon", [(0.05, 0), (0.95, 0), (1, 1), (0.62, 1), (0.5, 0.3), (0.38, 1), (0, 1)]
    else:
        yield "ellipse", [(0.0, 0.25), (0.46, 1.0)]
        yield "ellipse", [(0.54, 0.25), (1.0, 1.0)]
        yield "polygon", [(0.22, 0), (0.44, 0), (0.46, 0.7), (0.2, 0.7)]
        yield "polygon", [(0.56, 0), (0.78, 0), (0.8, 0.7), (0.54, 0.7)]


@cache
def _pattern(pattern: int, size: tuple[int, int], large: bool) -> Image.Image:
    """Mask of a pattern: 0 plain, 1 stripes, 2 dots, 3 bars."""
    period = 14 if large else 8
    y, x = np.mgrid[: size[1], : size[0]]
    stripe = (y % period) < period * 0.35
    if pattern == 0:
        mask = np.zeros(x.shape, bool)
    elif pattern == 1:
        mask = stripe
    elif pattern == 2:
        mask = (x % period - period / 2) ** 2 + (y % period - period / 2) ** 2 < (0.3 * period) ** 2
    else:
        mask = (x % period) < period * 0.35
    return Image.fromarray((mask * 255).astype(np.uint8))
