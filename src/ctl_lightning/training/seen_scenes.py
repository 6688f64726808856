"""Was a checkpoint trained on what it, or a run which starts from it, is measured on?"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

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


def seen_in_training(path: Path, own: PreparedData, data: OtherPairs) -> dict[str, Any]:
    """Counts what of other pairs a checkpoint was trained on: under the same id, or as the same photo under another one.

    Args:
        path: checkpoint file.
        own: data that it was trained on; they need not be on this machine.
        data: the other pairs, set up.

    Returns:
        {"scenes" and "products": {"of": all, "same_id": ..., "same_photo": those with another id}, "pairs": pairs of such scenes}; None
        where it is not known: without the run's split.json; without the photos of its training, or with data.twins=keep.
    """
    learned = trained_scenes(path)
    scenes, products = {pair.scene for pair in data.pairs["test"]}, {*data.products}
    same_scenes, same_products = scenes & (learned or frozenset()), products & data.train_counts.keys()
    photos = _photos_of_training(own, learned or frozenset(), data)
    alike: set[str] = set()
    if photos:
        new = [("scene", name) for name in scenes - same_scenes] + [
            ("product", name) for name in products - same_products
        ]
        theirs = {f"{kind} {name}": data.source.image_path(data.root, name) for kind, name in new}
        alike = shown_by_others(theirs, photos, data.cache_dir)
    alike_scenes = {name for name in scenes - same_scenes if f"scene {name}" in alike}
    alike_products = sum(f"product {name}" in alike for name in products - same_products)
    known = learned is not None
    return {
        "scenes": {
            "of": len(scenes),
            "same_id": len(same_scenes) if known else None,
            "same_photo": len(alike_scenes) if known and photos is not None else None,
        },
        "products": {
            "of": len(products),
            "same_id": len(same_products),
            "same_photo": alike_products if photos is not None else None,
        },
        "pairs": sum(pair.scene in same_scenes | alike_scenes for pair in data.pairs["test"]) if known else None,
    }


def _photos_of_training(own: PreparedData, learned: frozenset[str], data: OtherPairs) -> dict[str, Path] | None:
    """Key -> file of the photos that were trained on; empty where pictures are drawn, None where they are not to be had."""
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
    return there or None
