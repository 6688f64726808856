"""python -m ctl_lightning.benchmark: how fast this machine is at this job; every ratio measured in one run."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from ctl_lightning.benchmarks.cached import cached_ratios, cached_rows
from ctl_lightning.benchmarks.loader import loader_ratios, loader_rows
from ctl_lightning.benchmarks.scoring import scoring_ratios, scoring_rows
from ctl_lightning.benchmarks.search import search_ratios, search_rows
from ctl_lightning.benchmarks.step import step_ratios, step_rows
from ctl_lightning.benchmarks.timing import Row
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.runtime.config import build, check_switches, program
from ctl_lightning.runtime.console import console, quiet_lightning
from ctl_lightning.runtime.environment import versions
from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.runtime.files import write_text
from ctl_lightning.runtime.memory import keep_freed_memory
from ctl_lightning.training.compilation import compile_network, told_that_it_can_not_be_compiled
from ctl_lightning.training.module import CompleteTheLook
from ctl_lightning.training.trainer import leave_new_memory_as_it_is

WHAT = ("all", "loader", "step", "cache", "scoring", "search")


@program("benchmark")
def main(config: DictConfig) -> None:
    """Measures and prints."""
    benchmark(config)


def benchmark(config: DictConfig) -> None:
    """Measures what `what` names; prints a table and leaves `benchmark.json` in `paths.run_dir`.

    Raises:
        InputError: what the user can mend.
    """
    quiet_lightning()
    leave_new_memory_as_it_is()
    if config.what not in WHAT:
        raise InputError(
            f"what={config.what}: there is no such benchmark{suggestion(str(config.what), WHAT)}; there are: {', '.join(WHAT)}"
        )
    for option, kinds in (
        ("seconds", (int, float)),
        ("rounds", (int,)),
        ("workers", (int,)),
        ("cache_batch_size", (int,)),
        ("search_products", (int,)),
    ):
        if not isinstance(config[option], kinds) or config[option] <= 0:
            raise InputError(
                f"{option}={config[option]}: must be a {'whole ' if kinds == (int,) else ''}number above 0"
            )
    measured = WHAT[1:] if config.what == "all" else (config.what,)
    check_switches(config, "compile", "keep_memory")
    if config.what not in ("scoring", "search") and (
        config.loss.name != "triplet" or config.data.negatives == "in_batch"
    ):
        raise InputError(
            f"what={config.what}: batches of triplets are measured; give loss=triplet, data.negatives=uniform"
        )
    model = config.model
    if "step" in measured and (model.method, model.attention, model.squared) != ("hybrid", "category", True):
        raise InputError(
            f"what={config.what}: steps are measured beside a naive way to the paper's distance; leave model, model.attention and "
            "model.squared as they are, or give another what"
        )
    run_dir = Path(config.paths.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)

    if config.keep_memory:
        keep_freed_memory()
    measurements = (
        sum({"loader": 6, "scoring": 2, "step": 6, "cache": 4, "search": 4}[what] for what in measured) * config.rounds
    )
    console.print(f"measuring for about {measurements * config.seconds:.0f} s; leave the machine alone meanwhile")
    make = _Make(config)
    with told_that_it_can_not_be_compiled():
        rows, ratios = _measure(config, make, measured)
    if config.keep_memory:
        rows = [row for row in rows if row.group != "memory"]  # what was freed and kept is not counted as needed
    content = {
        "machine": machine(),
        "config": OmegaConf.to_container(config, resolve=True),
        "rows": [row.as_dict() for row in rows],
        "ratios": ratios,
    }
    write_text(run_dir / "benchmark.json", json.dumps(content, indent=2, allow_nan=False) + "\n")

    table = Table("", "median", "", "from", "to", box=None, header_style="bold")
    for column in (table.columns[1], *table.columns[3:]):
        column.justify = "right"
    for row in rows:
        table.add_row(
            f"{row.group}: {row.name}", _number(row.value), row.unit, *map(_number, (min(row.rounds), max(row.rounds)))
        )
    console.print(table)
    for name, ratio in ratios.items():
        console.print(f"{name}: {ratio:.3g}")
    console.print(f"  {run_dir / 'benchmark.json'}", markup=False)


def _measure(config: DictConfig, make: "_Make", measured: Sequence[str]) -> tuple[list[Row], dict[str, float]]:
    seconds, rounds = config.seconds, config.rounds
    rows: list[Row] = []
    ratios: dict[str, float] = {}
    lightning.seed_everything(config.seed, verbose=False)
    device = make.trainer().strategy.root_device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # On all cores first: what is measured on one core takes the others away for good.
    if "step" in measured:
        data, module = make.ready(), make.module()
        rows += (found := step_rows(data, module, make.trainer, seconds, rounds))
        ratios |= step_ratios(found)
    if "cache" in measured:
        if not config.backbone.frozen:
            console.print("what=cache: the backbone is measured as if it were frozen: features of a tuned one change")
        pictures, features = (make.ready(augment="none", batch_size=config.cache_batch_size) for _ in range(2))
        rows += (found := cached_rows(pictures, features, make.module(frozen=True), make.trainer, seconds, rounds))
        ratios |= cached_ratios(found)
    if "loader" in measured:
        rows += (found := loader_rows(make.data, seconds, rounds, config.workers))
        ratios |= loader_ratios(found)
    if "scoring" in measured:
        rows += (found := scoring_rows(seconds, rounds))
        ratios |= scoring_ratios(found)
    if "search" in measured:
        rows += (found := search_rows(config.search_products, rounds))
        ratios |= search_ratios(found)
    return rows, ratios


class _Make:
    """The objects that a config describes, with options changed."""

    def __init__(self, config: DictConfig) -> None:
        self._config = config
        self._categories: list[str] = []

    def data(self, **options: Any) -> TripletDataModule:
        """Not set up yet."""
        data: TripletDataModule = build(self._config.data, "data", **options)
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
        options: dict[str, Any] = OmegaConf.to_container(self._config.backbone, resolve=True)  # type: ignore[assignment]
        module: CompleteTheLook = build(
            self._config.model, "model", categories=self._categories, backbone=options | backbone
        )
        module.load_backbone_weights()
        if self._config.compile:
            compile_network(module)
        return module

    def trainer(self, **options: Any) -> Trainer:
        """Without checkpoints."""
        trainer: Trainer = build(self._config.trainer, "trainer", **{"logger": False, **options})
        return trainer


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def machine() -> dict[str, object]:
    """What was measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "cuda": torch.version.cuda,
        "system": platform.platform(),
        **versions(),
    }


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
