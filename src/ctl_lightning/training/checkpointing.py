"""What is in a checkpoint, and which one a run continues."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import replacing
from ctl_lightning.runtime.launch import is_first

LAST = Path("checkpoints/last.ckpt")
"""Where a run directory has its last checkpoint."""

MAY_DIFFER = (
    "ckpt_path",
    "paths",
    "logger",
    "callbacks",
    "keep_memory",
    "save_minutes",
    "watch_epochs",
    "upload_checkpoints",
)
"""Parts of the config in which the two halves of one run may differ."""

DATA_MAY_DIFFER = ("root", "cache_dir", "store", "chunks_dir", "num_workers", "eval_batch_size")
"""Options of the data that do not change what is learned or measured."""


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


def check_resumable(path: Path, module: LightningModule, data: dict[str, Any]) -> dict[str, Any]:
    """Reads the checkpoint of a run that shall go on with `module` and the options `data`.

    Raises:
        InputError: it was trained with other options; the first that differs is named.
    """
    checkpoint = read_checkpoint(path)
    saved_data = checkpoint.get("config", {}).get("data", data)
    names = sorted((saved_data.keys() | data.keys()) - set(DATA_MAY_DIFFER))
    saved, wanted = _flat("model", checkpoint["hyper_parameters"]), _flat("model", module.hparams)
    saved |= {f"data.{name}": saved_data.get(name) for name in names}
    wanted |= {f"data.{name}": data.get(name) for name in names}
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise InputError(
                f"ckpt_path={path}: it was trained with {name}={saved.get(name)!r}, this run has {wanted.get(name)!r}; "
                "give the same options, or start a new run without ckpt_path"
            )
    if _shapes(checkpoint["state_dict"]) != _shapes(module.state_dict()):
        raise InputError(f"ckpt_path={path}: its weights do not fit this network; start a new run without ckpt_path")
    return checkpoint


def _flat(name: str, value: Any) -> dict[str, Any]:
    """Options within options by their full names."""
    if not isinstance(value, Mapping):
        return {name: value}
    return {full: leaf for inner in value for full, leaf in _flat(f"{name}.{inner}", value[inner]).items()}


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints beside their place, and moves them there when they are whole and on the disk.

    Lightning's own writes to the folder for temporary files, and from another file system a move is a copy, which can be cut off.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """See CheckpointIO."""
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoint. A run that is continued in another directory takes its best so far along.

    Args:
        folder: where checkpoints are kept.
        monitor: the metric; larger is better.
        resumed: the checkpoint that is continued; the best so far lies beside it.
    """

    def __init__(self, folder: Path, monitor: str, resumed: Path | None) -> None:
        # No "=" in the name, which would have to be quoted in ckpt_path=...
        super().__init__(
            folder,
            "best-epoch{epoch:03d}",
            monitor=monitor,
            mode="max",
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,  # a run that was killed before `last` was saved comes to the same epoch again
        )
        self._resumed = resumed
        self._outdated: list[str] = []

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # Not yet: until `last` is written, the last checkpoint names the one before as the best.
        self._outdated.append(filepath)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves; and deletes what was the best before, now that the last checkpoint of the epoch before is written."""
        self._remove_outdated(trainer)
        super().on_train_epoch_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves one best checkpoint, also of a run that was killed between two writings."""
        best = Path(self.best_model_path)
        self._outdated += [str(path) for path in Path(str(self.dirpath)).glob("best*.ckpt") if path.name != best.name]
        self._remove_outdated(trainer)

    def _remove_outdated(self, trainer: Trainer) -> None:
        for path in self._outdated:
            if trainer.is_global_zero and Path(path) != Path(self.best_model_path):
                Path(path).unlink(missing_ok=True)
        self._outdated = []

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's own forgets the best score when the directory is another one."""
        best, folder = state_dict["best_model_path"], str(self.dirpath)
        if self._resumed is not None and best and state_dict["dirpath"] != folder:
            old, own = self._resumed.parent / Path(best).name, Path(folder) / Path(best).name
            if not old.is_file():
                raise InputError(f"ckpt_path={self._resumed}: the best checkpoint of its run, {old}, is not there")
            if old.resolve() != own.resolve():
                with replacing(own) as temporary:
                    shutil.copyfile(old, temporary)
            state_dict = state_dict | {
                "dirpath": folder,
                "best_model_path": str(own),
                "kth_best_model_path": str(own),
                "best_k_models": {str(own): state_dict["best_model_score"]},
                "last_model_path": "",
            }
        super().load_state_dict(state_dict)


def remove_partial(run_dir: Path) -> None:
    """Deletes what a killed run has left half written."""
    for temporary in (run_dir / LAST.parent).glob(".*.ckpt"):
        temporary.unlink(missing_ok=True)


def is_finished(run_dir: Path, config: dict[str, Any]) -> bool:
    """Whether a run directory has the results of a run of this resolved config."""
    return (run_dir / "results.json").exists() and _has_config(run_dir / LAST, config)


def lock_of(run_dir: Path) -> FileLock:
    """Held by the process that writes into a run directory."""
    return FileLock(run_dir / ".lock")


def _is_at_work(run_dir: Path) -> bool:
    try:
        lock_of(run_dir).acquire(timeout=0).lock.release()
    except Timeout:
        return True
    return False


def unfinished_run(run_dir: Path, config: dict[str, Any], elsewhere: bool) -> Path | None:
    """The run directory that `ckpt_path=auto` continues: this one, else the newest unfinished sibling with an equal config.

    Args:
        run_dir: of this run.
        config: this run's resolved config.
        elsewhere: whether siblings are looked at; those that another process is at work in are not continued.
    """
    siblings = sorted(run_dir.parent.glob(f"*/{LAST}"), key=os.path.getmtime, reverse=True) if elsewhere else []
    for checkpoint in [run_dir / LAST, *siblings]:
        candidate = checkpoint.parents[1]
        if not checkpoint.is_file():
            continue
        if candidate == run_dir:
            return candidate
        # Processes other than the first can not tell that one's lock from a stranger's.
        taken = is_first() and _is_at_work(candidate)
        if not (candidate / "results.json").exists() and not taken and _has_config(checkpoint, config):
            return candidate
    return None


def _has_config(path: Path, config: dict[str, Any]) -> bool:
    try:
        saved = read_checkpoint(path).get("config", {})
    except InputError:
        return False
    return all(saved.get(key) == config.get(key) for key in saved.keys() | config.keys() if key not in MAY_DIFFER)
