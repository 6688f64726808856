"""Was a checkpoint trained on scenes that a run which starts from it is measured on?"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.splits import Split, SplitRule, read_split
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
    with suppress(InputError):
        split = read_split(path.absolute().parents[1] / "split.json")
        if not (seen := sum(split.get(scene) == "train" for scene in measured)):
            return None
        return (
            f"init_from={given}: it was trained on {seen} of the {len(measured)} scenes that this run is validated and tested on, so the "
            f"numbers will be too good; give the split of its training, {way_out}"
        )
    return (
        f"init_from={given}: its scenes were split in another way than this run's, so it may have been trained on scenes that this run is tested on; "
        f"unless they are all others, give the split of its training, {way_out}"
    )
