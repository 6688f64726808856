"""Which options can the loggers be given? What they would refuse in the middle of the work is refused before it."""

import inspect
import os
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

from hydra.utils import get_class
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from ctl_lightning.runtime.config import Config, check_options
from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.runtime.launch import is_first
from ctl_lightning.training.mlflow_runs import check_store

WANDB_FIELDS = {
    "project": "project",
    "entity": "entity",
    "name": "run_name",
    "id": "run_id",
    "version": "run_id",
    "tags": "run_tags",
    "group": "run_group",
    "job_type": "run_job_type",
    "notes": "run_notes",
    "mode": "mode",
    "save_code": "save_code",
}
"""Option of Weights & Biases' logger -> the field of `wandb.Settings` that says what may be in it."""

WANDB_HINTS: dict[str, Any] = {
    "offline": bool,
    "log_model": bool | Literal["all"],
    "save_dir": str,
    "dir": str | None,
    "prefix": str,
    "tags": list[str] | None,
    "config": dict[str, Any] | None,
    "settings": dict[str, Any] | None,
    "checkpoint_name": str | None,
}
"""Annotations of options; those of the logger itself are for type checkers alone."""

WANDB_REFUSED = {
    "resume": "a run that goes on is the same run there; continue it with ckpt_path=auto",
    "resume_from": "a run that goes on is the same run there; continue it with ckpt_path=auto",
    "fork_from": "a run that goes on is the same run there; continue it with ckpt_path=auto",
    "reinit": "every run of this program is a run of its own there",
    "experiment": "it is an object, which the command line cannot give",
}
"""Option that a run cannot be given, because the run directory decides -> what is said of it."""


MLFLOW_HINTS: dict[str, Any] = {
    "experiment_name": str,
    "run_name": str | None,
    "tracking_uri": str | None,
    "tags": dict[str, Any] | None,
    "prefix": str,
    "artifact_location": str | None,
    "synchronous": bool | None,
}

MLFLOW_REFUSED = {
    "run_id": "a run that goes on is the same run there; continue it with ckpt_path=auto",
    "log_model": "checkpoints are uploaded by upload_checkpoints=true",
    "save_dir": "it would be a store of plain files, which MLflow no longer keeps; give tracking_uri",
}


def check_loggers(options: Config) -> None:
    """Refuses options of the loggers that they would refuse once the data are ready, and what they cannot do.

    Args:
        options: resolved options of a training.

    Raises:
        InputError: names the option, such as `logger.wandb.tags`, and the way out.
    """
    kinds = []
    for name, node in options["logger"].items():
        where = f"logger.{name}"
        if not isinstance(node, dict) or "_target_" not in node:
            raise InputError(f"{where}={node}: expected options with a _target_, the class to make")
        kind = get_class(node["_target_"])
        if not issubclass(kind, Logger):
            raise InputError(f"{where}._target_={node['_target_']}: this is no logger of Lightning's")
        kinds.append(kind)
        given = {option: value for option, value in node.items() if option != "_target_"}
        if issubclass(kind, WandbLogger):
            _check_wandb(given, where)
        if issubclass(kind, TensorBoardLogger):
            _check_tensorboard(given, where)
        if issubclass(kind, MLFlowLogger):
            _check_mlflow(given, where)
            check_store(given, where, Path(options["paths"]["output_dir"]))
        for option in ("save_dir", "dir"):
            _check_place(given.get(option), f"{where}.{option}")
    if options["upload_checkpoints"] and not any(issubclass(kind, (WandbLogger, MLFlowLogger)) for kind in kinds):
        raise InputError("upload_checkpoints=true: there is no logger to upload to; give logger=wandb or logger=mlflow")


def _check_wandb(given: Config, where: str) -> None:
    import wandb
    from pydantic import ValidationError
    from wandb.errors import UsageError

    for option, why in WANDB_REFUSED.items():
        if given.get(option) is not None:
            raise InputError(f"{where}.{option}={given[option]}: {why}")
    _check_known(given, where, WandbLogger.__init__, wandb.init)
    check_options(given, WANDB_HINTS, f"{where}.")
    for option, value in given.items():
        fields = {WANDB_FIELDS[option]: value} if option in WANDB_FIELDS else {}
        try:
            wandb.Settings(**((value or {}) if option == "settings" else fields))
        except (ValidationError, UsageError) as error:
            raise InputError(f"{where}.{option}={value}: {_said(error)}") from None
    try:
        wandb.Settings().update_from_env_vars(dict(os.environ))
    except (ValidationError, UsageError) as error:
        raise InputError(f"{where}: one of the environment variables WANDB_* is not right: {_said(error)}") from None
    mode = "offline" if given.get("offline") else given.get("mode") or os.environ.get("WANDB_MODE", "online")
    if given.get("log_model") and mode in ("offline", "dryrun", "disabled"):
        raise InputError(
            f"{where}.log_model={given['log_model']}: offline, nothing can be uploaded; leave it out, or give upload_checkpoints=true, "
            "which notes them for `wandb sync`"
        )
    if mode in ("online", "shared") and not given.get("settings") and is_first():
        try:
            wandb.login(verify=False)  # asks now where it would ask once the data are ready
        except wandb.Error as error:
            raise InputError(
                f"{where}: {' '.join(str(error).split())}; log in with `wandb login`, or give {where}.offline=true"
            ) from None


def _said(error: Exception) -> str:
    """What wandb says of a value, without pydantic's words around it."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    first = error.errors()[0]
    place = "".join(f" ({field})" for field in first["loc"] if field != "run_tags")
    return first["msg"].removeprefix("Value error, ") + place


def _check_tensorboard(given: Config, where: str) -> None:
    if find_spec("tensorboard") is None:
        raise InputError(f"{where}: TensorBoard is not installed; pip install 'ctl_lightning[tensorboard]'")
    from torch.utils.tensorboard import SummaryWriter

    _check_known(given, where, TensorBoardLogger.__init__, SummaryWriter.__init__)
    hints = {"max_queue": int, "flush_secs": int, "filename_suffix": str, "comment": str, "prefix": str}
    check_options(given, hints, f"{where}.")


def _check_mlflow(given: Config, where: str) -> None:
    if not all(find_spec(package) for package in ("mlflow", "sqlalchemy", "alembic")):
        raise InputError(f"{where}: MLflow is not installed; pip install 'ctl_lightning[mlflow]'")
    for option, why in MLFLOW_REFUSED.items():
        if given.get(option):
            raise InputError(f"{where}.{option}={given[option]}: {why}")
    _check_known(given, where, MLFlowLogger.__init__)
    check_options(given, MLFLOW_HINTS, f"{where}.")


def _check_known(given: Config, where: str, *takers: Any) -> None:
    """Raises InputError for an option that none of the functions takes that it is handed to."""
    known = {name for taker in takers for name in inspect.signature(taker).parameters} - {"self", "kwargs", "log_dir"}
    for option in given:
        if option not in known:
            raise InputError(
                f"there is no option '{where}.{option}'{suggestion(option, known)}; there are: {', '.join(sorted(known))}"
            )


def _check_place(folder: str | None, option: str) -> None:
    """Raises InputError if a folder cannot be made, or not be written to."""
    if folder is None:
        return
    path = Path(folder).absolute()
    nearest = next(one for one in (path, *path.parents) if one.exists())
    try:
        with TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(
            f"{option}={folder}: {nearest} cannot be written to ({error.strerror}); choose another place"
        ) from None
