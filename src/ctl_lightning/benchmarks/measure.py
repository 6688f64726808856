"""The benchmarks by name, each with the objects that a config describes."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning
import torch
from lightning import Trainer

from ctl_lightning.benchmarks.cached import cached_ratios, cached_rows
from ctl_lightning.benchmarks.exact_search import exact_ratios, exact_rows
from ctl_lightning.benchmarks.index import index_ratios, index_rows
from ctl_lightning.benchmarks.loader import loader_ratios, loader_rows
from ctl_lightning.benchmarks.look import look_ratios, look_rows
from ctl_lightning.benchmarks.pace import pace_ratios, pace_rows
from ctl_lightning.benchmarks.packing import packing_ratios, packing_rows
from ctl_lightning.benchmarks.scoring import scoring_ratios, scoring_rows
from ctl_lightning.benchmarks.search import search_ratios, search_rows
from ctl_lightning.benchmarks.served import served
from ctl_lightning.benchmarks.service import service_ratios, service_rows
from ctl_lightning.benchmarks.startup import startup_ratios, startup_rows
from ctl_lightning.benchmarks.step import step_ratios, step_rows
from ctl_lightning.benchmarks.timing import Row
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.runtime.config import Config, build
from ctl_lightning.runtime.console import console
from ctl_lightning.training.compilation import compile_network
from ctl_lightning.training.module import CompleteTheLook

SERVED_PRODUCTS, SERVED_SCENES = 512, 60
"""Number of photos that serving is measured with."""


class Maker:
    """The objects that a config describes, with options changed."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._categories: list[str] = []

    def data(self, **options: Any) -> TripletDataModule:
        """Not set up yet."""
        data: TripletDataModule = build(self._config["data"], "data", **options)
        return data

    def ready(self, **options: Any) -> TripletDataModule:
        """Set up."""
        data = self.data(**options)
        data.prepare_data()
        data.setup()
        self._categories = data.categories
        return data

    def module(self, **backbone: Any) -> CompleteTheLook:
        """For the categories of the data that was made last, with pretrained weights."""
        options = self._config["backbone"]
        module: CompleteTheLook = build(
            self._config["model"], "model", categories=self._categories, backbone=options | backbone
        )
        module.load_backbone_weights()
        if self._config["compile"]:
            compile_network(module)
        return module

    def trainer(self, **options: Any) -> Trainer:
        """Without checkpoints."""
        trainer: Trainer = build(self._config["trainer"], "trainer", **{"logger": False, **options})
        return trainer


def measure(config: Config, make: Maker, measured: Sequence[str]) -> tuple[list[Row], dict[str, float]]:
    """The rows and the ratios of what is to be measured.

    Args:
        config: resolved config of `benchmark`.
        make: makes the objects that are measured.
        measured: names of the benchmarks, such as "step".
    """
    seconds, rounds = config["seconds"], config["rounds"]
    rows: list[Row] = []
    ratios: dict[str, float] = {}
    if "startup" in measured:
        rows += (found := startup_rows(rounds))
        ratios |= startup_ratios(found)
    if "pace" in measured:
        rows += (found := pace_rows(seconds, rounds))
        ratios |= pace_ratios(found)
    if not {*measured} - {"startup", "pace"}:
        return rows, ratios  # they measure other processes
    lightning.seed_everything(config["seed"], verbose=False)
    device = make.trainer().strategy.root_device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # On all cores first: what is measured on one core takes the others away for good.
    if "step" in measured:
        data, module = make.ready(), make.module()
        rows += (found := step_rows(data, module, make.trainer, seconds, rounds))
        ratios |= step_ratios(found)
    if "cache" in measured:
        if not config["backbone"]["frozen"]:
            console.print("what=cache: the backbone is measured as if it were frozen: features of a tuned one change")
        pictures, features = (make.ready(augment="none", batch_size=config["cache_batch_size"]) for _ in range(2))
        rows += (found := cached_rows(pictures, features, make.module(frozen=True), make.trainer, seconds, rounds))
        ratios |= cached_ratios(found)
    if "packing" in measured:
        rows += (found := packing_rows(make.ready(), rounds))
        ratios |= packing_ratios(found)
    if {"look", "index", "service"} & {*measured}:
        found, more = _of_serving(config, make, measured)
        rows, ratios = rows + found, ratios | more
    if "loader" in measured:
        rows += (found := loader_rows(make.data, seconds, rounds, config["workers"]))
        ratios |= loader_ratios(found)
    if "scoring" in measured:
        rows += (found := scoring_rows(seconds, rounds))
        ratios |= scoring_ratios(found)
    if "search" in measured:
        rows += (found := exact_rows(config["search_products"], seconds, rounds))
        ratios |= exact_ratios(found)
        rows += (found := search_rows(config["search_products"], rounds))
        ratios |= search_ratios(found)
    return rows, ratios


def _of_serving(config: Config, make: Maker, measured: Sequence[str]) -> tuple[list[Row], dict[str, float]]:
    """The rows and the ratios of what is measured with a checkpoint that was not trained."""
    rounds, rows = config["rounds"], list[Row]()
    with TemporaryDirectory() as folder:
        given = served(Path(folder), config, make.ready(), make.module(), SERVED_PRODUCTS, SERVED_SCENES)
        if "index" in measured:  # in processes of its own
            rows += index_rows(given, rounds)
        if "look" in measured:
            rows += look_rows(given, rounds)
        if "service" in measured:
            rows += service_rows(given, config["clients"], config["seconds"], rounds)
    return rows, index_ratios(rows) | look_ratios(rows) | service_ratios(rows)
