"""How anyone's own data is read and checked: a file of pairs, one of products, and images/, all problems at once."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctl_lightning.data.boxes import PIXELS, SHARES, box_of
from ctl_lightning.data.crop import crop_key
from ctl_lightning.data.images import open_upright, reason, size_upright
from ctl_lightning.data.names import id_problem
from ctl_lightning.data.pairs import NO_BOX, Pair, PairTable, check_box, check_ids
from ctl_lightning.data.products import id_of, products_of, read_products
from ctl_lightning.data.sources.source import Source
from ctl_lightning.data.tables import Row, Table, read_table
from ctl_lightning.runtime.errors import InputError, first_of, suggestion
from ctl_lightning.runtime.progress import progress
from ctl_lightning.runtime.reading import shown

PAIRS = ("pairs.jsonl", "pairs.csv", "pairs.parquet")
PRODUCTS = ("categories.json", "products.csv", "products.parquet")
IMAGES = "images"

FIELDS = ("scene", "product", "category", "bbox", *SHARES, *PIXELS)
"""What a row of pairs can have."""

OPTION = "'data.source.columns.FIELD=NAME', of the fields " + ", ".join(FIELDS)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def images_below(folder: Path) -> dict[str, list[Path]]:
    """File name without its ending -> the image files of that name anywhere below `folder`, in alphabetical order."""
    found: dict[str, list[Path]] = {}
    for where, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(where, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                found.setdefault(path.stem, []).append(path)
    return {name: sorted(paths) for name, paths in found.items()}


@dataclass(frozen=True)
class LooksFolder(Source):
    """The format of anyone's own data: `pairs.*`, `categories.json` or `products.*`, and `images/`.

    A row of `pairs.jsonl`, `pairs.csv` or `pairs.parquet` has a scene, a product, and the product's box in the scene: `bbox`, a list
    [left, top, right, bottom], or the fields left, top, right and bottom, in shares of the scene; or x, y, width and height in pixels;
    or no box: its scene is then used whole. `categories.json` is one object, product -> category; `products.csv` and
    `products.parquet` have these two columns; there is no such file if the pairs have a category. The image of an ID is `ID.jpg`,
    `.jpeg`, `.png` or `.webp` anywhere below `images/`.

    Attributes:
        columns: field of a row -> the name that it has in the files, where that is another one.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    _found: dict[Path, dict[str, list[Path]]] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        if root not in self._found:
            self._found[root] = images_below(root / IMAGES)
        return self._found[root].get(image, [root / IMAGES / f"{image}.jpg"])[0]

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
        pairs, products = _one_of(root, PAIRS), _one_of(root, PRODUCTS)
        problems: list[str] = []
        if pairs is None or not (root / IMAGES).is_dir():
            raise _missing(root, IMAGES if pairs else PAIRS[0])
        if products is not None:
            names = {name: self._name(name) for name in ("product", "category")}
            catalogue = read_products(products, id_problem, problems, names, OPTION)
        else:
            catalogue = self._products_in_pairs(root, pairs, problems)
        table = read_table(pairs, problems)
        table.require([self._name("scene"), self._name("product")], OPTION)
        found: dict[Pair, None] = {}
        unsized: Counter[str] = Counter()
        sizes: dict[str, tuple[int, int]] = {}
        for where, row in _until_unreadable(table, problems):
            try:
                pair = self._pair(root, row, catalogue, sizes, table.columns is None)
            except ValueError as error:
                problems.append(f"{where}: {error}")
            except _UnknownSizeError as error:
                unsized[error.scene] += 1
            else:
                found[pair] = None
                said = row.get(self._name("category"))
                if products is not None and said not in (None, "", pair.category):
                    problems.append(
                        f"{where}: product {pair.product} has several categories: {shown(said)} here, {shown(pair.category)} in {products}"
                    )
        if not found and not problems and not unsized:
            problems.append(f"{pairs}: no pairs in it")
        problems += _crops_and_products(found, catalogue)
        left_out = {"scene missing or unreadable": unsized.total()} if unsized else {}
        return PairTable(tuple(found), catalogue, left_out), problems, {*unsized}

    def _name(self, name: str) -> str:
        return self.columns.get(name, name)

    def _products_in_pairs(self, root: Path, pairs: Path, problems: list[str]) -> dict[str, str]:
        """Product -> category from the rows of pairs. Raises InputError: they have no category."""
        rows = read_table(pairs, []).rows
        said = [
            (where, (product, row[category]))
            for category in [self._name("category")]
            for where, row in rows
            if category in row and id_problem(product := id_of(row.get(self._name("product")))) is None
        ]
        if not said:
            raise _missing(root, PRODUCTS[0])
        return products_of([statement for _, statement in said], lambda number: said[number][0], id_problem, problems)

    def _pair(
        self,
        root: Path,
        row: Mapping[str, Any],
        catalogue: Mapping[str, str],
        sizes: dict[str, tuple[int, int]],
        own: bool,
    ) -> Pair:
        """The pair of a row; `own`: the row has its own columns. Raises ValueError, in words, and _UnknownSizeError."""
        values = {name: row[column] for name in FIELDS if (column := self._name(name)) in row}
        for name in ("scene", "product"):
            if values.get(name) in (None, ""):
                raise ValueError(
                    f"there is no {self._name(name)}; a pair has a scene, a product and a bbox, [left, top, right, bottom]"
                )
        if own and not {"bbox", *SHARES, *PIXELS} & values.keys():
            raise ValueError(f'there is no {self._name("bbox")}; write "{self._name("bbox")}": null if it is not known')
        scene, product = id_of(values["scene"]), id_of(values["product"])
        check_ids(scene, product, catalogue, id_problem)

        def size() -> tuple[int, int]:
            if scene not in sizes:
                try:
                    sizes[scene] = size_upright(self.image_path(root, scene))
                except OSError:
                    raise _UnknownSizeError(scene) from None
            return sizes[scene]

        box = box_of(values, size)
        if box is not None:
            check_box(box)
        return Pair(scene, NO_BOX if box is None else box, product, catalogue[product])

    def _image_problems(self, root: Path, table: PairTable, unsized: set[str]) -> Iterator[str]:
        wanted = sorted(table.products_of_scene.keys() | table.catalogue.keys() | unsized)
        both = table.products_of_scene.keys() & table.catalogue.keys()
        for name in sorted(both):
            yield f"{root}: {name} is both a scene and a product"
        paths = []
        for name in wanted:
            path = self.image_path(root, name)
            paths.append(path)
            if len(self._found[root].get(name, ())) > 1:
                several = ", ".join(str(one.relative_to(root)) for one in self._found[root][name])
                yield f"{root / IMAGES}: {name} has several images: {several}"
        with ThreadPoolExecutor(os.cpu_count()) as pool, progress("checking images", len(paths)) as shown:
            for path, why in zip(paths, pool.map(_unreadable, paths), strict=True):
                shown.advance()
                if why is not None:
                    yield f"{path}: {why}"


