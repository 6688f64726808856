"""How synthetic looks with an exactly known compatibility are rendered. A test bed, not evidence about fashion.

What a scene shows
    A figure between two walls, dressed in a hat, a top, a bag, pants and shoes, each of some colour and pattern. The
    *season* of the scene is whether the two walls are of one colour or of two: one wall alone says nothing about it.

What a product shows
    A hat or a pair of shoes on white: its colour, its pattern and, as a rim, its lining. Worn, the lining is hidden:
    otherwise a garment of the scene would give the season away. Hats and shoes are sold in four lines each, and each
    line goes with a different garment; the line is the category, and the photo does not show it.

What goes together
    *Global*: the lining's season is the scene's season.
    *Local*: the pattern is the one that goes with the colour of the garment that the category names. Which region
    decides is therefore known.
    A person follows each of the two rules with probability `loyalty`, independently, and otherwise picks any other
    season or pattern. There is no other noise, so the likelihood ratio of a product given a scene and a category is
    known, and with it the *oracle*: no method can have a higher expected AUC.

Why each distance alone has a ceiling below the oracle
    *Global*: it compares a scene crop with a product and is not told the category, which neither picture shows: what is
    left of the local rule is its mean over the four lines. Only the attention knows the category. (Unless the global
    distance learns single photos by heart.)
    *Local*: it is a sum over regions, and with `backbone=small` no region sees both walls. Such a sum is uncorrelated
    with the season, so the ceiling is the local rule alone. This ceiling is not proven: a sum can still order three of
    the four combinations of walls right at the price of the fourth. Whether training finds that has to be measured.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from ctl_lightning.data.pairs import PairTable
from ctl_lightning.data.sources.drawing import (
    DECIDERS,
    PATTERNS,
    SEASONS,
    Attributes,
    SceneTruth,
    category_name,
    draw_product,
    draw_scene,
    kind_and_decider,
)
from ctl_lightning.data.sources.source import Source
from ctl_lightning.data.sources.stl import ShopTheLook
from ctl_lightning.data.sources.truth import Truth
from ctl_lightning.runtime.files import write_text
from ctl_lightning.runtime.progress import progress
from ctl_lightning.runtime.reading import read_json

log = logging.getLogger(__name__)

FORMAT = 4
"""Format version; goes up when equal parameters render other files, so that old files are not taken for new."""


@dataclass(frozen=True)
class SyntheticLooks(Source):
    """Renders the looks once, into a folder in Shop-the-Look's own format, and reads them like real data.

    Attributes:
        scenes: number of scenes, with a figure each; a scene gives two pairs, one for its hat and one for its shoes.
        variants: number of products of each of the 256 combinations of category, colour, pattern and lining.
        loyalty: probability that a person follows a rule, the same for both rules; 1 - loyalty is noise.
        seed: random seed of the rendering; equal parameters render equal bytes.
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

    photos = False
    _files = ShopTheLook(pairs_file="fashion.json", categories_file="fashion-cat.json")

    def _folder(self, root: Path) -> Path:
        key = json.dumps([FORMAT, asdict(self)], sort_keys=True)
        return root / hashlib.sha256(key.encode()).hexdigest()[:12]

    def prepare(self, root: Path) -> None:
        """Renders the looks below `root` unless they are there. The pairs file is written last and marks the end."""
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
        """Reads the rendered files with the reader of Shop-the-Look."""
        return self._files.read(self._folder(root))

    def image_path(self, root: Path, image: str) -> Path:
        """Image file of a scene or product id."""
        return self._files.image_path(self._folder(root), image)

    def truth(self, root: Path) -> Truth:
        """What decides in every scene and what every product shows."""
        content = read_json(self._folder(root) / "truth.json")
        looks = {
            name: SceneTruth(season, colours, {garment: tuple(box) for garment, box in boxes.items()})
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
