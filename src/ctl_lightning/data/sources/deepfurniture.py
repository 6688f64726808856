"""How DeepFurniture (Liu et al. 2019, arXiv 1911.09299) is read: rendered rooms, each with the furniture in it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ctl_lightning.data.boxes import clipped
from ctl_lightning.data.images import size_if_readable
from ctl_lightning.data.names import id_problem
from ctl_lightning.data.pairs import Box, Pair, PairTable
from ctl_lightning.data.pictures.folder import PictureFolder, entries_below, printable
from ctl_lightning.data.products import id_of, products_of
from ctl_lightning.data.sources.source import Source
from ctl_lightning.runtime.errors import InputError, first_of
from ctl_lightning.runtime.progress import progress
from ctl_lightning.runtime.reading import json_lines, read_json, shown

CATEGORIES, RECORDS = "metadata/categories.json", "metadata/furnitures.jsonl"
SCENES, PREVIEWS = "scenes", "furnitures"
ANNOTATION, IMAGE = "annotation.json", "image.jpg"

SIDES = ("xMin", "yMin", "xMax", "yMax")

LARGEST = 10**9
"""Largest number of pixels, to either side, at which a box can begin or end."""


class _Instance(NamedTuple):
    """An instance as published: its product (None: it has none), the category that is said, (left, top, right, bottom) in pixels."""

    product: str | None
    category: object
    box: Box


@dataclass(frozen=True)
class DeepFurniture(Source):
    """Reads DeepFurniture as its authors' `uncompress_dataset.sh` unpacks it.

    `scenes/SCENE/annotation.json` has a scene's `instances`, each with `identityID`, `categoryName` and `boundingBox`
    in pixels; `scenes/SCENE/image.jpg` is the scene; `furnitures/PRODUCT.jpg` shows a product;
    `metadata/furnitures.jsonl` has `furniture_id` and `category_id` of each product, `metadata/categories.json` the
    names of categories. Scenes and previews may also lie deeper, as when archives are unpacked into folders of their
    own. `queries/`, `depth.png`, styles and segmentations are not used.

    This was written from the data set's card and its authors' loader, and tested on files made as these describe them;
    the published files themselves have not been seen.

    A pair is a product of a scene. One that stands there several times, such as chairs around a table, is one pair, with
    the smallest box that holds all its places: a crop beside one chair would show the next. An instance that cannot be
    used is left out and counted.
    """

    _paths: dict[Path, dict[str, Path]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def read(self, root: Path) -> PairTable:
        """Reads and validates the files. Raises InputError that names the file and the line or instance."""
        for name in (RECORDS, CATEGORIES, SCENES, PREVIEWS):
            if not (root / name).exists():
                raise _missing(root, name)
        catalogue, folders = _catalogue(root), _scene_folders(root)
        if both := folders.keys() & catalogue.keys():
            raise InputError(f"{root}: {shown(min(both))} is both a scene and a product")
        places: dict[tuple[str, str], list[Box]] = {}
        left_out: Counter[str] = Counter()
        for scene, instances, size in _scenes(folders):
            for product, category, box in instances:
                if size is None:
                    left_out["scene missing or unreadable"] += 1
                elif product is None:
                    left_out["instance without an identity"] += 1
                elif product not in catalogue:
                    left_out["product without a record"] += 1
                elif category not in (None, catalogue[product]):
                    left_out["category is not its product's"] += 1
                elif (inside := clipped(box, size)) is None:
                    left_out["box empty or outside of its scene"] += 1
                else:
                    places.setdefault((scene, product), []).append(inside)
        if further := sum(len(boxes) - 1 for boxes in places.values()):
            left_out["further place of a product in its scene"] = further
        if not places:
            raise InputError(f"{root}: no pair is left: {dict(left_out)}")
        self._paths[root] = _product_images(root, catalogue) | {name: at / IMAGE for name, at in folders.items()}
        pairs = (Pair(scene, _around(boxes), product, catalogue[product]) for (scene, product), boxes in places.items())
        return PairTable(tuple(pairs), catalogue, left_out)

    def image_path(self, root: Path, image: str) -> Path:
        """Image file of a scene or product id; `read` must have been called for `root`."""
        return self._paths[root][image]


def _missing(root: Path, name: str) -> InputError:
    return InputError(
        f"data.root={root}: {name} is not there; DeepFurniture (licence AFL-3.0) is on the Hugging Face Hub: `git lfs install`, "
        "`git clone https://huggingface.co/datasets/byliu/DeepFurniture`, in that folder "
        "`bash uncompress_dataset.sh -s data -t uncompressed_data`, then data.root=DeepFurniture/uncompressed_data"
    )


def _catalogue(root: Path) -> dict[str, str]:
    """Product -> name of its category."""
    names = read_json(root / CATEGORIES)
    if not isinstance(names, dict):
        raise InputError(f"{root / CATEGORIES}: expected an object of category_id -> name, not {shown(names)}")
    places, statements = [], []
    for where, record in json_lines(root / RECORDS):
        if not isinstance(record, dict) or not {"furniture_id", "category_id"} <= record.keys():
            raise InputError(f"{where}: expected an object with furniture_id and category_id, not {shown(record)}")
        category = id_of(record["category_id"])
        if not isinstance(category, str) or category not in names:
            raise InputError(f"{where}: category_id {shown(record['category_id'])} is not in {root / CATEGORIES}")
        places.append(where)
        statements.append((id_of(record["furniture_id"]), names[category]))
    problems: list[str] = []
    catalogue = products_of(statements, places.__getitem__, id_problem, problems)
    if problems:
        raise first_of(problems)
    return catalogue


def _scene_folders(root: Path) -> dict[str, Path]:
    """Scene -> its folder, scenes in alphabetical order; of a scene that was unpacked twice, the first folder."""
    unreadable: list[str] = []
    found = sorted(Path(one.path).parent for one in entries_below(root / SCENES, unreadable) if one.name == ANNOTATION)
    if unreadable:
        raise first_of(unreadable)
    if not found:
        raise _missing(root, f"{SCENES}/SCENE/{ANNOTATION}")
    for folder in found:
        if why := id_problem(folder.name):
            raise InputError(f"{printable(folder)}: scene {why}")
    folders: dict[str, Path] = {}
    for folder in found:
        folders.setdefault(folder.name, folder)
    return dict(sorted(folders.items()))


def _scenes(folders: Mapping[str, Path]) -> Iterator[tuple[str, list[_Instance], tuple[int, int] | None]]:
    """(scene, its instances, width and height of its image in pixels; None: missing or unreadable) of each folder."""
    with progress("reading scenes", len(folders)) as bar:
        for scene, folder in folders.items():
            content = read_json(folder / ANNOTATION)
            listed = content.get("instances") if isinstance(content, dict) else None
            if not isinstance(listed, list):
                raise InputError(f"{folder / ANNOTATION}: expected an object with a list of instances")
            where = f"{folder / ANNOTATION}: instance"
            yield (
                scene,
                [_instance(one, f"{where} {n}") for n, one in enumerate(listed, 1)],
                size_if_readable(folder / IMAGE),
            )
            bar.advance()


def _instance(entry: object, where: str) -> _Instance:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is not an object")
    product = id_of(entry.get("identityID"))
    if product is not None and (why := id_problem(product)):
        raise InputError(f"{where}: identityID {why}")
    sides = entry.get("boundingBox")
    box: list[Any] = [sides.get(side) for side in SIDES] if isinstance(sides, dict) else []
    if not box or not all(type(side) in (int, float) and abs(side) < LARGEST for side in box):
        raise InputError(f"{where}: boundingBox must be an object of {', '.join(SIDES)} in pixels, not {shown(sides)}")
    return _Instance(product, entry.get("categoryName"), (box[0], box[1], box[2], box[3]))


def _around(boxes: list[Box]) -> Box:
    """The smallest box that holds all of them."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _product_images(root: Path, catalogue: Iterable[str]) -> dict[str, Path]:
    previews = PictureFolder(root / PREVIEWS)
    there = previews.named()
    return {product: there.get(product) or previews.expected(product) for product in catalogue}
