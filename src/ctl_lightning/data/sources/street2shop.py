"""How Exact Street2Shop (Hadi Kiapour et al., ICCV 2015), Kang et al. 2019's first data set, is read as published."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ctl_lightning.data.boxes import clipped
from ctl_lightning.data.fetching.remote import Remote
from ctl_lightning.data.images import size_if_readable
from ctl_lightning.data.names import category_problem
from ctl_lightning.data.pairs import Pair, PairTable
from ctl_lightning.data.pictures.folder import PictureFolder
from ctl_lightning.data.sources.source import Source
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.reading import read_json, shown

META, PHOTOS, IMAGES = "meta", "photos", "images"

LONGEST_NUMBER = 18
"""Most digits of a number of the published files."""


class _Street(NamedTuple):
    """One pair as published: the box, (left, top, right, bottom) in pixels, of a product in a street photo."""

    photo: int
    product: str
    box: tuple[float, float, float, float]
    category: str


@dataclass(frozen=True)
class Street2Shop(Source):
    """Reads `{train,test}_pairs_CATEGORY.json` and `retrieval_CATEGORY.json` below `meta/`, and the images of photos.

    The image of photo 47 is any file below `images/` whose name is that number (`47.jpg`, `000000047.png`).
    `photos/*.txt` has `id,url` lines, for those who want to fetch the photos that still exist. A product is shown by
    several shop photos; of those that are there, the one with the lowest number is used. Ids are `47` for scenes,
    `CATEGORY/PRODUCT` for products. All shop photos of a product are fetched, because nobody knows which of their
    addresses still work. The published division into train and test is not used: like Kang et al., this package splits
    by scene. Boxes are in pixels, so a pair is left out and counted if its scene is not there or its box lies outside
    the scene.
    """

    _paths: dict[Path, dict[str, Path]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def images(self, root: Path) -> list[Remote]:
        """Every photo that a pair or a product needs and for which `photos/*.txt` has an address."""
        street, shop = self._published(root)
        addresses = _addresses(root)
        there = _by_number(root)
        needed = {pair.photo for pair in street} | {photo for photos in shop.values() for photo in photos}
        return [
            Remote(str(photo), addresses[photo], there.get(photo, root / IMAGES / f"{photo:09d}.jpg"))
            for photo in sorted(needed & addresses.keys())
        ]

    def read(self, root: Path) -> PairTable:
        """Reads and validates the published files. Raises InputError that names the file and the entry."""
        street, shop = self._published(root)
        there = _by_number(root)

        def path(photo: int) -> Path:
            return there.get(photo, root / IMAGES / f"{photo:09d}.jpg")

        paths = {}
        for product, photos in shop.items():
            shown = [photo for photo in photos if photo in there] or photos
            paths[product] = path(shown[0])
        sizes = {photo: size_if_readable(path(photo)) for photo in {pair.photo for pair in street}}
        left_out: Counter[str] = Counter()
        pairs: dict[Pair, None] = {}
        for photo, product, box, category in street:
            size = sizes[photo]
            if product not in shop:
                left_out["product without a shop photo"] += 1
            elif size is None:
                left_out["scene missing or unreadable"] += 1
            elif (inside := clipped(box, size)) is None:
                left_out["box outside of its scene"] += 1
            else:
                pairs[Pair(str(photo), inside, product, category)] = None
                paths[str(photo)] = path(photo)
        if not pairs:
            raise InputError(
                f"{root}: no pair is left: {dict(left_out)}; the images are looked for below {root / IMAGES}"
            )
        self._paths[root] = paths
        catalogue = {product: product.partition("/")[0] for product in shop}
        return PairTable(tuple(pairs), catalogue, left_out)

    def image_path(self, root: Path, image: str) -> Path:
        """Image file of a scene or product id; `read` must have been called for `root`."""
        return self._paths[root][image]

    def _published(self, root: Path) -> tuple[list[_Street], dict[str, list[int]]]:
        """The pairs as published, and product -> the numbers of its shop photos in ascending order."""
        retrievals = sorted((root / META).rglob("retrieval_*.json"))
        street: list[_Street] = []
        shop: dict[str, list[int]] = {}
        for path in retrievals:
            category = path.stem.removeprefix("retrieval_")
            if why := category_problem(category):
                raise InputError(f"{shown(str(path))}: {why}")
            for where, entry in _entries(path):
                photo, product = _number(entry, "photo", where), _number(entry, "product", where)
                shop.setdefault(f"{category}/{product}", []).append(photo)
            for split in ("train", "test"):
                file = path.with_name(f"{split}_pairs_{category}.json")
                for where, entry in _entries(file) if file.exists() else ():
                    photo, product = _number(entry, "photo", where), _number(entry, "product", where)
                    street.append(_Street(photo, f"{category}/{product}", _box(entry, where), category))
        if not retrievals or not street:
            raise InputError(
                f"data.root={root}: {META}/retrieval_CATEGORY.json and {META}/train_pairs_CATEGORY.json are not there; this program "
                "expects the unpacked meta.zip and photos.tar of Street2Shop; give their folder with data.root=DIR"
            )
        return street, {product: sorted(photos) for product, photos in shop.items()}


def _entries(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    content = read_json(path)
    if not isinstance(content, list):
        raise InputError(f"{path}: expected a list of objects")
    for number, entry in enumerate(content, start=1):
        if not isinstance(entry, dict):
            raise InputError(f"{path}: entry {number} is not an object")
        yield f"{path}: entry {number}", entry


def _number(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if type(value) is not int or not 0 <= value < 10**LONGEST_NUMBER:
        raise InputError(f"{where}: {key} must be a whole number, not {shown(value)}")
    return value


def _box(entry: Mapping[str, Any], where: str) -> tuple[float, float, float, float]:
    """The box of an entry, (left, top, right, bottom) in pixels."""
    box = entry.get("bbox")
    sides: list[Any] = [box.get(side) for side in ("left", "top", "width", "height")] if isinstance(box, dict) else []
    if not sides or not all(type(side) in (int, float) and abs(side) < 10**LONGEST_NUMBER for side in sides):
        raise InputError(f"{where}: bbox must be an object of left, top, width and height in pixels, not {shown(box)}")
    left, top, width, height = sides
    if width <= 0 or height <= 0:
        raise InputError(f"{where}: bbox {shown(box)} is empty or reversed")
    return left, top, left + width, top + height


def _by_number(root: Path) -> dict[int, Path]:
    return {int(name): path for name, path in PictureFolder(root / IMAGES).named().items() if name.isdecimal()}


def _addresses(root: Path) -> dict[int, str]:
    """Photo number -> address, read from lines such as `000000047,http://...`."""
    addresses = {}
    for path in sorted((root / PHOTOS).glob("*.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            photo, comma, url = line.strip().partition(",")
            if not line.strip():
                continue
            if not comma or not photo.isdecimal() or len(photo) > LONGEST_NUMBER:
                raise InputError(
                    f"{path}:{number}: expected `id,url`, not {shown(line.strip())}; mend or remove the line"
                )
            addresses[int(photo)] = url
    return addresses
