"""Which checkpoint a training may continue, how checkpoints are written, and which is kept as the best (reading: models/checkpoint.py)."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from ctl_lightning.models.checkpoint import CONTINUED, OF_TRAINING, read_checkpoint
from ctl_lightning.models.published import is_published
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import replacing
from ctl_lightning.runtime.hub import HubModel

DATA_MAY_DIFFER = ("root", "cache_dir", "store", "chunks_dir", "num_workers", "eval_batch_size")
"""Data options that do not change what is learned or measured."""


NOT_CONTINUED = (
    "it holds the network alone, not the state of a training, so it can be evaluated and served, but not continued"
)


def continued(path: Path) -> Path:
    """The real path of the checkpoint that a run goes on with. Raises InputError: a published model."""
    if is_published(path):
        raise InputError(f"ckpt_path={HubModel.named(path) or path}: {NOT_CONTINUED}")
    return Path(os.path.realpath(path))


def check_resumable(path: Path, module: LightningModule, data: dict[str, Any]) -> dict[str, Any]:
    """Reads the checkpoint of a run that is to go on with `module` and the data options `data`.

    Raises:
        InputError: it was trained with other options, of which the first is named; an older version wrote it; its
            weights do not fit.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint["format"] not in CONTINUED:
        raise InputError(
            f"ckpt_path={path}: an older version of ctl_lightning wrote it, so it can be evaluated and served, but not continued; start a "
            "new run without ckpt_path"
        )
    if not OF_TRAINING.keys() <= checkpoint.keys():
        raise InputError(f"ckpt_path={path}: {NOT_CONTINUED}")
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
    """Nested options as a flat mapping: full name, such as "model.loss.name" -> value."""
    if not isinstance(value, Mapping):
        return {name: value}
    return {full: leaf for inner in value for full, leaf in _flat(f"{name}.{inner}", value[inner]).items()}


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint to a file beside its place, and moves it there when it is whole and on the disk.

    Lightning's own class writes to the folder for temporary files; a move from another file system is a copy, which can
    be cut off.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """See `CheckpointIO.save_checkpoint`."""
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoint. A run that is continued in another directory takes its best so far along.

    Args:
        folder: directory of the checkpoints.
        monitor: name of the metric, such as "val/auc"; larger is better.
        resumed: checkpoint that is continued, with the best so far beside it; None for a new run.
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
        # Not deleted yet: until `last` is written anew, it names this file as the best.
        self._outdated.append(filepath)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Deletes former best checkpoints, now that `last` of the epoch before is written; then saves."""
        self._remove_outdated(trainer)
        super().on_train_epoch_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves a single best checkpoint, even if the run was once killed between two writes."""
        best = Path(self.best_model_path)
        self._outdated += [str(path) for path in Path(str(self.dirpath)).glob("best*.ckpt") if path.name != best.name]
        self._remove_outdated(trainer)

    def _remove_outdated(self, trainer: Trainer) -> None:
        for path in self._outdated:
            if trainer.is_global_zero and Path(path) != Path(self.best_model_path):
                Path(path).unlink(missing_ok=True)
        self._outdated = []

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the best score in another directory too, where Lightning's own method forgets it."""
        best, folder = state_dict["best_model_path"], str(self.dirpath)
        if self._resumed is not None and best and state_dict["dirpath"] != folder:
            old, own = self._resumed.parent / Path(best).name, Path(folder) / Path(best).name
            if not old.is_file():
                raise InputError(f"ckpt_path={self._resumed}: the best checkpoint of its run, {old}, is not there")
            if os.path.realpath(old) != os.path.realpath(own):
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
