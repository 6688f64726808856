"""Names of categories are paths, such as "Apparel & Accessories|Shoes"; a person calls them by their last part."""

from collections.abc import Sequence


def last_part(category: str) -> str:
    """What comes after the last bar."""
    return category.rpartition("|")[2]


def short_if_unique(category: str, categories: Sequence[str]) -> str:
    """The last part, if no other category ends so; else all of it, with its bars as arrows."""
    last = last_part(category)
    return last if sum(last_part(other) == last for other in categories) == 1 else category.replace("|", " › ")
