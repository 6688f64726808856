"""How anyone's own data is read and checked: a file of pairs, one of products, and images/, all problems at once."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ctl_lightning.data.crop import crop_key
from ctl_lightning.data.images import open_upright, reason, size_upright
from ctl_lightning.data.names import id_problem
from ctl_lightning.data.pairs import Pair, PairTable
from ctl_lightning.data.pictures.folder import PictureFolder, printable
from ctl_lightning.data.products import read_products
from ctl_lightning.data.sources.pair_rows import FIELDS, OPTION, PairRows
from ctl_lightning.data.sources.source import Source
from ctl_lightning.runtime.errors import InputError, first_of, suggestion
from ctl_lightning.runtime.progress import progress
from ctl_lightning.runtime.reading import shown

PAIRS = ("pairs.jsonl", "pairs.csv", "pairs.parquet")
PRODUCTS = ("categories.json", "products.csv", "products.parquet")
IMAGES = "images"


@dataclass(frozen=True)
class LooksFolder(Source):
    """The format of anyone's own data: `pairs.*`, `categories.json` or `products.*`, and `images/`.

    A row of `pairs.jsonl`, `pairs.csv` or `pairs.parquet` has a scene, a product, and the product's box in the scene: `bbox`, a list
    [left, top, right, bottom], or the fields left, top, right and bottom, in shares of the scene; or x, y, width and height in pixels;
    or no box: its scene is then used whole. `categories.json` is one object, product -> category; `products.csv` and
    `products.parquet` have these two columns; there is no such file if the pairs have a category. The image of an ID is the file of
    that name anywhere below `images/`, or of that name and an ending (`data/pictures/opening.py` lists them).

    Attributes:
        columns: field of a row -> the name that it has in the files, where that is another one.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    _found: dict[Path, PictureFolder] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in FIELDS:
                raise ValueError(
                    f"source.columns has no {name!r}{suggestion(name, FIELDS)}; there are: {', '.join(FIELDS)}"
                )

    def read(self, root: Path) -> PairTable:
        """Reads and validates the files. Raises InputError: the first problem, and how to see all of them."""
        table, problems, _ = self._read(root)
        if problems:
            raise InputError(
                f"{first_of(problems)}; python -m ctl_lightning.prepare data=folder data.root=DIR lists all"
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
        table, problems, unsized = self._read(root)
        for category, products in table.products_of_category.items():
            if len(products) == 1:
                problems.append(
                    f"{_one_of(root, PRODUCTS) or root}: category {shown(category)} has a single product, so it has no negatives"
                )
        return [*problems, *self._image_problems(root, table, unsized)]

    def _read(self, root: Path) -> tuple[PairTable, list[str], set[str]]:
        """The table, all problems, and the scenes whose box is in pixels but whose size is not known."""
        pairs_file, products_file = _one_of(root, PAIRS), _one_of(root, PRODUCTS)
        if pairs_file is None or not (root / IMAGES).is_dir():
            raise _missing(root, IMAGES if pairs_file else PAIRS[0])
        problems: list[str] = []
        rows = PairRows(pairs_file, self.columns, lambda scene: size_upright(self.image_path(root, scene)))
        if products_file is not None:
            names = {name: self.columns.get(name, name) for name in ("product", "category")}
            catalogue = read_products(products_file, id_problem, problems, names, OPTION)
        else:
            catalogue = rows.products(problems)
            if not (catalogue or problems):
                raise _missing(root, PRODUCTS[0])
        pairs, unsized = rows.pairs(catalogue, products_file, problems)
        problems += _crops_and_products(pairs, catalogue)
        left_out = {"scene missing or unreadable": sum(unsized.values())} if unsized else {}
        return PairTable(pairs, catalogue, left_out), problems, {*unsized}

    def _image_problems(self, root: Path, table: PairTable, unsized: set[str]) -> Iterator[str]:
        wanted = sorted(table.products_of_scene.keys() | table.catalogue.keys() | unsized)
        both = table.products_of_scene.keys() & table.catalogue.keys()
        for name in sorted(both):
            yield f"{root}: {name} is both a scene and a product"
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
        with ThreadPoolExecutor(os.cpu_count()) as pool, progress("checking images", len(paths)) as bar:
            for path, why in zip(paths, pool.map(_unreadable, paths), strict=True):
                bar.advance()
                if why is not None:
                    yield f"{printable(path)}: {why}"


def _one_of(root: Path, names: Sequence[str]) -> Path | None:
    """The one file of these names that is in `root`; None: there is none. Raises InputError: there are several."""
    there = [root / name for name in names if (root / name).exists()]
    if len(there) > 1:
        raise InputError(f"data.root={root}: {' and '.join(path.name for path in there)} are both there; leave one")
    return there[0] if there else None


def _missing(root: Path, name: str) -> InputError:
    return InputError(
        f"data.root={root}: {name} is not there; this program expects {PAIRS[0]} (or .csv, .parquet), {PRODUCTS[0]} (or products.csv, "
        f"products.parquet, or a category in the pairs) and {IMAGES}/ (docs/data.md); give their folder with data.root=DIR"
    )


def _crops_and_products(pairs: Iterable[Pair], catalogue: Mapping[str, str]) -> Iterator[str]:
    """Products that have the name under which a scene crop is stored."""
    if odd := {product for product in catalogue if "@" in product}:
        for name in odd & {crop_key(pair.scene, pair.box) for pair in pairs}:
            yield f"product {shown(name)} has the name of a scene crop; give it another one"


def _unreadable(path: Path) -> str | None:
    try:
        open_upright(path)
    except OSError as error:
        return reason(error)
    return None
