"""Which run of which MLflow store does a training log to?"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger

from ctl_lightning.runtime.addresses import check_no_password
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

CONNECTING = {"postgresql": {"connect_timeout": 5}, "mysql": {"connect_timeout": 5}}
"""Kind of database -> options of its driver, in seconds, for asking whether it is there."""

VARIABLE = "MLFLOW_TRACKING_URI"


def check_store(node: Mapping[str, Any], where: str, output_dir: Path) -> None:
    """Asks the store, if there is one yet, whether it can be used.

    Args:
        node: options of the logger.
        where: their name in messages.
        output_dir: folder of the store, if none is named.

    Raises:
        InputError: there is a password in its address; there is no such store, or it cannot be reached.
    """
    file, address = _own_file(output_dir), node.get("tracking_uri") or os.environ.get(VARIABLE)
    if node.get("tracking_uri"):
        option, way_out = f"{where}.tracking_uri", "null keeps the runs on this machine"
    elif address:
        option, way_out = VARIABLE, "unset it to keep the runs on this machine"
    else:
        option, way_out = str(file), f"move it away, or name another store with {where}.tracking_uri"
    check_no_password(address or "", option)
    check_no_password(node.get("artifact_location") or "", f"{where}.artifact_location")
    if not is_first() or not (address or file.exists()):
        return
    try:
        if (address or _address_of(file)).startswith(SERVERS):
            _ask_server(str(address))
        else:
            output_dir.mkdir(parents=True, exist_ok=True)
            with _alone_at_store(output_dir):
                _ask_database(address or _address_of(file))
    except Exception as error:  # of MLflow, of the database's driver, of the network
        raise InputError(f"{option}: {_said(error)}; {way_out}") from None


def _own_file(output_dir: Path) -> Path:
    # MLflow no longer keeps its store of plain files, and asks for a database; SQLite is one in a file.
    return (output_dir / "mlflow.db").absolute()


def _address_of(file: Path) -> str:
    return f"sqlite:///{file}"


def _alone_at_store(output_dir: Path) -> AbstractContextManager[None]:
    # Jobs that begin together would each make the tables of a new store.
    return in_turn(output_dir / ".mlflow.lock", "waiting for another run to open MLflow's store")


def _said(error: Exception) -> str:
    """What the store says, or the driver of its database, in one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())[:300] or type(error).__name__


def _ask_server(address: str) -> None:
    from mlflow.tracking import MlflowClient

    before = {name: os.environ.get(name) for name in QUICK}
    os.environ.update({name: value for name, value in QUICK.items() if before[name] is None})
    try:
        MlflowClient(address).search_experiments(max_results=1)
    finally:
        for name in (name for name, value in before.items() if value is None):
            del os.environ[name]


def _ask_database(address: str) -> None:
    """Connects once, and reads: MLflow would try for minutes, with a warning each time, and make the folders of a mistyped path."""
    from mlflow.store.db.db_types import DATABASE_ENGINES
    from mlflow.tracking import MlflowClient
    from sqlalchemy import NullPool, create_engine, inspect, make_url

    if address.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:  # else MLflow says what it takes
        url = make_url(address)
        kind = url.get_backend_name()
        if kind == "sqlite" and not (folder := Path(url.database or "").absolute().parent).is_dir():
            raise InputError(f"there is no folder {folder}; make it, or mend the path")
        inspect(create_engine(url, poolclass=NullPool, connect_args=CONNECTING.get(kind, {}))).has_table("experiments")
    MlflowClient(address).search_experiments(max_results=1)


def mlflow_logger(node: Config, where: str, run_dir: Path, output_dir: Path, group: str) -> MLFlowLogger:
    """A logger to the run that `run_dir` belongs to, which is begun if there is none.

    Args:
        node: options of the logger, with its `_target_`.
        where: their name in messages.
        run_dir: run directory.
        output_dir: folder of the store, if none is named.
        group: what is kept as the run's tag "group", if the options have none: the sweep, or the protocol.

    Raises:
        InputError: the store fails, or the run that `run_dir` names is not in it.
    """
    address = node.get("tracking_uri") or os.environ.get(VARIABLE) or _address_of(_own_file(output_dir))
    files = node.get("artifact_location")
    if files is None and not address.startswith(SERVERS):  # a database alone; MLflow would make ./mlruns
        files = (output_dir / "mlflow").absolute().as_uri()
    note = run_dir / RUN_ID
    given = {
        "tracking_uri": address,
        "artifact_location": files,
        "tags": {"group": group} | (node.get("tags") or {}),
        "run_id": note.read_text(encoding="utf-8").strip() if is_first() and note.exists() else None,
    }
    logger: MLFlowLogger = build(node, where, **given)
    if is_first():
        output_dir.mkdir(parents=True, exist_ok=True)
        with _alone_at_store(output_dir):
            _begin(logger, note, where)
    return logger


def _begin(logger: MLFlowLogger, note: Path, where: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        run = str(logger.run_id)
    except MlflowException as error:
        if not note.exists():
            raise InputError(f"{where}: {_said(error)}; name another store with {where}.tracking_uri") from None
        raise InputError(
            f"{where}: the run of {note} is not there ({_said(error)}); delete that file for a new one"
        ) from None
    logger.experiment.update_run(run, status="RUNNING")  # one that goes on had ended
    write_text(note, run + "\n")
