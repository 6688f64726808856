"""Which run of which MLflow store does a training log to?"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger

from ctl_lightning.runtime.config import Config, build
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import write_text
from ctl_lightning.runtime.launch import is_first
from ctl_lightning.runtime.locks import in_turn

RUN_ID = "mlflow_id.txt"
"""File in a run directory with the id of its run at MLflow; a continued run continues that one too."""

SERVERS = ("http://", "https://", "databricks")
"""What the address of a store begins with that keeps files, too."""

QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}
"""Environment for asking whether a server is there: MLflow would try for minutes."""


def given_address(node: Mapping[str, Any]) -> str | None:
    """The address of the store that the option or the environment names; None: a file of this machine."""
    return node.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI") or None


def check_store(address: str, option: str) -> None:
    """Raises InputError: there is no such store, or it cannot be reached."""
    from mlflow.tracking import MlflowClient

    before = {name: os.environ.get(name) for name in QUICK}
    os.environ.update({name: value for name, value in QUICK.items() if before[name] is None})
    try:
        MlflowClient(address).search_experiments(max_results=1)
    except Exception as error:  # of MLflow, of the database's driver, of the network
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{option}: {said or type(error).__name__}; null keeps the runs on this machine") from None
    finally:
        for name in (name for name, value in before.items() if value is None):
            del os.environ[name]


def mlflow_logger(node: Config, where: str, run_dir: Path, output_dir: Path, group: str) -> MLFlowLogger:
    """A logger to the run that `run_dir` belongs to, which is begun if there is none.

    Args:
        node: options of the logger, with its `_target_`.
        where: their name in messages.
        run_dir: run directory.
        output_dir: folder of the store, if none is named.
        group: what is kept as the run's tag "group": the sweep, or the protocol.

    Raises:
        InputError: the run that `run_dir` names is not in the store.
    """
    # MLflow no longer keeps its store of plain files, and asks for a database; SQLite is one in a file.
    address = given_address(node) or f"sqlite:///{(output_dir / 'mlflow.db').absolute()}"
    files = node.get("artifact_location")
    if files is None and not address.startswith(SERVERS):  # a database alone; MLflow would make ./mlruns
        files = (output_dir / "mlflow").absolute().as_uri()
    note = run_dir / RUN_ID
    given = {
        "tracking_uri": address,
        "artifact_location": files,
        "tags": (node.get("tags") or {}) | {"group": group},
        "run_id": note.read_text(encoding="utf-8").strip() if is_first() and note.exists() else None,
    }
    logger: MLFlowLogger = build(node, where, **given)
    if is_first():
        output_dir.mkdir(parents=True, exist_ok=True)
        # Jobs that begin together would each make the tables of a new store.
        with in_turn(output_dir / ".mlflow.lock", "waiting for another run to open MLflow's store"):
            _begin(logger, note, where)
    return logger


def _begin(logger: MLFlowLogger, note: Path, where: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        run = str(logger.run_id)
    except MlflowException as error:
        raise InputError(
            f"{where}: the run of {note} is not there ({' '.join(str(error).split())[:200]}); delete that file for a new one"
        ) from None
    logger.experiment.update_run(run, status="RUNNING")  # one that goes on had ended
    write_text(note, run + "\n")
