"""How a category name, a path such as "Apparel & Accessories|Shoes", is shortened for a person: to its last part."""

from collections.abc import Sequence


def last_part(category: str) -> str:
    """The part of a category name after its last bar: "Shoes" of "Apparel & Accessories|Shoes"; all of it if that is empty."""
    return category.rpartition("|")[2] or category


def short_if_unique(category: str, categories: Sequence[str]) -> str:
    """The last part of a category name if no other category has the same; else the whole name, its bars as arrows."""
    last = last_part(category)
    return last if sum(last_part(other) == last for other in categories) == 1 else category.replace("|", " › ")
