"""A checkpoint as plain data: found, read, and added to. No class that it names is imported."""

from pathlib import Path
from typing import Any

import torch

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import replacing

LAST = Path("checkpoints/last.ckpt")
"""Where a run directory has its last checkpoint."""


def checkpoint_of(path: Path) -> Path:
    """The checkpoint that a path means: a run directory means its best one, or the last of a method that learns nothing.

    Raises:
        InputError: a directory without checkpoints.
    """
    if not path.is_dir():
        return path
    found = sorted(path.glob("checkpoints/best*.ckpt"))
    if len(found) > 1:  # a run was killed between writing one and deleting the other
        states = read_checkpoint(path / LAST)["callbacks"].values()
        named = {Path(state["best_model_path"]).name for state in states if state.get("best_model_path")}
        found = [one for one in found if one.name in named]
        if len(found) != 1:
            raise InputError(
                f"ckpt_path={path}: it is not clear which of its checkpoints is the best; name one of them"
            )
    best = found[0] if found else path / LAST
    if not best.is_file():
        raise InputError(f"ckpt_path={path}: a directory without checkpoints/best*.ckpt; give one that `train` made")
    return best


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint as plain data; no class that the file names is imported.

    Raises:
        InputError: missing, unreadable, or not a checkpoint of this program.
    """
    if not path.is_file():
        raise InputError(f"ckpt_path={path}: no such file; checkpoints are in a run directory's folder checkpoints")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error class of its own for a broken or foreign file
        reason = str(error).splitlines()[0]
        raise InputError(f"ckpt_path={path}: not a readable checkpoint ({reason}); give another one") from None
    needed = {"state_dict", "hyper_parameters", "pytorch-lightning_version"}
    if (
        not isinstance(checkpoint, dict)
        or not needed <= checkpoint.keys()
        or not isinstance(checkpoint["hyper_parameters"], dict)
        or "method" not in checkpoint["hyper_parameters"]
    ):
        raise InputError(f"ckpt_path={path}: not a checkpoint of ctl_lightning; give one that `train` wrote")
    return checkpoint


def add_to_checkpoint(path: Path, **values: Any) -> None:
    """Puts plain values into a checkpoint that is there. Raises InputError as `read_checkpoint`."""
    checkpoint = read_checkpoint(path)
    with replacing(path) as temporary:
        torch.save(checkpoint | values, temporary)
