"""What a logger would refuse once the data are ready is refused before any work, by name, in one line."""

import os
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from factories import TINY
from omegaconf import DictConfig, OmegaConf

from ctl_lightning.runtime.config import check_names, check_values, config_dir
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.train import train

WANDB = [
    ("tags", f"[{'a' * 65}]", "Tags must be between 1 and 64 characters"),
    ("tags", "['']", "is empty"),
    ("tags", "alone", "should be a valid list"),
    ("tags", "[2026]", "should be a valid string"),
    ("offline", "maybe", "should be a valid boolean"),
    ("project", "team/looks", "cannot contain characters"),
    ("project", "p" * 129, "exceeded 128 characters"),
    ("project", "7", "should be a valid string"),
    ("entity", "7", "should be a valid string"),
    ("group", "[a]", "should be a valid string"),
    ("name", "{a: 1}", "should be a valid string"),
    ("job_type", "5", "should be a valid string"),
    ("notes", "5", "should be a valid string"),
    ("mode", "sometimes", "should be 'online', 'offline'"),
    ("id", "a/b", "cannot contain"),
    ("id", "''", "cannot be empty"),
    ("log_model", "true", "offline, nothing can be uploaded"),
    ("log_model", "often", "should be"),
    ("resume", "must", "continue it with ckpt_path=auto"),
    ("fork_from", "abc?_step=3", "continue it with ckpt_path=auto"),
    ("reinit", "true", "a run of its own"),
    ("settings", "{fooo: 1}", "not permitted"),
    ("enttiy", "x", "did you mean 'entity'"),
    ("save_dir", "/proc/looks", "/proc cannot be written to"),
]
TENSORBOARD = [
    ("max_queue", "many", "should be a valid integer"),
    ("log_graph", "7", "should be a valid boolean"),
    ("log_dir", "elsewhere", "there is no option"),
    ("falsh_secs", "3", "did you mean 'flush_secs'"),
    ("save_dir", "/proc/looks", "/proc cannot be written to"),
]

MLFLOW = [
    ("experiment_name", "7", "should be a valid string"),
    ("run_id", "abc", "continue it with ckpt_path=auto"),
    ("log_model", "true", "upload_checkpoints=true"),
    ("save_dir", "mlruns", "give tracking_uri"),
    ("experiment", "looks", "did you mean 'experiment_name'"),
    ("tracking_uri", "http://127.0.0.1:9", "port=9): Failed to establish"),
    ("tracking_uri", "file:///tmp/mlruns", "maintenance mode"),
    ("tracking_uri", "nonsense://x", "nonsense"),
    ("tracking_uri", "postgresql+psycopg://127.0.0.1:9/x", "connection failed"),
    ("tracking_uri", "postgresql+psycopg://127.0.0.1:9/x", "null keeps the runs on this machine"),
    ("tracking_uri", "sqlite:////nowhere/at/all/x.db", "there is no folder /nowhere/at/all; make it, or mend the path"),
    ("tracking_uri", "http://u:pass@127.0.0.1:9", "a password in it would be written into files"),
    ("artifact_location", "sftp://u:pass@127.0.0.1", "a password in it would be written into files"),
]


@pytest.fixture(scope="module")
def chosen() -> dict[str, DictConfig]:
    """Configs of tiny trainings with a logger each, composed once."""
    words = {
        "wandb": ["logger=wandb", "logger.wandb.offline=true"],
        "tensorboard": ["logger=tensorboard"],
        "mlflow": ["logger=mlflow"],
        "x": [],
    }
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        return {name: hydra.compose("train", ["paths.run_dir=run", *TINY, *own]) for name, own in words.items()}


def refusal(config: DictConfig, run: Path) -> str:
    """What the program says; there is no run directory afterwards."""
    config.paths.run_dir = str(run)
    with pytest.raises(InputError) as caught:
        check_and_train(config)
    assert not run.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check_and_train(config: DictConfig) -> None:
    check_values(check_names("train", config))
    train(config)


@pytest.mark.parametrize(
    ("logger", "option", "value", "says"),
    [
        *(("wandb", *row) for row in WANDB),
        *(("tensorboard", *row) for row in TENSORBOARD),
        *(("mlflow", *row) for row in MLFLOW),
    ],
)
def test_a_wrong_option_is_refused_by_name(
    chosen: dict[str, DictConfig], tmp_path: Path, logger: str, option: str, value: str, says: str
) -> None:
    config = chosen[logger].copy()
    OmegaConf.update(
        config, f"logger.{logger}.{option}", OmegaConf.from_dotlist([f"value={value}"]).value, force_add=True
    )
    said = refusal(config, tmp_path / "run")
    assert f"logger.{logger}.{option}" in said
    assert says in said


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (
            {"_target_": "lightning.pytorch.loggers.Nothing"},
            "logger.x._target_=lightning.pytorch.loggers.Nothing: there is",
        ),
        ({"_target_": "lightning.Trainer"}, "logger.x._target_=lightning.Trainer: this is no logger"),
        (1, "logger.x=1: expected options with a _target_"),
    ],
)
def test_what_is_no_logger_is_refused(chosen: dict[str, DictConfig], tmp_path: Path, node: object, says: str) -> None:
    config = chosen["x"].copy()
    OmegaConf.update(config, "logger.x", node, force_add=True)
    assert says in refusal(config, tmp_path / "run")


def test_a_logger_to_upload_to_is_asked_for_before_any_work(chosen: dict[str, DictConfig], tmp_path: Path) -> None:
    config = chosen["tensorboard"].copy()
    config.upload_checkpoints = True
    assert "there is no logger to upload to; give logger=wandb or logger=mlflow" in refusal(config, tmp_path / "run")


def test_a_wrong_variable_of_the_environment_is_told(
    chosen: dict[str, DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "")
    said = refusal(chosen["wandb"].copy(), tmp_path / "run")
    assert "environment variables WANDB_* is not right: Input should be a valid boolean" in said
    assert "(silent)" in said


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://u:secret@127.0.0.1:9", "MLFLOW_TRACKING_URI: a password in it would be written into files; "),
        ("postgresql+psycopg://127.0.0.1:9/x", "; unset it to keep the runs on this machine"),
    ],
)
def test_a_wrong_store_of_the_environment_is_told(
    chosen: dict[str, DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, says: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    said = refusal(chosen["mlflow"].copy(), tmp_path / "run")
    assert said.startswith("MLFLOW_TRACKING_URI: ")
    assert says in said
    assert "secret" not in said


def test_a_file_of_this_machine_that_is_no_store_is_told(
    chosen: dict[str, DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = chosen["mlflow"].copy()
    config.paths.output_dir = str(tmp_path)
    (tmp_path / "mlflow.db").write_text("notes" * 1000)
    said = refusal(config, tmp_path / "run")
    assert said == (
        f"{tmp_path}/mlflow.db: file is not a database; move it away, or name another store with logger.mlflow.tracking_uri"
    )


@pytest.mark.long
def test_who_has_not_logged_in_is_told_before_any_work(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    found = subprocess.run(
        [sys.executable, "-m", "ctl_lightning.train", "logger=wandb", "hydra.run.dir=run", "paths.cache_dir=cache"],
        cwd=tmp_path,
        env=environment | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert "log in with `wandb login`, or give logger.wandb.offline=true" in found.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "cache").exists()
