"""Callbacks beside the steps of a training: what they add to checkpoints, show as progress and log as speed."""

import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import CSVLogger

from ctl_lightning.data.triplets import Triplet


class RunInCheckpoint(Callback):
    """Adds to every checkpoint the config of its run, which has the protocol, and the time that the training took.

    Args:
        config: resolved config of the run, as plain values.
        seconds: training time before this program was started, in seconds.
    """

    def __init__(self, config: dict[str, Any], seconds: float) -> None:
        self._config = config
        self._before = seconds
        self._started = time.monotonic()
        self._ended: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started, self._ended = time.monotonic(), None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock: what is measured afterwards is no training."""
        self._ended = time.monotonic()

    def seconds(self) -> float:
        """Training time so far, in seconds, including the runs that this one continues."""
        return self._before + (time.monotonic() if self._ended is None else self._ended) - self._started

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the keys `config` and `train_seconds`; writes what was logged, so that a killed run goes on with it."""
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.save()
        checkpoint["config"] = self._config
        checkpoint["train_seconds"] = self.seconds()


class ProgressBar(RichProgressBar):
    """Lightning's bar, with the loss, read from the device only when it is logged: else the host waits in each step."""

    _loss: dict[str, float] = {}  # noqa: RUF012 - replaced, never changed

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The values shown behind the bar."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step % every == 0 and "train/loss" in trainer.logged_metrics:
            self._loss = {"loss": float(trainer.logged_metrics["train/loss"])}
        return super().get_metrics(trainer, pl_module) | self._loss


class EpochLines(Callback):
    """Prints a line after each validation where no terminal shows a progress bar: a log file should not look hung."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the epoch and its validation AUC."""
        found = trainer.callback_metrics.get("val/auc")
        if found is not None and not trainer.sanity_checking and not sys.stdout.isatty() and trainer.is_global_zero:
            of = f" of {trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""  # -1: as many as the steps take
            print(f"epoch {trainer.current_epoch + 1}{of}: validation auc {float(found):.3f}", flush=True)


class Speed(Callback):
    """Logs `train/images_per_second`, of all processes, and `train/data_wait`, the share of time that steps waited.

    Where steps run on another device than the host, waiting for that device counts towards the step that the host was
    in.
    """

    def __init__(self) -> None:
        self._images = 0
        self._waited = 0.0
        self._since = self._ended = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts to count; a run that goes on within an epoch has no other start of that epoch."""
        self._begin()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts to count again, so that validation does not count."""
        self._begin()

    def _begin(self) -> None:
        self._images, self._waited = 0, 0.0
        self._since = self._ended = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Counts the pictures of the batch and the time that the step waited for it."""
        self._waited += time.perf_counter() - self._ended
        self._images += len(batch.category) * (3 if isinstance(batch, Triplet) else 2)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs at the steps at which the loss is logged, where the host waits for the device anyway."""
        self._ended = time.perf_counter()
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step % every == 0:
            seconds = self._ended - self._since
            pl_module.log("train/images_per_second", self._images * trainer.world_size / seconds)
            pl_module.log("train/data_wait", self._waited / seconds)
            self._begin()
