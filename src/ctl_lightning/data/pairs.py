"""What a pair and the table of all pairs are, and how their files are read and validated."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ctl_lightning.runtime.errors import InputError

Box = tuple[float, float, float, float]
"""(left, top, right, bottom), normalised to [0, 1] of the scene's width and height."""


class IdRule(NamedTuple):
    """What an id may look like, as pattern and in words; it is used in paths and addresses, so it never has a slash."""

    pattern: re.Pattern[str]
    words: str


HEX_ID = IdRule(re.compile(r"[0-9a-f]{32}"), "an id of 32 lower-case hex digits")
NAME_ID = IdRule(
    re.compile(r"\w[\w .()+-]{0,199}"),
    "a name of letters, digits, spaces and . _ - ( ) + that begins with a letter or digit",
)


class Pair(NamedTuple):
    """A person chose `product` for the `box` of `scene`. Several products may share a box."""

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
    """

    pairs: tuple[Pair, ...]
    catalogue: Mapping[str, str]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def products_of_scene(self) -> dict[str, frozenset[str]]:
        """Scene -> every product that any of its pairs names; none of these is ever a negative for that scene."""
        products = defaultdict(set)
        for pair in self.pairs:
            products[pair.scene].add(pair.product)
        return {scene: frozenset(names) for scene, names in products.items()}

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


def catalogue_problems(content: object, where: Path, ids: IdRule) -> Iterator[str]:
    """What is wrong with an object of product -> category: one message for each bad entry.

    A category is named by its full path; "Home & Garden|Decor" is no part of any other category.
    """
    if not isinstance(content, dict) or not content:
        yield f"{where}: expected a JSON object of product -> category"
        return
    for product, category in content.items():
        if not ids.pattern.fullmatch(product):
            yield f"{where}: product {product!r} is not {ids.words}"
        elif not isinstance(category, str) or not category:
            yield f"{where}: the category of product {product} must be a text, not {category!r}"


def read_catalogue(path: Path, ids: IdRule) -> dict[str, str]:
    """Reads product -> category. Raises InputError that names the file and the entry."""
    try:
        content: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    for problem in catalogue_problems(content, path, ids):
        raise InputError(problem)
    return content


def parse_pair(line: str | bytes, where: str, catalogue: Mapping[str, str], ids: IdRule = HEX_ID) -> Pair:
    """Reads a pair from one line {"product", "scene", "bbox": [left, top, right, bottom]} of Shop-the-Look's format.

    Args:
        line: text of one JSON object.
        where: place of the line for error messages, "FILE:LINE".
        catalogue: product -> category.
        ids: rule that scene and product ids must follow.

    Raises:
        InputError: malformed JSON, a missing key, a bad id, a box that is empty or outside [0, 1], an unknown product.
    """
    try:
        row = json.loads(line)
        scene, product, box = row["scene"], row["product"], row["bbox"]
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8"
        raise InputError(f"{where}: not a JSON object ({reason}); mend or remove the line") from None
    except (KeyError, TypeError):
        raise InputError(f"{where}: a line must be an object with the keys product, scene and bbox") from None
    for role, name in (("scene", scene), ("product", product)):
        if not isinstance(name, str) or not ids.pattern.fullmatch(name):
            raise InputError(f"{where}: {role} {name!r} is not {ids.words}")
    if not (isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box)):
        raise InputError(f"{where}: bbox must be four numbers [left, top, right, bottom], not {box!r}")
    try:
        left, top, right, bottom = map(float, box)
    except OverflowError:  # a whole number of hundreds of digits
        left = top = right = bottom = math.nan
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise InputError(f"{where}: box {box} is empty or outside [0, 1]; it is [left, top, right, bottom]")
    if product not in catalogue:
        raise InputError(f"{where}: product {product} has no category; add it to the categories file")
    return Pair(scene, (left, top, right, bottom), product, catalogue[product])


def read_pairs(
    path: Path, catalogue: Mapping[str, str], ids: IdRule = HEX_ID, problems: list[str] | None = None
) -> tuple[Pair, ...]:
    """Reads a file with one JSON object on each line; skips blank lines and repeated pairs.

    Args:
        path: file to read.
        catalogue: product -> category.
        ids: rule that scene and product ids must follow.
        problems: list to which the message of every malformed line is added, and the line skipped; None: see Raises.

    Raises:
        InputError: the first malformed line, if `problems` is None; a file without any pair.
    """
    pairs: dict[Pair, None] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    pairs[parse_pair(line, f"{path}:{number}", catalogue, ids)] = None
                except InputError as error:
                    if problems is None:
                        raise
                    problems.append(str(error))
    if not pairs and not problems:
        raise InputError(f"{path}: no pairs in it")
    return tuple(pairs)
