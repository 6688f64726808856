"""How anyone's own data is read and checked: pairs.jsonl, categories.json and images/, all problems at once."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ctl_lightning.data.images import open_upright, reason
from ctl_lightning.data.pairs import NAME_ID, PairTable, catalogue_problems, read_pairs
from ctl_lightning.data.pictures.folder import PictureFolder, printable
from ctl_lightning.data.sources.source import Source
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.progress import progress

PAIRS, CATEGORIES, IMAGES = "pairs.jsonl", "categories.json", "images"


@dataclass(frozen=True)
class LooksFolder(Source):
    """The format of anyone's own data.

    `pairs.jsonl` has one pair on each line, {"scene": ID, "product": ID, "bbox": [left, top, right, bottom]}, the box
    normalised to [0, 1]; `categories.json` is one object, product ID -> category; the image of an ID is the file of that
    name anywhere below `images/`, or of that name and an ending (`data/pictures/opening.py` lists them).
    """

    _found: dict[Path, PictureFolder] = field(default_factory=dict, init=False, repr=False, compare=False)

    def read(self, root: Path) -> PairTable:
        """Reads and validates the files. Raises InputError: the first problem, and how to see all of them."""
        table, problems = self._read(root)
        if problems:
            more = f"; {len(problems) - 1} more problems" if len(problems) > 1 else ""
            raise InputError(
                f"{problems[0]}{more}; python -m ctl_lightning.prepare data=folder data.root=DIR lists all"
            )
        return table

    def image_path(self, root: Path, image: str) -> Path:
        """Image file of a scene or product id; if there is none, the first path at which it is looked for."""
        images = self._images(root)
        return (images.find(image) or [images.expected(image)])[0]

    def _images(self, root: Path) -> PictureFolder:
        if root not in self._found:
            self._found[root] = PictureFolder(root / IMAGES)
        return self._found[root]

    def check(self, root: Path) -> list[str]:
        """Every problem of the files in `root`, one message each: wrong format, missing or undecodable images."""
        self._found.pop(root, None)
        table, problems = self._read(root)
        for category, products in table.products_of_category.items():
            if len(products) == 1:
                problems.append(
                    f"{root / CATEGORIES}: category {category!r} has a single product, so it has no negatives"
                )
        return [*problems, *self._image_problems(root, table)]

    def _read(self, root: Path) -> tuple[PairTable, list[str]]:
        for needed in (PAIRS, CATEGORIES, IMAGES):
            if not (root / needed).exists():
                raise InputError(
                    f"data.root={root}: {needed} is not there; this program expects {PAIRS}, {CATEGORIES} and {IMAGES}/ "
                    "(README, 'Your data'); give their folder with data.root=DIR"
                )
        path = root / CATEGORIES
        repeated: list[str] = []
        try:
            content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=partial(_object, repeated))
        except ValueError as error:
            raise InputError(f"{path}: not valid JSON ({error})") from None
        problems = [f"{path}: product {product} has several categories" for product in repeated]
        problems += catalogue_problems(content, path, NAME_ID)
        entries = content.items() if isinstance(content, dict) else ()
        catalogue = {product: category for product, category in entries if isinstance(category, str)}
        pairs = read_pairs(root / PAIRS, catalogue, NAME_ID, problems)
        return PairTable(pairs, catalogue), problems

    def _image_problems(self, root: Path, table: PairTable) -> Iterator[str]:
        wanted = sorted(table.products_of_scene.keys() | table.catalogue.keys())
        both = table.products_of_scene.keys() & table.catalogue.keys()
        for name in sorted(both):
            yield f"{root / PAIRS}: {name} is both a scene and a product"
        images, paths = self._images(root), []
        for name in wanted:
            found = images.find(name)
            if not found:
                yield f"{printable(images.expected(name))}: {images.why_missing(name)}"
                continue
            paths.append(found[0])
            if len(found) > 1:
                several = ", ".join(printable(one.relative_to(root)) for one in found)
                yield f"{root / IMAGES}: {name} has several images: {several}"
        with ThreadPoolExecutor(os.cpu_count()) as pool, progress("checking images", len(paths)) as shown:
            for path, why in zip(paths, pool.map(_unreadable, paths), strict=True):
                shown.advance()
                if why is not None:
                    yield f"{printable(path)}: {why}"


def _object(repeated: list[str], entries: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object as a dict; adds repeated keys, which JSON allows and `dict` would hide, to `repeated`."""
    content = dict(entries)
    if len(content) < len(entries):
        counts = Counter(key for key, _ in entries)
        repeated += [key for key, count in counts.items() if count > 1]
    return content


def _unreadable(path: Path) -> str | None:
    try:
        open_upright(path)
    except OSError as error:
        return reason(error)
    return None
