"""Was a checkpoint trained on scenes that a run which starts from it is measured on?"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.splits import Split, read_split
from ctl_lightning.runtime.errors import InputError

MEASURED: tuple[Split, ...] = ("validation", "test")


def seen_scenes(
    given: str, path: Path, checkpoint: Mapping[str, Any], data: TripletDataModule, source: str
) -> str | None:
    """Compares what a checkpoint was trained on with the validation and test scenes of a run.

    By one rule a scene is in the same split whatever other scenes there are, so nothing can be seen if both runs split by the same
    salt, or have the same test pairs. Otherwise the checkpoint's own split.json tells, if it is beside the checkpoint.

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
        same_test = pairs["test"] == data.pair_hashes()["test"]
    except (KeyError, TypeError):
        return f"init_from={given}: it does not say how its data was split, so it may have been trained on scenes that this run is tested on"
    same_rule = not split_file and not data.split_file and str(salt) == data.salt
    if same_rule or same_test or kind != source:
        return None
    way_out = f"data.split_file={split_file}" if split_file else f"data.salt={salt} data.split_file=null"
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
