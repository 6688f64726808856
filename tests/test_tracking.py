import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Compose

from ctl_lightning.tracking import csv_logger, read_metrics
from ctl_lightning.train import train


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


def test_wandb_offline_gets_metrics_config_pictures_and_table(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    for seed in (0, 1):
        train(compose(*TINY, "logger=wandb", "logger.wandb.offline=true", f"seed={seed}", run=f"run{seed}"))
    import wandb

    assert wandb.run is None
    runs = sorted(tmp_path.glob("run*/wandb/offline-run-*"))
    assert len(runs) == 2  # not merged into one
    text = inspect(runs[0])
    assert {"train/loss", "val/auc", "test/auc", "val/lift"} <= history_keys(text)
    summary = inspect(runs[0], "--summary")
    for word in ("test/table", "pictures/retrieval", "pictures/attention", "pictures/curves", "batch_size"):
        assert word in summary + text, word


def history_keys(text: str) -> set[str]:
    rows = [json.loads(line) for line in text.splitlines()]
    return {key for row in rows for key in row.get("rec", row).get("history", {}).get("item", {})}


def test_tensorboard_gets_metrics_and_pictures(compose: Compose, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(compose(*TINY, "logger=tensorboard"))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "val/auc", "test/auc"} <= set(tags["scalars"])
    assert {"pictures/curves", "pictures/retrieval", "pictures/attention"} <= set(tags["images"])
