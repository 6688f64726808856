import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from factories import TINY, Compose
from hydra.core.hydra_config import HydraConfig
from PIL import Image

from ctl_lightning.runtime.csv_files import read_metrics
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.train import train
from ctl_lightning.training import loggers, mlflow_runs
from ctl_lightning.training.callbacks import RunInCheckpoint
from ctl_lightning.training.loggers import csv_logger


def test_a_logger_without_a_class_is_one_line(compose: Compose) -> None:
    with pytest.raises(InputError, match=r"logger\.foo=1: expected options with a _target_"):
        train(compose(*TINY, "+logger.foo=1"))


def test_what_comes_after_a_training_does_not_count_as_training_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 200.0, 230.0, 260.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    run = RunInCheckpoint({}, 5.0)
    run.on_fit_start(None, None)  # type: ignore[arg-type]
    assert run.seconds() == 35.0
    run.on_fit_end(None, None)  # type: ignore[arg-type]
    assert run.seconds() == run.seconds() == 65.0


def test_rows_of_the_continued_run_come_first(tmp_path: Path) -> None:
    first = csv_logger(tmp_path, [])
    first.log_metrics({"loss": 3.0}, step=1)
    first.log_metrics({"loss": 2.0}, step=2)
    first.save()
    history = read_metrics(tmp_path / "metrics.csv")
    second = csv_logger(tmp_path, history)
    second.log_metrics({"loss": 1.0, "auc": 0.5}, step=3)
    second.save()
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path / "metrics.csv")] == [(1, 3), (2, 2), (3, 1)]


def inspect(run: Path, *flags: str) -> Any:
    found = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", *flags, "--json", str(run)],
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout


CURVES = {
    *("train/loss", "train/active_triplets", "train/order_violations", "train/distance_positive"),
    *("train/distance_negative", "train/images_per_second", "train/data_wait", "val/auc", "val/lift", "test/auc"),
    *("val/lift_geometry", "test/lift_geometry"),
}
PICTURES = ("retrieval", "attention", "classifier", "categories", "distances", "confusion", "embedding", "curves")
TABLES = ("test/table", "test/categories", "test/confusion", "val/categories", "embedding")
HISTOGRAMS = [f"{split}/distances_{kind}" for split in ("val", "test") for kind in ("positive", "negative")]


