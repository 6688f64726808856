"""What a pair and the table of all pairs are, and how their files are read and validated."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ctl_lightning.data.names import NameRule, hex_id_problem
from ctl_lightning.data.tables import json_rows
from ctl_lightning.runtime.errors import InputError, first_of
from ctl_lightning.runtime.reading import shown

Box = tuple[float, float, float, float]
"""(left, top, right, bottom), normalised to [0, 1] of the scene's width and height."""


NO_BOX: Box = (0.0, 0.0, 0.0, 0.0)
"""Box of a pair that has none: nothing is cut out of its scene, which is used whole, so the product is visible in it."""


class Pair(NamedTuple):
    """A person chose `product` for the `box` of `scene`. Several products may share a box; NO_BOX: it is not known where."""

    scene: str
    box: Box
    product: str
    category: str


@dataclass(frozen=True)
class PairTable:
    """All pairs of a source, and its catalogue.

    Attributes:
        pairs: every pair once, in the order of the source.
        catalogue: product -> category; with the products that are in no pair, which serve as negatives.
        left_out: reason -> number of pairs of the source that are not in `pairs` because of it.
        group_of: scene -> the smallest id of its photo, for scenes that have a twin; see `merged`.
    """

    pairs: tuple[Pair, ...]
    catalogue: Mapping[str, str]
    left_out: Mapping[str, int] = field(default_factory=dict)
    group_of: Mapping[str, str] = field(default_factory=dict)

    def group(self, scene: str) -> str:
        """The smallest id of the photo that a scene is: its own, unless it has a twin."""
        return self.group_of.get(scene, scene)

    @cached_property
    def products_of_scene(self) -> dict[str, frozenset[str]]:
        """Scene -> every product that any pair of its photo names; none of these is ever a negative for that scene."""
        products = defaultdict(set)
        for pair in self.pairs:
            products[self.group(pair.scene)].add(pair.product)
        named = {group: frozenset(names) for group, names in products.items()}
        return {pair.scene: named[self.group(pair.scene)] for pair in self.pairs}

    @cached_property
    def products_of_category(self) -> dict[str, tuple[str, ...]]:
        """Category -> its products; categories and products are in alphabetical order."""
        products = defaultdict(list)
        for product, category in sorted(self.catalogue.items()):
            products[category].append(product)
        return {category: tuple(products[category]) for category in sorted(products)}

    def without_categories(self, names: Iterable[str]) -> "PairTable":
        """The table without the named categories. Raises InputError for a name that the catalogue does not have."""
        names = set(names)
        for name in sorted(names - set(self.catalogue.values())):
            known = ", ".join(repr(category) for category in self.products_of_category)
            raise InputError(f"data.exclude_categories: no category {name!r}; there are {known}")
        return PairTable(
            tuple(pair for pair in self.pairs if pair.category not in names),
            {product: category for product, category in self.catalogue.items() if category not in names},
            self.left_out,
        )

    def renamed(self, names: Mapping[str, str]) -> "PairTable":
        """The table of the categories that are a key of `names`, called as it says; the pairs of others are left out."""
        pairs = [pair._replace(category=names[pair.category]) for pair in self.pairs if pair.category in names]
        catalogue = {product: names[category] for product, category in self.catalogue.items() if category in names}
        left_out = Counter(self.left_out)
        left_out["of a category that the checkpoint does not know"] += len(self.pairs) - len(pairs)
        return PairTable(tuple(pairs), catalogue, left_out, self.group_of)

    def merged(
        self, group_of: Mapping[str, str], product_of: Mapping[str, str], own_photos: Collection[str]
    ) -> "PairTable":
        """The table in which pictures that are one photo count as one.

        Args:
            group_of: scene -> the smallest id of its photo, for scenes that have a twin.
            product_of: product -> the product that stands for it, which has the same category; it leaves the catalogue.
            own_photos: scenes that are the photo of a product; their pairs are left out.
        """
        kept: dict[Pair, None] = {}
        left_out = Counter(self.left_out)
        for pair in self.pairs:
            merged = pair._replace(product=product_of.get(pair.product, pair.product))
            if pair.scene in own_photos:
                left_out["scene is a product's photo"] += 1
            elif merged in kept:
                left_out["same photo of a product twice"] += 1
            else:
                kept[merged] = None
        catalogue = {product: name for product, name in self.catalogue.items() if product not in product_of}
        return PairTable(tuple(kept), catalogue, dict(left_out), group_of)


def check_ids(scene: object, product: object, catalogue: Mapping[str, str], ids: NameRule) -> None:
    """Raises ValueError, in words, if the ids of a pair do not follow their rule, or the product is unknown."""
    for role, name in (("scene", scene), ("product", product)):
        if why := ids(name):
            raise ValueError(f"{role} {why}")
    if product not in catalogue:
        raise ValueError(f"product {product} has no category; add it to the products")


def check_box(box: Box) -> None:
    """Raises ValueError, in words, if a box is empty or not within its scene."""
    if not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError(
            f"box {shown(list(box))} is empty or outside [0, 1]; it is [left, top, right, bottom], in shares of the scene"
        )


def listed_box(value: object) -> Box:
    """A box from a list of four numbers. Raises ValueError, in words: no such list."""
    if isinstance(value, (list, tuple)) and len(value) == 4 and all(type(side) in (int, float) for side in value):
        try:
            left, top, right, bottom = map(float, value)
        except OverflowError:  # a whole number of hundreds of digits
            raise ValueError(f"bbox {shown(value)} has a number that is too large") from None
        return left, top, right, bottom
    raise ValueError(f"bbox must be four numbers [left, top, right, bottom], not {shown(value)}")


def read_pairs(path: Path, catalogue: Mapping[str, str], ids: NameRule = hex_id_problem) -> tuple[Pair, ...]:
    """Reads Shop-the-Look's format: {"product", "scene", "bbox": [left, top, right, bottom]} on each line.

    Blank lines and repeated pairs are skipped.

    Args:
        path: file to read.
        catalogue: product -> category.
        ids: rule that scene and product ids must follow.

    Raises:
        InputError: malformed lines, of which it names the first; a file without any pair.
    """
    problems: list[str] = []
    pairs: dict[Pair, None] = {}
    for where, row in json_rows(path, problems):
        try:
            scene, product, box = row["scene"], row["product"], listed_box(row["bbox"])
            check_ids(scene, product, catalogue, ids)
            check_box(box)
        except KeyError:
            problems.append(f"{where}: a line must be an object with the keys product, scene and bbox")
        except ValueError as error:
            problems.append(f"{where}: {error}")
        else:
            pairs[Pair(scene, box, product, catalogue[product])] = None
    if problems:
        raise first_of(problems)
    if not pairs:
        raise InputError(f"{path}: no pairs in it")
    return tuple(pairs)
