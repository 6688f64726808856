"""Which scenes and products of a data set are one photo: looked for once, kept in the cache, and grouped."""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctl_lightning.data.pairs import PairTable
from ctl_lightning.data.sources.source import Source
from ctl_lightning.data.twins.details import same_details
from ctl_lightning.data.twins.search import Pairs, alike
from ctl_lightning.data.twins.thumbnails import fingerprint, forget, thumbnails
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import write_text
from ctl_lightning.runtime.large_files import make_once
from ctl_lightning.runtime.reading import read_json

log = logging.getLogger(__name__)

FORMAT = 1
"""Goes up when equal pictures would be grouped otherwise, so that what old versions found is not taken for new."""


class Photo(NamedTuple):
    """One photo that is there more than once: ids of the scenes and of the products that show it, in order."""

    scenes: tuple[str, ...]
    products: tuple[str, ...]


@dataclass(frozen=True)
class Twins:
    """The photos of a data set that are there under several ids.

    Attributes:
        photos: the photos, each with at least two ids.
        catalogue: product -> category.
    """

    photos: Sequence[Photo]
    catalogue: Mapping[str, str]

    @cached_property
    def group_of(self) -> dict[str, str]:
        """Scene -> the smallest id of its photo, for scenes that have a twin."""
        return {scene: photo.scenes[0] for photo in self.photos if len(photo.scenes) > 1 for scene in photo.scenes}

    @cached_property
    def product_groups(self) -> list[tuple[str, ...]]:
        """Products of one category that are one photo, the smallest id first, for photos with at least two of them."""
        groups = []
        for photo in self.photos:
            of_category = defaultdict(list)
            for product in photo.products:
                of_category[self.catalogue[product]].append(product)
            groups += [tuple(own) for own in of_category.values() if len(own) > 1]
        return groups

    @cached_property
    def product_of(self) -> dict[str, str]:
        """Product -> the product of its category that stands for it, for those that another one stands for."""
        return {product: first for first, *others in self.product_groups for product in others}

    def of_every_id(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Numbers by product, of merged products, with the same number for each product that another one stands for."""
        return {**counts, **{product: counts[first] for product, first in self.product_of.items() if first in counts}}

    @cached_property
    def own_photos(self) -> frozenset[str]:
        """Scenes that are the photo of a product."""
        return frozenset(scene for photo in self.photos if photo.products for scene in photo.scenes)

    def plain(self) -> dict[str, list[list[str]]]:
        """The groups of ids, for a published split."""
        return {
            "scenes": [list(photo.scenes) for photo in self.photos if len(photo.scenes) > 1],
            "products": [list(group) for group in self.product_groups],
            "scenes_that_are_products": [
                list(photo.scenes) for photo in self.photos if photo.scenes and photo.products
            ],
        }

    def counts(self) -> dict[str, Any]:
        """Numbers of groups and of what is in them, as plain values for results.json and summary.json."""
        sizes = Counter(len(photo.scenes) for photo in self.photos if len(photo.scenes) > 1)
        return {
            "scene_groups": sizes.total(),
            "scenes_in_groups": len(self.group_of),
            "sizes": {str(size): sizes[size] for size in sorted(sizes)},
            "product_groups": len(self.product_groups),
            "products_in_groups": sum(map(len, self.product_groups)),
            "scenes_that_are_products": len(self.own_photos),
        }

    def __str__(self) -> str:
        counts = self.counts()
        if not any(counts.values()):
            return "twins: none, no photo has two ids"
        return (
            f"twins: {counts['scene_groups']:,} photos are {counts['scenes_in_groups']:,} scenes, {counts['product_groups']:,} are "
            f"{counts['products_in_groups']:,} products, {counts['scenes_that_are_products']:,} scenes are a product's photo"
        )


def find_twins(source: Source, root: Path, table: PairTable, cache_dir: Path) -> Twins:
    """Finds the scenes and products of a table that are one photo; looks at the pictures only if the cache does not know.

    Of several processes one looks, and the others wait; a stopped one goes on from where it was.

    Args:
        source: format of the data.
        root: folder of the data.
        table: pairs and catalogue.
        cache_dir: folder in which what was found is kept.

    Raises:
        InputError: what the cache has is not readable; it says what to delete.
    """
    scenes, products = sorted({pair.scene for pair in table.pairs}), sorted(table.catalogue)
    keys = [*(f"scene {scene}" for scene in scenes), *(f"product {product}" for product in products)]
    paths = [source.image_path(root, image) for image in (*scenes, *products)]
    photos = []
    for group in _groups(keys, paths, cache_dir):
        own = [index for index in group if index < len(scenes)]
        others = [index - len(scenes) for index in group if index >= len(scenes)]
        photos.append(Photo(tuple(scenes[index] for index in own), tuple(products[index] for index in others)))
    return Twins(photos, table.catalogue)


def shown_by_others(
    pictures: Mapping[str, Path], others: Mapping[str, Path], cache_dir: Path
) -> dict[str, frozenset[str]]:
    """Which pictures of one data set are photos that another one has, too; looked for once, as `find_twins` does.

    Args:
        pictures: key of each picture, such as "scene 17" -> its file.
        others: the same of the other data set.
        cache_dir: folder in which what was found is kept.

    Returns:
        Key of each such picture -> the keys that its photo has in the other data set.

    Raises:
        InputError: as `find_twins`.
    """
    names, other_names = sorted(pictures), sorted(others)
    keys = [*names, *(f"other {key}" for key in other_names)]
    paths = [*(pictures[name] for name in names), *(others[key] for key in other_names)]
    shown: dict[str, frozenset[str]] = {}
    for group in _groups(keys, paths, cache_dir):
        if found := frozenset(other_names[index - len(names)] for index in group if index >= len(names)):
            shown |= {names[index]: found for index in group if index < len(names)}
    return shown


def _groups(keys: Sequence[str], paths: Sequence[Path], cache_dir: Path) -> list[list[int]]:
    """Groups of pictures that are one photo, as indices; looked for if the cache does not know. Raises InputError."""
    path = cache_dir / "twins" / f"{fingerprint(keys, paths)}.{FORMAT}.json"
    make_once(path, lambda: _look(path, paths))
    try:
        groups: list[list[int]] = read_json(path)["groups"]
        if not all(group and 0 <= min(group) <= max(group) < len(paths) for group in groups):
            raise ValueError("other groups than of these pictures")
    except (OSError, InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error}); delete it: it is made anew") from None
    return groups


def _look(path: Path, paths: Sequence[Path]) -> None:
    log.info("looking for twins among %d pictures, once", len(paths))
    folder = path.with_suffix(".thumbnails")
    write_text(path, json.dumps({"groups": connected(same_photos(paths, folder).tolist())}) + "\n")
    forget(folder)


def same_photos(paths: Sequence[Path], folder: Path) -> Pairs:
    """All pairs of picture files that are one photo, (P, 2), as indices, the smaller one first.

    Args:
        paths: picture files; what cannot be read has no twin.
        folder: folder for what is kept between two tries; see `thumbnails`.
    """
    pairs = alike(thumbnails(paths, folder))
    return np.unique(pairs[same_details(paths, pairs), :2], axis=0)


def connected(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Groups of numbers that pairs connect, each in ascending order, by their first number."""
    parent: dict[int, int] = {}

    def top(number: int) -> int:
        while (above := parent.setdefault(number, number)) != number:
            parent[number] = parent[above] = parent.setdefault(above, above)
            number = above
        return number

    for first, second in pairs:
        one, other = sorted((top(first), top(second)))
        parent[other] = one
    groups = defaultdict(list)
    for number in sorted(parent):
        groups[top(number)].append(number)
    return sorted(groups.values())