def test_wandb_offline_gets_all_that_a_person_wants_to_see(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    monkeypatch.setattr(loggers, "is_multirun", lambda: True)
    options = (*TINY, "logger=wandb", "logger.wandb.offline=true", "upload_checkpoints=true")
    sweep = SimpleNamespace(sweep=SimpleNamespace(dir="runs/sweeps/monday"))
    monkeypatch.setattr(HydraConfig, "get", lambda: sweep)
    for seed in (0, 1):
        train(compose(*options, f"seed={seed}", run=f"run{seed}"))
    import wandb

    assert wandb.run is None
    runs = sorted(tmp_path.glob("run*/wandb/offline-run-*"))
    assert len(runs) == 2  # not merged into one
    records = [row.get("rec", row) for row in map(json.loads, inspect(runs[0]).splitlines())]
    keys = {key for record in records for key in record.get("history", {}).get("item", {})}
    assert keys >= CURVES
    for name in (*(f"pictures/{name}" for name in PICTURES), *TABLES, *HISTOGRAMS):
        assert f"{name}._type" in keys, name
    assert {"test/roc_table.nrows", "test/precision_recall_table.nrows"} <= keys
    (run,) = (record["run"] for record in records if "run" in record)
    assert (run["display_name"], run["run_group"], run["job_type"]) == ("synthetic-hybrid", "monday", "train")
    assert run["tags"] == ["synthetic", "hybrid", "seed0"]
    assert run["run_id"] == (tmp_path / "run0/wandb_id.txt").read_text().strip()
    artifacts = [record["artifact"] for record in records if "artifact" in record]
    assert [one["name"] for one in artifacts if one["type"] == "split"] == ["split-synthetic"]
    models = [set(one["aliases"]) for one in artifacts if one["type"] == "model"]
    assert models == [{"last", "latest"}, {"best", "latest"}]
    media = [path for path in runs[0].rglob("media/images/**/*.*") if path.suffix in (".png", ".jpg")]
    assert len(media) == len(PICTURES) + 2  # and the same scenes after the one epoch
    assert all(max(Image.open(path).size) <= 1600 for path in media)
    assert {path.suffix for path in media} == {".png", ".jpg"}
    assert max(path.stat().st_size for path in media) < 600_000
    text = inspect(runs[0], "--summary") + json.dumps(records)
    for word in ("batch_size", "environment", "command", "test/all/lift_geometry", "test/hubs/share"):
        assert word in text, word


@pytest.mark.usefixtures("without_pictures")
def test_a_run_that_goes_on_is_the_same_run_at_weights_and_biases(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    options = (*TINY, "logger=wandb", "logger.wandb.offline=true", "watch_epochs=0")
    train(compose(*options))
    (tmp_path / "run/results.json").unlink()  # killed before the end
    train(compose(*options, "ckpt_path=auto"))
    names = {path.name.rpartition("-")[2] for path in tmp_path.glob("run/wandb/offline-run-*")}
    assert names == {(tmp_path / "run/wandb_id.txt").read_text().strip()}


@pytest.mark.long
def test_tensorboard_gets_metrics_and_pictures(compose: Compose, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(compose(*TINY, "logger=tensorboard"))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) >= CURVES
    assert set(tags["images"]) >= {f"pictures/{name}" for name in (*PICTURES, "validation_retrieval")}
    assert set(tags["histograms"]) == {*HISTOGRAMS}
    assert {f"{name}/text_summary" for name in TABLES if name != "embedding"} <= set(tags["tensors"])
    assert (tmp_path / "run/tensorboard/projector_config.pbtxt").exists()


@pytest.mark.long
def test_mlflow_gets_parameters_metrics_pictures_and_tables_and_a_run_that_goes_on_is_the_same(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # the logger sets it, for this process
    options = (*TINY, "logger=mlflow", f"paths.output_dir={tmp_path}/runs", "upload_checkpoints=true")
    train(compose(*options))
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    (experiment,) = (one for one in client.search_experiments() if one.name == "ctl_lightning")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == (tmp_path / "run/mlflow_id.txt").read_text().strip()
    assert (run.info.status, run.info.run_name) == ("FINISHED", "synthetic-hybrid")
    tags = {"protocol": "synthetic", "method": "hybrid", "seed": "0", "group": "synthetic"}
    assert tags.items() <= run.data.tags.items()
    assert run.data.params["data/batch_size"] == "16"
    assert {"environment/command", "model/dim", "seed"} <= {*run.data.params}
    assert {*run.data.metrics} >= CURVES | {"val/hit10", "test/hit50", "lr-Adam"}
    steps = [one.step for one in client.get_metric_history(run.info.run_id, "train/loss")]
    kept = {path.name for path in (tmp_path / "runs/mlflow" / run.info.run_id / "artifacts").rglob("*")}
    assert {"results.json", "split.json", "triplets.jsonl", "last.ckpt"} <= kept
    assert {f"{name.replace('/', '_')}.csv" for name in TABLES if name != "embedding"} <= kept
    for name in (*PICTURES, "validation_retrieval", "validation_attention"):
        assert any(path.startswith(f"pictures~{name}+step+") for path in kept), name
    (tmp_path / "run/results.json").unlink()  # killed before the end
    client.update_run(run.info.run_id, status="RUNNING")
    train(compose(*options, "ckpt_path=auto", "watch_epochs=0", "trainer.max_epochs=1"))
    (again,) = client.search_runs([experiment.experiment_id])
    assert again.info.run_id == run.info.run_id
    assert again.info.status == "FINISHED"
    assert again.data.params == run.data.params
    assert [one.step for one in client.get_metric_history(run.info.run_id, "train/loss")] == steps
    (tmp_path / "run/results.json").unlink()
    (tmp_path / "run/mlflow_id.txt").write_text("0" * 32)
    with pytest.raises(InputError, match=r"mlflow_id\.txt is not there .* delete that file for a new one"):
        train(compose(*options, "ckpt_path=auto"))


class Store:
    """A logger whose store fails, or keeps what it is told."""

    fails: str | None = None

    def __init__(self, **given: Any) -> None:
        self.given = given

    @property
    def run_id(self) -> str:
        from mlflow.exceptions import MlflowException

        if self.fails:
            raise MlflowException(self.fails)
        return "abc"

    @property
    def experiment(self) -> Any:
        return SimpleNamespace(update_run=lambda run, status: None)


def test_a_store_that_fails_says_so_and_a_run_that_is_gone_names_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_runs, "build", lambda node, where, **given: Store(**given))
    monkeypatch.setattr(Store, "fails", "the disk is full")

    def made(**node: Any) -> Any:
        return mlflow_runs.mlflow_logger(node, "logger.mlflow", tmp_path / "run", tmp_path, "monday")

    (tmp_path / "run").mkdir()
    with pytest.raises(
        InputError, match=r"^logger\.mlflow: the disk is full; name another store with logger\.mlflow\.tra"
    ):
        made()
    (tmp_path / "run/mlflow_id.txt").write_text("abc\n")
    with pytest.raises(InputError, match=r"mlflow_id\.txt is not there \(the disk is full\); delete that file"):
        made()
    monkeypatch.setattr(Store, "fails", None)
    assert made(tags={"seed": 1}).given["tags"] == {"group": "monday", "seed": 1}
    assert made(tags={"group": "mine"}).given["tags"] == {"group": "mine"}


@pytest.mark.long
def test_a_run_that_fails_has_failed_at_mlflow(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    store = f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setattr("ctl_lightning.train.report", None)  # after the training
    with pytest.raises(TypeError):
        train(
            compose(
                *TINY, "logger=mlflow", "watch_epochs=0", "+experiment=popularity", "logger.mlflow.experiment_name=x"
            )
        )
    client = MlflowClient(store)
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments() if one.name == "x"])
    assert run.info.status == "FAILED"
