"""Names of categories, paths such as "Apparel & Accessories|Shoes": shortened for a person, and found among other names."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from ctl_lightning.runtime.errors import InputError, listed
from ctl_lightning.runtime.reading import read_json, shown

EXAMPLE = '{"THEIR NAME": "OUR NAME"}'
"""What a map of categories looks like."""

CategoryMap = Mapping[str, str | None]
"""Name of a category of other data -> the one of ours that it is; None: it is to be left out."""


def last_part(category: str) -> str:
    """The part of a category name after its last bar: "Shoes" of "Apparel & Accessories|Shoes"; all of it if that is empty."""
    return category.rpartition("|")[2] or category


def short_if_unique(category: str, categories: Sequence[str]) -> str:
    """The last part of a category name if no other category has the same; else the whole name, its bars as arrows."""
    last = last_part(category)
    return last if sum(last_part(other) == last for other in categories) == 1 else category.replace("|", " › ")


def same_category(name: str, categories: Sequence[str]) -> str | None:
    """The one of `categories` that a name of other data means: of the same name, else the only one with the same last part."""
    if name in categories:
        return name
    alike = [category for category in categories if last_part(category) == last_part(name)]
    return alike[0] if len(alike) == 1 else None


def read_category_map(path: Path) -> CategoryMap:
    """Reads `categories=FILE`. Raises InputError: not readable, or not an object of names."""
    try:
        content = read_json(path)
    except OSError as error:
        raise InputError(
            f"categories={path}: cannot be read ({error.strerror}); give a JSON file such as {EXAMPLE}"
        ) from None
    except InputError as error:
        raise InputError(f"categories={error}; it must be JSON such as {EXAMPLE}") from None
    if not isinstance(content, dict):
        raise InputError(f"categories={path}: {shown(content)} is not a JSON object; it must be such as {EXAMPLE}")
    for name, ours in content.items():
        if not isinstance(ours, str | None):
            raise InputError(
                f"categories={path}: {shown(name)} is {shown(ours)}, not a name; write the checkpoint's category, or null to leave it out"
            )
    return content


def matched_categories(theirs: Iterable[str], ours: Sequence[str], given: CategoryMap, strict: bool) -> dict[str, str]:
    """The categories of other data that a checkpoint knows: as the map says, else by `same_category`.

    Args:
        theirs: category names of the data.
        ours: category names of the checkpoint.
        given: map of the user's.
        strict: whether a category of ours in the map that there is not is an error; else what is mapped to it is left out.

    Returns:
        Their name -> ours, for those that are matched.

    Raises:
        InputError: a name in the map that there is not; nothing is matched.
    """
    theirs = list(theirs)
    for name, wanted in given.items():
        if name not in theirs:
            raise InputError(
                f"categories: the data have no category {shown(name)}{_near(name, theirs)}; there are {listed(map(_short, theirs))}"
            )
        if strict and wanted is not None and same_category(wanted, ours) is None:
            raise InputError(
                f"categories: {shown(name)} is to be {shown(wanted)}, which is no category of the checkpoint{_near(wanted, ours)}; there are "
                f"{listed(map(_short, ours))}"
            )
    wanted_of = {name: name for name in theirs} | dict(given)
    found = {name: same_category(wanted, ours) for name, wanted in wanted_of.items() if wanted is not None}
    matched = {name: category for name, category in found.items() if category is not None}
    if not matched:
        near = next(filter(None, (_near(name, ours) for name in theirs)), "")
        raise InputError(
            f"none of the categories of the data is one of the checkpoint's: the data have {listed(map(_short, theirs))}; the checkpoint knows "
            f"{listed(map(_short, ours))}{near}; say which is which with categories=FILE, a JSON file such as {EXAMPLE}"
        )
    return matched


def _near(name: str, known: Sequence[str]) -> str:
    """A suggestion by the last parts of names, whatever their case."""
    of_last = {last_part(one).lower(): one for one in known}
    near = get_close_matches(last_part(name).lower(), of_last, n=1)
    return f"; did you mean {_short(of_last[near[0]])!r} for {_short(name)!r}?" if near else ""


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:39]}…"
