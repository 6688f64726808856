"""What the rows of anyone's own pairs say: scene, product, category and box, whatever the file calls these fields."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ctl_lightning.data.boxes import PIXELS, SHARES, box_of
from ctl_lightning.data.names import id_problem
from ctl_lightning.data.pairs import NO_BOX, Pair, check_box, check_ids
from ctl_lightning.data.products import id_of, products_of
from ctl_lightning.data.tables import Row, Table, is_empty, read_table
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.reading import shown

FIELDS = ("scene", "product", "category", "bbox", *SHARES, *PIXELS)
"""What a row of pairs can have."""

OPTION = "data.source.columns.FIELD=NAME, where FIELD is one of " + ", ".join(FIELDS)


class FoundPairs(NamedTuple):
    """The pairs of a file, each once; and scene -> number of its pairs whose box is in pixels of an image that cannot be read."""

    pairs: tuple[Pair, ...]
    unsized: Mapping[str, int]


class UnknownSizeError(Exception):
    """A box is in pixels, and its scene's image cannot be read."""


class PairRows:
    """Reads a file of pairs.

    Args:
        path: file, .jsonl, .csv or .parquet.
        columns: field -> what the file calls it, where that is another name.
        size: function that gives width and height in pixels of a scene's image; it may raise OSError.
    """

    def __init__(self, path: Path, columns: Mapping[str, str], size: Callable[[str], tuple[int, int]]) -> None:
        self._path = path
        self._column = {field: columns.get(field, field) for field in FIELDS}
        self._size = size
        self._sizes: dict[str, tuple[int, int] | None] = {}

    def products(self, problems: list[str]) -> dict[str, str]:
        """Product -> category, as the rows say it; empty if they do not. A product in several categories is a problem."""
        said = [
            (where, (product, row[self._column["category"]]))
            for where, row in read_table(self._path, []).rows
            if not is_empty(row.get(self._column["category"]))
            and id_problem(product := id_of(row.get(self._column["product"]))) is None
        ]
        return products_of([statement for _, statement in said], lambda number: said[number][0], id_problem, problems)

    def pairs(self, catalogue: Mapping[str, str], products: Path | None, problems: list[str]) -> FoundPairs:
        """Reads the pairs.

        Args:
            catalogue: product -> category.
            products: file that the catalogue was read from; None: these rows.
            problems: list to which the message of every bad row is added, and the row skipped.

        Raises:
            InputError: not such a file; a column is not there.
        """
        table = read_table(self._path, problems)
        table.require([self._column["scene"], self._column["product"]], OPTION)
        found: dict[Pair, None] = {}
        unsized: Counter[str] = Counter()
        for where, row in _until_broken(table, problems):
            try:
                values = self._values(row, bare=table.columns is None)
                found[self._pair(values, catalogue, products)] = None
            except ValueError as error:
                problems.append(f"{where}: {error}")
            except UnknownSizeError:
                unsized[values["scene"]] += 1
        if not (found or unsized or problems):
            raise InputError(f"{self._path}: no pairs in it")
        return FoundPairs(tuple(found), unsized)

    def _values(self, row: Mapping[str, Any], bare: bool) -> dict[str, Any]:
        """Field -> value; `bare`: the row has no columns but its own. Raises ValueError, in words: a field is not there."""
        values = {field: row[column] for field, column in self._column.items() if column in row}
        for field in ("scene", "product"):
            if is_empty(values.get(field)):
                raise ValueError(f"there is no {self._column[field]}; a pair has a scene, a product and a box")
            values[field] = id_of(values[field])
        if bare and not {"bbox", *SHARES, *PIXELS} & values.keys():
            name = self._column["bbox"]
            raise ValueError(f'there is no {name}, [left, top, right, bottom]; write "{name}": null if it is not known')
        return values

    def _pair(self, values: Mapping[str, Any], catalogue: Mapping[str, str], products: Path | None) -> Pair:
        """Makes a pair. Raises ValueError, in words: a bad id, box or category; UnknownSizeError."""
        scene, product = values["scene"], values["product"]
        check_ids(scene, product, catalogue, id_problem)
        category, said = catalogue[product], values.get("category")
        if products is not None and not is_empty(said) and said != category:
            raise ValueError(
                f"product {product} has several categories: {shown(said)} here, {shown(category)} in {products}; leave one"
            )
        box = box_of(values, lambda: self._known_size(scene))
        if box is None:
            return Pair(scene, NO_BOX, product, category)
        check_box(box)
        return Pair(scene, box, product, category)

    def _known_size(self, scene: str) -> tuple[int, int]:
        if scene not in self._sizes:
            self._sizes[scene] = None
            with suppress(OSError):
                self._sizes[scene] = self._size(scene)
        size = self._sizes[scene]
        if size is None:
            raise UnknownSizeError
        return size


def _until_broken(table: Table, problems: list[str]) -> Iterator[Row]:
    """The rows of a table up to where its file is broken, which is then one of the problems."""
    try:
        yield from table.rows
    except InputError as error:
        problems.append(str(error))
