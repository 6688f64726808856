"""What a person sees while a training goes on."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import TINY, Compose
from PIL import Image

from ctl_lightning.data.triplets import PairBatch, Triplet
from ctl_lightning.reports.dashboards import LONGEST_SIDE, Exhibit, Table, _bounded, has_page, show, write_tables
from ctl_lightning.runtime.csv_files import read_metrics
from ctl_lightning.train import train
from ctl_lightning.training.callbacks import Speed
from ctl_lightning.training.loggers import wandb_id


class Training:
    world_size, log_every_n_steps, global_step = 2, 2, 0


class Logged:
    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def log(self, name: str, value: float) -> None:
        self.values[name] = value


@pytest.mark.parametrize(("kind", "images"), [(Triplet, 3), (PairBatch, 2)])
def test_speed_counts_the_images_of_all_processes_and_the_waiting(
    kind: Any, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 3.0, 4.0, 6.0, 8.0, 8.0])  # waits 3 s, steps 1 s, waits 2 s, steps 2 s
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    speed, trainer, logged = Speed(), Training(), Logged()
    category = torch.zeros(5)
    parts = [category] * len(kind._fields)
    speed.on_train_epoch_start(trainer, logged)  # type: ignore[arg-type]
    for step in (1, 2):
        speed.on_train_batch_start(trainer, logged, kind(*parts), 0)  # type: ignore[arg-type]
        trainer.global_step = step
        speed.on_train_batch_end(trainer, logged, None, None, 0)  # type: ignore[arg-type]
    assert logged.values == {"train/images_per_second": 2 * 5 * images * 2 / 8, "train/data_wait": 5 / 8}


@pytest.mark.usefixtures("without_pictures")
def test_the_same_scenes_are_drawn_so_many_epochs_apart(compose: Compose, tmp_path: Path) -> None:
    train(compose(*TINY, "trainer.max_epochs=3", "watch_epochs=2", "+experiment=local"))
    drawn = sorted(path.name for path in (tmp_path / "run/pictures/epochs").iterdir())
    assert drawn == [f"{kind}_epoch00{epoch}.png" for kind in ("attention", "retrieval") for epoch in (0, 2)]
    first, last = (np.asarray(Image.open(tmp_path / f"run/pictures/epochs/retrieval_epoch00{n}.png")) for n in (0, 2))
    assert first.shape == last.shape
    assert (first != last).any()
    column = slice(0, first.shape[1] // 14)  # the scene crops, which stay
    assert (first[:, column] == last[:, column]).mean() > 0.95
    rows = [row for row in read_metrics(tmp_path / "run/metrics.csv") if "train/loss" in row]
    assert all(row["train/images_per_second"] > 0 and 0 <= row["train/data_wait"] <= 1 for row in rows)
    for row in rows:
        assert 0 <= row["train/order_violations"] <= row["train/active_triplets"] <= 1
        assert row["train/loss"] >= row["train/distance_positive"] - row["train/distance_negative"] - 1e-6


def test_pictures_are_bounded_where_they_are_shown(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 500), "red").save(tmp_path / "wide.png")
    assert _bounded(tmp_path / "wide.png").size == (LONGEST_SIDE, 200)


def test_tables_are_written_for_who_has_no_page(tmp_path: Path) -> None:
    assert not has_page([])
    table = Table(["category", "auc"], [["Shoes, all", 0.5], ["Hats", None]])
    show([], Exhibit(tables={"test/categories": table}), 3)
    write_tables(tmp_path, {"test/categories": table})
    assert (tmp_path / "test_categories.csv").read_text() == 'category,auc\n"Shoes, all",0.5\nHats,\n'


def test_a_run_keeps_its_id_at_weights_and_biases(tmp_path: Path) -> None:
    first = wandb_id(tmp_path)
    assert wandb_id(tmp_path) == first
    (tmp_path / "other").mkdir()
    assert wandb_id(tmp_path / "other") != first
