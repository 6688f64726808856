"""What a person can watch while a training goes on: the same scenes again after epochs, and AUC by category."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer

from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.metrics.intervals import NOTHING
from ctl_lightning.metrics.pair_metrics import mean
from ctl_lightning.reports.dashboards import Exhibit, Table, show
from ctl_lightning.reports.examples import ATTENDED, attention_rows, retrieval_rows
from ctl_lightning.reports.figures.grids import attention_overlays, retrieval_grid
from ctl_lightning.runtime.errors import only_warned
from ctl_lightning.runtime.launch import is_first


class Watch(Callback):
    """Draws the same validation scenes after epochs: their nearest products, and their attention; and shows AUC by category.

    Args:
        folder: folder for the pictures.
        every: number of epochs from one drawing to the next; more pass if not every epoch is validated. 0: never.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self._folder = folder
        self._every = every
        self._next = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the pictures and shows them in the loggers."""
        epoch = trainer.current_epoch
        if not self._every or epoch < self._next or trainer.sanity_checking or not is_first():
            return
        self._next = epoch + self._every
        module: Any = pl_module  # training.module.CompleteTheLook, which this layer does not know
        data: TripletDataModule = trainer.datamodule  # type: ignore[attr-defined]
        task, scores = data.evaluation("validation"), module.scores
        pictures = {}
        path = self._folder / f"retrieval_epoch{epoch:03d}.png"
        with only_warned(f"{path}: not drawn"):
            retrieval_grid(path, retrieval_rows(data, task, module.ranking.distances, scores))
            pictures["validation_retrieval"] = path
        path = self._folder / f"attention_epoch{epoch:03d}.png"
        if module.ranking.attention().shape[1]:
            with only_warned(f"{path}: not drawn"):
                left_out = max(0, len(task.categories) - ATTENDED)
                attention_overlays(path, attention_rows(data, task, module.network), left_out)
                pictures["validation_attention"] = path
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
