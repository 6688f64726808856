"""What happens beside the steps of a training: what checkpoints are told, progress, speed."""

import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import CSVLogger

from ctl_lightning.data.triplets import Triplet


class RunInCheckpoint(Callback):
    """Puts into every checkpoint what it should know of its run: the config, so its protocol, and the time that it took.

    Args:
        config: the resolved config, as plain values.
        seconds: of training before this program was started.
    """

    def __init__(self, config: dict[str, Any], seconds: float) -> None:
        self._config = config
        self._before = seconds
        self._started = time.monotonic()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Of training, with that of the runs that this one continues."""
        return self._before + time.monotonic() - self._started

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the keys `config` and `train_seconds`; what was logged so far is written, lest a killed run go on without it."""
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.save()
        checkpoint["config"] = self._config
        checkpoint["train_seconds"] = self.seconds()


class ProgressBar(RichProgressBar):
    """Lightning's, with the loss. It reads it from the device only when it is logged: in each step, the host would wait."""

    _loss: dict[str, float] = {}  # noqa: RUF012 - replaced, never changed

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step % every == 0 and "train/loss" in trainer.logged_metrics:
            self._loss = {"loss": float(trainer.logged_metrics["train/loss"])}
        return super().get_metrics(trainer, pl_module) | self._loss


class EpochLines(Callback):
    """A line after each validation where there is no terminal for a progress bar: a log file shall not look hung."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the epoch and its validation AUC."""
        found = trainer.callback_metrics.get("val/auc")
        if found is not None and not sys.stdout.isatty() and trainer.is_global_zero:
            print(
                f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: validation auc {float(found):.3f}",
                flush=True,
            )


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
