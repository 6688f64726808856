"""What a person wants to see while a training goes on: how fast it is, and the same scenes again after every epoch."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.triplets import Triplet
from ctl_lightning.metrics.intervals import NOTHING
from ctl_lightning.metrics.retrieval import mean
from ctl_lightning.reports.dashboards import Exhibit, Table, show
from ctl_lightning.reports.examples import attention_rows, retrieval_rows
from ctl_lightning.reports.figures import attention_overlays, retrieval_grid
from ctl_lightning.runtime.launch import is_first
from ctl_lightning.training.module import CompleteTheLook


class Speed(Callback):
    """Logs `train/images_per_second`, of all processes, and `train/data_wait`, the share of the time that steps waited for data.

    Where steps run on another device than the host, waiting for that device counts for the step that the host was in.
    """

    def __init__(self) -> None:
        self._images = 0
        self._waited = 0.0
        self._since = self._ended = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that goes on within an epoch has no other start of it."""
        self._begin()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation does not count."""
        self._begin()

    def _begin(self) -> None:
        self._images, self._waited = 0, 0.0
        self._since = self._ended = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch is there."""
        self._waited += time.perf_counter() - self._ended
        self._images += len(batch.category) * (3 if isinstance(batch, Triplet) else 2)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs with the loss, so at the steps at which the host waits for the device anyway."""
        self._ended = time.perf_counter()
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step % every == 0:
            seconds = self._ended - self._since
            pl_module.log("train/images_per_second", self._images * trainer.world_size / seconds)
            pl_module.log("train/data_wait", self._waited / seconds)
            self._begin()


class Watch(Callback):
    """Draws the same validation scenes after epochs: their nearest products, and their attention; and shows AUC by category.

    Args:
        folder: for the pictures.
        every: so many epochs apart, or more if not every epoch is validated; 0: never.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self._folder = folder
        self._every = every
        self._next = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws and shows."""
        epoch = trainer.current_epoch
        if not self._every or epoch < self._next or trainer.sanity_checking or not is_first():
            return
        self._next = epoch + self._every
        assert isinstance(pl_module, CompleteTheLook)
        data: TripletDataModule = trainer.datamodule  # type: ignore[attr-defined]
        task, scores = data.evaluation("validation"), pl_module.scores
        pictures = {"validation_retrieval": self._folder / f"retrieval_epoch{epoch:03d}.png"}
        retrieval_grid(
            pictures["validation_retrieval"], retrieval_rows(data, task, pl_module.ranking.distances, scores)
        )
        if pl_module.ranking.attention().shape[1]:
            pictures["validation_attention"] = self._folder / f"attention_epoch{epoch:03d}.png"
            attention_overlays(pictures["validation_attention"], attention_rows(data, task, pl_module))
        rows = [
            [category, int(own.sum()), mean(scores.auc[own]) if own.any() else NOTHING["value"]]
            for number, category in enumerate(task.categories)
            for own in [np.asarray(task.category == number)]
        ]
        exhibit = Exhibit(
            pictures,
            {"val/categories": Table(["category", "pairs", "auc"], rows)},
            {"val/distances_positive": scores.positive, "val/distances_negative": scores.negative},
        )
        show(trainer.loggers, exhibit, trainer.global_step)
