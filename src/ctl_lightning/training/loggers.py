"""What a run writes down while it goes, and who is told of its results."""

import sys
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger

from ctl_lightning.runtime.csv_files import MetricsRow
from ctl_lightning.runtime.environment import environment
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.launch import is_first


def csv_logger(run_dir: Path, history: list[MetricsRow]) -> CSVLogger:
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


def finish(failed: bool) -> None:
    """Ends the wandb run, if there is one, as finished or as failed: without it all jobs of a multirun end up in one run."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=int(failed))
