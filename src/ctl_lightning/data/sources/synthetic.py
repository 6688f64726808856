"""Synthetic looks: rendered figures with a compatibility that is known exactly. A test bed, not evidence about fashion.

What a scene shows
    A figure between two walls, dressed in a hat, a top, a bag, pants and shoes, each of some colour and pattern. The
    *season* of the scene is whether the two walls are of one colour or of two: one wall alone says nothing about it.

What a product shows
    A hat or a pair of shoes on white: its colour, its pattern and, as a rim, its lining. Worn, the lining is hidden:
    otherwise a garment of the scene would give the season away. Hats and shoes are sold in four lines each, every
    line to go with another garment; the line is the category, and the photo does not show it.

What goes together
    *Global*: the lining's season is the scene's season.
    *Local*: the pattern is the one that goes with the colour of the garment that the category names. Which region
    decides is therefore known.
    A person follows each of the two rules with probability `loyalty`, independently, and otherwise picks any other
    season or pattern. That is the whole noise, so the likelihood ratio of a product given a scene and a category is
    known, and with it the *oracle*: no method can have a higher expected AUC.

Why each distance alone has a ceiling below the oracle
    *Global*: it compares a scene crop with a product and is not told the category, which neither picture shows: what is
    left of the local rule is its mean over the four lines. Only the attention knows the category. (Short of learning
    single photos by heart.)
    *Local*: it is a sum over regions, and with `backbone=small` none of them sees both walls. Such a sum is uncorrelated
    with the season, so the ceiling is the local rule alone. This one is no theorem: a sum can still order three of the four
    combinations of walls right at the price of the fourth. Whether training finds that is a matter of measurement.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ctl_lightning.data.pairs import Box, Pair, PairTable
from ctl_lightning.data.sources.stl import ShopTheLook
from ctl_lightning.runtime.files import write_text
from ctl_lightning.runtime.progress import progress

log = logging.getLogger(__name__)

Colour = tuple[int, int, int]
Knowledge = Literal["oracle", "global", "local"]

FORMAT = 4
"""Counts up when equal parameters would be rendered otherwise, so that old renderings are not taken for new ones."""

SEASONS = 2
"""So many seasons, linings and wall colours."""

PATTERNS = 4
"""So many patterns and garment colours: pattern n goes with colour n."""

SCENE_SIZE = (128, 160)
PRODUCT_SIZE = (96, 96)

COLOURS: tuple[Colour, ...] = ((205, 50, 50), (55, 85, 200), (50, 150, 75), (235, 190, 45))
LININGS: tuple[Colour, ...] = ((240, 130, 190), (70, 200, 215))
WALLS: tuple[Colour, ...] = ((205, 95, 60), (65, 95, 155))
WALL_WIDTH = 0.2
SKIN: Colour = (225, 185, 155)
ROOM: Colour = (226, 222, 214)

DECIDERS = {"Hats": ("Tops", "Bags", "Pants", "Shoes"), "Shoes": ("Hats", "Tops", "Bags", "Pants")}
"""What is sold -> the garments that its lines go with. All of them are in the scene crop of what is sold."""

BOXES: dict[str, Box] = {
    "Hats": (0.32, 0.02, 0.68, 0.15),
    "Tops": (0.30, 0.21, 0.70, 0.44),
    "Pants": (0.36, 0.59, 0.64, 0.81),
    "Shoes": (0.28, 0.87, 0.72, 0.97),
    "Bags": (0.33, 0.43, 0.67, 0.62),
}
"""Where each garment sits before the figure is jittered; in the order in which they are drawn."""


SKIN_PARTS: tuple[Box, ...] = (
    (0.43, 0.11, 0.57, 0.23),
    (0.31, 0.40, 0.36, 0.56),
    (0.64, 0.40, 0.69, 0.56),
    (0.40, 0.76, 0.46, 0.91),
    (0.54, 0.76, 0.60, 0.91),
)
"""Head, hands and ankles."""


class Look(NamedTuple):
    """What decides in one scene: the season, and colour and box of every garment."""

    season: int
    colours: dict[str, int]
    boxes: dict[str, Box]


class Attributes(NamedTuple):
    """What a product shows: its colour, its pattern, and the season of its lining."""

    colour: int
    pattern: int
    season: int


@dataclass(frozen=True)
class Truth:
    """What the generator knows of its own looks, by id."""

    loyalty: float
    looks: dict[str, Look]
    products: dict[str, Attributes]

    def distance(self, pair: Pair, products: Sequence[str], knowledge: Knowledge) -> NDArray[np.float64]:
        """Minus the log-likelihood ratio of each product given the pair's scene and category, (len(products),).

        Args:
            pair: whose scene and category.
            products: products of that category.
            knowledge: of everything (the oracle), or of what the global or the local distance can know (the ceilings).
        """
        look = self.looks[pair.scene]
        shown = np.array([self.products[product] for product in products])
        kind, decider = kind_and_decider(pair.category)
        deciders = DECIDERS[kind] if knowledge == "global" else (decider,)
        patterns = np.mean(
            [self._ratio(shown[:, 1] == look.colours[garment], PATTERNS) for garment in deciders], axis=0
        )
        seasons = self._ratio(shown[:, 2] == look.season, SEASONS) if knowledge != "local" else np.ones(len(shown))
        return -np.log(patterns) - np.log(seasons)

    def _ratio(self, follows: NDArray[np.bool_], levels: int) -> NDArray[np.float64]:
        """How much likelier than in the whole catalogue, where every season and every pattern is equally frequent."""
        return np.where(follows, self.loyalty, (1 - self.loyalty) / (levels - 1)) * levels

    def deciding_box(self, pair: Pair) -> Box:
        """The box, in the whole scene, of the garment that decides this pair's category."""
        return self.looks[pair.scene].boxes[kind_and_decider(pair.category)[1]]