class _UnknownSizeError(Exception):
    """A box is in pixels, and its scene's image cannot be read."""

    def __init__(self, scene: str) -> None:
        super().__init__(scene)
        self.scene = scene


def _one_of(root: Path, names: Sequence[str]) -> Path | None:
    """The one file of these names that is in `root`; None: there is none. Raises InputError: there are several."""
    there = [root / name for name in names if (root / name).exists()]
    if len(there) > 1:
        raise InputError(f"data.root={root}: {' and '.join(path.name for path in there)} are both there; leave one")
    return there[0] if there else None


def _missing(root: Path, name: str) -> InputError:
    return InputError(
        f"data.root={root}: {name} is not there; this program expects {PAIRS[0]} (or .csv, .parquet), {PRODUCTS[0]} (or products.csv, "
        f"products.parquet, or a category in the pairs) and {IMAGES}/ (README, 'Your data'); give their folder with data.root=DIR"
    )


def _until_unreadable(table: Table, problems: list[str]) -> Iterator[Row]:
    """The rows of a table up to where the file is broken, which is then one of the problems."""
    try:
        yield from table.rows
    except InputError as error:
        problems.append(str(error))


def _crops_and_products(pairs: Iterable[Pair], catalogue: Mapping[str, str]) -> Iterator[str]:
    """Products that have the name under which a scene crop is stored."""
    if odd := {product for product in catalogue if "@" in product}:
        for name in odd & {crop_key(pair.scene, pair.box) for pair in pairs}:
            yield f"product {shown(name)} has the name of a scene crop; give it another one"


def _unreadable(path: Path) -> str | None:
    try:
        open_upright(path)
    except FileNotFoundError:
        return f"missing, and there is none of that name with another ending ({', '.join(sorted(SUFFIXES))}) below {IMAGES}/"
    except OSError as error:
        return reason(error)
    return None
