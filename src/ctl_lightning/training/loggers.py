"""What a run writes down while it goes, and who is told of its results."""

import csv
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from ctl_lightning.reports.dashboards import Exhibit, show
from ctl_lightning.reports.results import Results, environment, flat_table
from ctl_lightning.runtime.errors import ERROR, InputError, InUseError
from ctl_lightning.runtime.files import write_text
from ctl_lightning.runtime.launch import is_first

Row = dict[str, float]


@contextmanager
def noted_failure(run_dir: Callable[[], Path], told: Callable[[Exception], str]) -> Iterator[None]:
    """Writes into the run directory, for the table of a sweep, what ends the block; a run that begins or succeeds leaves no such note.

    Args:
        run_dir: of the run, which may continue another one than the first; one with results is left alone.
        told: what is said of an error.
    """
    (run_dir() / ERROR).unlink(missing_ok=True)
    try:
        yield
    except InUseError:
        raise
    except Exception as error:
        if run_dir().is_dir() and not (run_dir() / "results.json").exists():
            write_text(run_dir() / ERROR, told(error) + "\n")
        raise
    (run_dir() / ERROR).unlink(missing_ok=True)


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


def read_metrics(path: Path) -> list[Row]:
    """Rows of a metrics.csv, empty cells left out; none if there is no such file. A last line that was cut off is none."""
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(whole.splitlines())]


def csv_logger(run_dir: Path, history: list[Row]) -> CSVLogger:
    """A logger to run_dir/metrics.csv that begins with the rows of the run that is continued.

    Lightning's logger deletes the file that it finds, so the rows are handed over and written first.
    """
    if not is_first():
        return CSVLogger(run_dir, name="", version="")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        logger = CSVLogger(run_dir, name="", version="")
        logger.experiment.metrics.extend(dict(row) for row in history)
        logger.save()
    return logger


def log_config(loggers: list[Logger], config: dict[str, Any]) -> None:
    """Hands the resolved config, with the environment, to the loggers. Raises InputError if wandb can not start."""
    for logger in loggers:
        try:
            logger.log_hyperparams(config | {"environment": environment()})
        except Exception as error:
            if not type(error).__module__.startswith("wandb"):
                raise
            reason = " ".join(str(error).split())
            raise InputError(
                f"logger=wandb: {reason}; log in with `wandb login`, or give logger.wandb.offline=true"
            ) from None


def log_results(loggers: list[Logger], results: Results, shown: Exhibit, step: int) -> None:
    """Hands final metrics, tables and pictures to the loggers that can show them."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update({f"test/{row[0]}/{row[1]}": row[2] for row in flat_table(results)})
    show(loggers, shown, step)


def finish(failed: bool) -> None:
    """Ends the wandb run, if there is one, as finished or as failed: without it all jobs of a multirun end up in one run."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=int(failed))