def category_name(kind: str, decider: str) -> str:
    """The category of the line of `kind` that goes with the garment `decider`."""
    return f"{kind}|To go with {decider.lower()}"


def kind_and_decider(category: str) -> tuple[str, str]:
    """The inverse of `category_name`."""
    kind, line = category.split("|")
    return kind, line.removeprefix("To go with ").capitalize()


@dataclass(frozen=True)
class SyntheticLooks:
    """Renders the looks into a folder of Shop-the-Look's own format, once, and reads them like any other.

    Attributes:
        scenes: how many figures; each gives two pairs: a hat and a pair of shoes.
        variants: how many products there are of each of the 256 combinations of category, colour, pattern and lining.
        loyalty: the probability with which a person follows each of the two rules; 1 - loyalty is noise.
        seed: equal parameters render equal bytes.
    """

    scenes: int
    variants: int
    loyalty: float
    seed: int

    def __post_init__(self) -> None:
        if self.scenes < 1 or self.variants < 1:
            raise ValueError("scenes and variants must be at least 1")
        if not 0.5 < self.loyalty < 1:
            raise ValueError(f"loyalty must lie between 0.5 (no rule at all) and 1, not {self.loyalty}")

    _files = ShopTheLook(pairs_file="fashion.json", categories_file="fashion-cat.json")

    def _folder(self, root: Path) -> Path:
        key = json.dumps([FORMAT, asdict(self)], sort_keys=True)
        return root / hashlib.sha256(key.encode()).hexdigest()[:12]

    def prepare(self, root: Path) -> None:
        """Renders what is missing below `root`, which is kept; the last file to be written is the pairs file."""
        folder = self._folder(root)
        if (folder / self._files.pairs_file).exists():
            return
        log.info("rendering %d synthetic scenes, once: %s", self.scenes, folder)
        categories: dict[str, str] = {}
        shelf: dict[tuple[str, Attributes], list[str]] = {}
        truth: dict[str, dict[str, object]] = {"looks": {}, "products": {}}
        kinds = [
            (category_name(kind, decider), Attributes(*attributes))
            for kind, deciders in DECIDERS.items()
            for decider in deciders
            for attributes in product(range(PATTERNS), range(PATTERNS), range(SEASONS))
        ]
        rows = []
        with progress("rendering synthetic looks", len(kinds) * self.variants + self.scenes) as shown:
            for category, attributes in kinds:
                for variant in range(self.variants):
                    name = self._name("product", category, *attributes, variant)
                    categories[name] = category
                    shelf.setdefault((category, attributes), []).append(name)
                    truth["products"][name] = attributes
                    self._save(
                        folder, name, draw_product(kind_and_decider(category)[0], attributes, self._random(name))
                    )
                    shown.advance()
            for number in range(self.scenes):
                name = self._name("scene", number)
                random = self._random(name)
                image, look, chosen = draw_scene(self.loyalty, random)
                self._save(folder, name, image)
                truth["looks"][name] = look
                for category, attributes in chosen:
                    box = [round(side, 6) for side in look.boxes[kind_and_decider(category)[0]]]
                    choice = shelf[category, attributes][random.integers(self.variants)]
                    rows.append({"product": choice, "scene": name, "bbox": box})
                shown.advance()
        write_text(folder / "truth.json", json.dumps(truth))
        write_text(folder / self._files.categories_file, json.dumps(categories, indent=0))
        write_text(folder / self._files.pairs_file, "".join(json.dumps(row) + "\n" for row in rows))

    def read(self, root: Path) -> PairTable:
        """Reads the rendered files with the reader of the real data."""
        return self._files.read(self._folder(root))

    def image_path(self, root: Path, image: str) -> Path:
        """Where the image of a scene's or product's id lies."""
        return self._files.image_path(self._folder(root), image)

    def truth(self, root: Path) -> Truth:
        """What decides in every scene and what every product shows."""
        content = json.loads((self._folder(root) / "truth.json").read_text(encoding="utf-8"))
        looks = {
            name: Look(season, colours, {garment: tuple(box) for garment, box in boxes.items()})
            for name, (season, colours, boxes) in content["looks"].items()
        }
        return Truth(self.loyalty, looks, {name: Attributes(*shown) for name, shown in content["products"].items()})

    def _name(self, *key: object) -> str:
        return hashlib.blake2b(repr((self.seed, *key)).encode(), digest_size=16).hexdigest()

    @staticmethod
    def _random(name: str) -> Generator:
        return np.random.default_rng(int(name, 16))

    def _save(self, folder: Path, name: str, image: Image.Image) -> None:
        path = self._files.image_path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)


def draw_scene(loyalty: float, random: Generator) -> tuple[Image.Image, Look, list[tuple[str, Attributes]]]:
    """One figure between its walls. Returns the image, what decides in it, and the (category, attributes) chosen for it."""
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
    return _noisy(image, random), Look(season, colours, boxes), chosen


def draw_product(kind: str, attributes: Attributes, random: Generator) -> Image.Image:
    """One garment on white, with its lining as a rim."""
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
    """Plain, stripes, dots or bars, as a mask."""
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
