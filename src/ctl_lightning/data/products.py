"""How product -> category is read, from a JSON object, CSV or Parquet: every product once, in one category."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ctl_lightning.data.names import NameRule, category_problem
from ctl_lightning.data.tables import read_table
from ctl_lightning.runtime.errors import InputError, first_of
from ctl_lightning.runtime.reading import ENTRIES, json_value, lines_of_entries, read_text, shown

COLUMNS = {"product": "product", "category": "category"}

Statement = tuple[Any, Any]
"""(product, category) as a file says it, not checked."""


def read_products(
    path: Path,
    ids: NameRule,
    problems: list[str] | None = None,
    columns: Mapping[str, str] = COLUMNS,
    option: str = "write it so in the file",
) -> dict[str, str]:
    """Reads product -> category from a .csv or .parquet file, or else from a JSON object.

    Args:
        path: file to read.
        ids: rule that product ids must follow.
        problems: list to which a message for every bad entry is added, and the entry skipped; None: the first is raised.
        columns: what the columns "product" and "category" are called in a table.
        option: how a user gives other names, for messages.

    Raises:
        InputError: not such a file; no product in it; and see `problems`.
    """
    found: list[str] = []
    if path.suffix in (".csv", ".parquet"):
        table = read_table(path, found)
        table.require([columns["product"], columns["category"]], option)
        rows = [(where, (id_of(row[columns["product"]]), row[columns["category"]])) for where, row in table.rows]
        products = products_of([statement for _, statement in rows], lambda number: rows[number][0], ids, found)
    else:
        products = _of_json(path, ids, found)
    if not products and not found:
        raise InputError(f"{path}: there is no product in it; write product and category")
    if problems is None and found:
        raise first_of(found)
    if problems is not None:
        problems += found
    return products


def _of_json(path: Path, ids: NameRule, problems: list[str]) -> dict[str, str]:
    text = read_text(path)
    content = json_value(text, str(path), 1, ENTRIES)
    if not isinstance(content, tuple):
        raise InputError(f"{path}: expected a JSON object of product -> category, not {shown(content)}")
    lines: list[int] = []

    def place(number: int) -> str:
        lines[:] = lines or lines_of_entries(text)
        return f"{path}:{lines[number]}"

    return products_of(content, place, ids, problems)


def products_of(
    statements: Iterable[Statement], place: Callable[[int], str], ids: NameRule, problems: list[str]
) -> dict[str, str]:
    """Makes product -> category of statements, some of which may be repeated.

    Args:
        statements: products and categories.
        place: function that gives the place of a statement, by its number from 0, for messages.
        ids: rule that product ids must follow.
        problems: list to which a message for every bad statement is added: a bad name, another category than before.
    """
    products: dict[str, str] = {}
    first: dict[str, int] = {}
    for number, (product, category) in enumerate(statements):
        if why := ids(product):
            problems.append(f"{place(number)}: product {why}")
        elif why := category_problem(category):
            problems.append(f"{place(number)}: product {product}: {why}")
        elif products.setdefault(product, category) != category:
            problems.append(
                f"{place(number)}: product {product} has several categories: {shown(category)} here, "
                f"{shown(products[product])} at {place(first[product])}; leave one"
            )
        else:
            first.setdefault(product, number)
    return products


def id_of(value: Any) -> Any:
    """An id as text: tables and JSON may have a whole number where other files have its digits."""
    return str(value) if type(value) is int else value
