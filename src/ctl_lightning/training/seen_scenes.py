"""Was a checkpoint trained on what it, or a run which starts from it, is measured on?"""

import filecmp
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.other_pairs import OtherPairs
from ctl_lightning.data.prepared import PreparedData
from ctl_lightning.data.splits import Split, SplitRule, read_split
from ctl_lightning.data.twins.groups import shown_by_others
from ctl_lightning.models.checkpoint import LAST
from ctl_lightning.runtime.errors import InputError

MEASURED: tuple[Split, ...] = ("validation", "test")


def seen_scenes(
    given: str, path: Path, checkpoint: Mapping[str, Any], data: TripletDataModule, source: str
) -> str | None:
    """Compares what a checkpoint was trained on with the validation and test scenes of a run.

    By one rule a scene is in the same split whatever other scenes there are (but for a new scene that is one photo with old ones), so
    nothing can be seen if both runs split by the same rule, or have the same test pairs. Otherwise the checkpoint's own split.json tells,
    if it is beside the checkpoint.

    Args:
        given: the checkpoint as the user named it.
        path: checkpoint file.
        checkpoint: its contents.
        data: data of the run, set up.
        source: name of the format of the data, such as "folder"; ids of other formats are other ids.

    Returns:
        Warning to print; None: none of them was seen.
    """
    try:
        trained, pairs = checkpoint["config"]["data"], checkpoint["TripletDataModule"]["pairs"]
        salt, split_file, kind = trained["salt"], trained["split_file"], trained["source"]["name"]
        rule = SplitRule(str(salt), split_file, trained["twins"], trained["folds"], trained["fold"], 1.0)
        same_test = pairs["test"] == data.pair_hashes()["test"]
    except (KeyError, TypeError, ValueError):
        return f"init_from={given}: it does not say how its data was split, so it may have been trained on scenes that this run is tested on"
    same_rule = not split_file and rule == replace(data.rule, train_share=1.0)
    if same_rule or same_test or kind != source:
        return None
    way_out = f"data.split_file={split_file}" if split_file else f"data.salt={salt} data.split_file=null"
    way_out += "".join(
        f" data.{name}={'null' if theirs is None else theirs}"
        for name in ("twins", "folds", "fold")
        if (theirs := getattr(rule, name)) != getattr(data.rule, name)
    )
    measured = {pair.scene for split in MEASURED for pair in data.pairs[split]}
    learned = trained_scenes(path)
    if learned is not None:
        if not (seen := len(measured & learned)):
            return None
        return (
            f"init_from={given}: it was trained on {seen} of the {len(measured)} scenes that this run is validated and tested on, so the "
            f"numbers will be too good; give the split of its training, {way_out}"
        )
    return (
        f"init_from={given}: its scenes were split in another way than this run's, so it may have been trained on scenes that this run is tested on; "
        f"unless they are all others, give the split of its training, {way_out}"
    )


def trained_scenes(path: Path) -> frozenset[str] | None:
    """The scenes that a checkpoint file was trained on, by the split.json of its run directory; None: that is not there."""
    path = path.absolute()
    if path.parent.name != LAST.parent.name:  # a copy, or a published one: what lies above it is another's
        return None
    try:
        split = read_split(path.parents[1] / "split.json")
    except InputError:
        return None
    return frozenset(scene for scene, own in split.items() if own == "train")


class SeenInTraining(NamedTuple):
    """What of other pairs a checkpoint was trained on.

    Attributes:
        told: content of "trained_on" in results.json; see `seen_in_training`.
        other_products: products that have the id of a product of its training, and another photo: they are other products.
    """

    told: dict[str, Any]
    other_products: frozenset[str]


def seen_in_training(path: Path, own: PreparedData, data: OtherPairs) -> SeenInTraining:
    """Counts what of other pairs a checkpoint was trained on: under the same id, or as the same photo under another one.

    An id is only a name: where both photos are on this machine, a scene or product is that of the training's only if its photo is.

    Args:
        path: checkpoint file.
        own: data that it was trained on; they need not be on this machine.
        data: the other pairs, set up.

    Returns:
        Told are {"scenes" and "products": {"of": all, "same_id": ..., "not_compared": those of them whose photos were not compared,
        "same_photo": those with another id, "other_photo": those with the same id but another photo, which "same_id" does not count},
        "pairs": pairs of such scenes}; None is what is not known: without the run's split.json; "same_photo" without the photos of its
        training, or with data.twins=keep.
    """
    learned = trained_scenes(path)
    scenes, products = {pair.scene for pair in data.pairs["test"]}, {*data.products}
    named = {f"scene {name}": name for name in scenes} | {f"product {name}": name for name in products}
    same = {
        *(f"scene {name}" for name in scenes & (learned or frozenset())),
        *(f"product {name}" for name in products & data.train_counts.keys()),
    }
    photos = _photos_of_training(own, learned or frozenset(), data)
    theirs = {key: file for key, name in named.items() if (file := data.source.image_path(data.root, name)).is_file()}
    compared = same & theirs.keys() & (photos or {}).keys()
    others: set[str] = set()
    alike: set[str] = set()
    if photos:
        # What is equal byte by byte need not be recognised: a picture of one colour would not be.
        equal = {key for key in compared if filecmp.cmp(theirs[key], photos[key], shallow=False)}
        asked = theirs.keys() - equal - (same - compared)
        shown = shown_by_others({key: theirs[key] for key in asked}, photos, data.cache_dir)
        others = {key for key in compared - equal if key not in shown.get(key, frozenset())}
        same -= others
        alike = shown.keys() - same

    def count(kind: str) -> dict[str, int | None]:
        return {
            "of": _of_kind(named, kind),
            "same_id": _of_kind(same, kind),
            "not_compared": _of_kind(same - compared, kind),
            "same_photo": _of_kind(alike, kind) if photos is not None else None,
            "other_photo": _of_kind(others, kind),
        }

    of_scenes = count("scene")
    if learned is None:
        of_scenes = dict.fromkeys(of_scenes, None) | {"of": len(scenes)}
    pairs = sum(f"scene {pair.scene}" in same | alike for pair in data.pairs["test"])
    told = {"scenes": of_scenes, "products": count("product"), "pairs": None if learned is None else pairs}
    return SeenInTraining(told, frozenset(products & {named[key] for key in others if key.startswith("product ")}))


def _of_kind(keys: Collection[str], kind: str) -> int:
    return sum(key.startswith(f"{kind} ") for key in keys)


def _photos_of_training(own: PreparedData, learned: frozenset[str], data: OtherPairs) -> dict[str, Path] | None:
    """Key -> file of the photos that were trained on; empty where pictures are drawn, None where too few of them are to be had."""
    if not (own.source.photos and data.source.photos):
        return {}
    if data.rule.twins == "keep":
        return None
    try:
        own.read_table()
    except (InputError, OSError):
        return None
    scenes = own.table.products_of_scene.keys() & learned
    products = own.table.catalogue.keys() & data.train_counts.keys()
    images = [("scene", name) for name in sorted(scenes)] + [("product", name) for name in sorted(products)]
    paths = {f"{kind} {name}": own.source.image_path(own.root, name) for kind, name in images}
    there = {key: path for key, path in paths.items() if path.is_file()}
    trained_on = len(learned) + len(data.train_counts)
    return there if len(there) >= (1 - own.max_bad_images) * trained_on else None
