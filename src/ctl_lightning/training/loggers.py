"""Where is a run logged? To metrics.csv always, and to Weights & Biases, TensorBoard or MLflow where they are chosen."""

import hashlib
import os
import secrets
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from ctl_lightning.runtime.config import build
from ctl_lightning.runtime.csv_files import MetricsRow
from ctl_lightning.runtime.environment import environment
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import write_text
from ctl_lightning.runtime.launch import is_first
from ctl_lightning.training.mlflow_runs import mlflow_logger
from ctl_lightning.training.run_directory import RunDirectory, is_multirun

RUN_ID = "wandb_id.txt"
"""File in a run directory with the id of its run at Weights & Biases; a continued run continues that one too."""


@contextmanager
def open_loggers(run: RunDirectory) -> Iterator[list[Logger]]:
    """The loggers of a run, metrics.csv first; they get the options and the split, and are closed after the block.

    Raises:
        InputError: a logger cannot be made or cannot start.
    """
    chosen: list[Logger] = []
    try:
        chosen += _chosen(run)
        _log_config(chosen, run.options)  # not in metrics.csv's logger: config.yaml is there already
        loggers = [csv_logger(run.path, run.history), *chosen]
        note_split(loggers, run.options["protocol"], [run.path / "split.json", run.path / "triplets.jsonl"])
        yield loggers
    finally:
        failed = sys.exc_info()[0] is not None
        finish(failed)
        for logger in chosen:
            if isinstance(logger, MLFlowLogger):
                logger.finalize("failed" if failed else "finished")


def _chosen(run: RunDirectory) -> list[Logger]:
    chosen: list[Logger] = []
    group = Path(HydraConfig.get().sweep.dir).name if is_multirun() else run.options["protocol"]
    for name, node in run.options["logger"].items():
        given: dict[str, Any] = {}
        kind = get_class(node["_target_"]) if isinstance(node, dict) and "_target_" in node else object
        if issubclass(kind, TensorBoardLogger) and run.checkpoint:
            given = {"purge_step": run.checkpoint["global_step"]}  # what was logged after the checkpoint comes again
        if issubclass(kind, WandbLogger) and is_first():
            given = {"id": node.get("id") or wandb_id(run.path), "resume": "allow"}
            given["group"] = node.get("group") or group
        if issubclass(kind, MLFlowLogger):
            place = Path(run.options["paths"]["output_dir"])
            chosen.append(mlflow_logger(node, f"logger.{name}", run.path, place, group))
            continue
        chosen.append(build(node, f"logger.{name}", **given))
    return chosen


def csv_logger(run_dir: Path, history: list[MetricsRow]) -> CSVLogger:
    """A logger to run_dir/metrics.csv that begins with `history`, the rows of the run that is continued.

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


def _log_config(loggers: list[Logger], config: dict[str, Any]) -> None:
    """Gives the resolved config and the environment to the loggers. Raises InputError if wandb cannot start."""
    for logger in loggers:
        if isinstance(logger, MLFlowLogger) and is_first() and logger.experiment.get_run(logger.run_id).data.params:
            continue  # a run that goes on: MLflow keeps the first value of a parameter, and refuses another
        try:
            logger.log_hyperparams(config | {"environment": environment()})
        except Exception as error:
            if not type(error).__module__.startswith(("wandb", "pydantic")):
                raise
            reason = " ".join(str(error).split())
            raise InputError(
                f"logger=wandb: {reason}; log in with `wandb login`, or give logger.wandb.offline=true"
            ) from None


def finish(failed: bool) -> None:
    """Ends the wandb run, if any, as finished or failed; without this, all jobs of a multirun end up in one run."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=int(failed))


def wandb_id(run_dir: Path) -> str:
    """The id of this run directory's run at Weights & Biases: drawn once, by an agent of a sweep or here, and kept in the directory."""
    path = run_dir / RUN_ID
    if not path.exists():
        drawn = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        write_text(path, (drawn or secrets.token_hex(4)) + "\n")
    return path.read_text(encoding="utf-8").strip()


def note_split(loggers: Iterable[Logger], protocol: str | None, files: Sequence[Path]) -> None:
    """Keeps the split and triplets that the run used: at Weights & Biases as an artifact, of which runs with the same share a version.

    Args:
        loggers: loggers of the run.
        protocol: name of the protocol.
        files: files of the split and the triplets; they hold ids only.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and is_first():
            import wandb

            digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
            artifact = wandb.Artifact(f"split-{protocol}", "split", metadata={"sha256": digest})
            for path in files:
                artifact.add_file(str(path))
            run = logger.experiment
            # Offline, no artifact can be asked for, but what the run used can still be noted.
            run.log_artifact(artifact) if run.offline else run.use_artifact(artifact)
        if isinstance(logger, MLFlowLogger) and is_first():
            for path in files:
                logger.experiment.log_artifact(logger.run_id, str(path), "split")


def upload_checkpoints(loggers: Iterable[Logger], best: Path, last: Path) -> None:
    """Uploads a run's checkpoints: to Weights & Biases as versions of one artifact with aliases "last" and "best", to MLflow as files."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and is_first():
            import wandb

            for path, alias in ((last, "last"), (best, "best")):
                artifact = wandb.Artifact(f"checkpoint-{logger.experiment.id}", "model")
                artifact.add_file(str(path), name="checkpoint.ckpt")
                logger.experiment.log_artifact(artifact, aliases=[alias])
        if isinstance(logger, MLFlowLogger) and is_first():
            for path in (last, best):
                logger.experiment.log_artifact(logger.run_id, str(path), "checkpoints")
