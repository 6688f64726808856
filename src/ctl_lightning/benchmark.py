"""python -m ctl_lightning.benchmark: how fast this machine is at this job; every ratio measured in one run."""

import json
import os
import platform
from pathlib import Path
from typing import Any

from lightning import Trainer
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from ctl_lightning.benchmarks.cached import cached_ratios, cached_rows
from ctl_lightning.benchmarks.loader import loader_ratios, loader_rows
from ctl_lightning.benchmarks.rows import Row
from ctl_lightning.benchmarks.scoring import scoring_ratios, scoring_rows
from ctl_lightning.benchmarks.step import step_ratios, step_rows
from ctl_lightning.conf import build, program
from ctl_lightning.console import console, quiet_lightning
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.files import write_text
from ctl_lightning.errors import InputError, suggestion
from ctl_lightning.memory import keep_freed_memory, leave_new_memory_as_it_is
from ctl_lightning.module import CompleteTheLook
from ctl_lightning.results import versions

WHAT = ("all", "loader", "step", "cache", "scoring")


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
    ):
        if not isinstance(config[option], kinds) or config[option] <= 0:
            raise InputError(
                f"{option}={config[option]}: must be a {'whole ' if kinds == (int,) else ''}number above 0"
            )
    measured = WHAT[1:] if config.what == "all" else (config.what,)
    if config.data.negatives == "in_batch":
        raise InputError(
            "data.negatives=in_batch: batches of triplets are measured; give data.negatives=uniform or pairs"
        )
    if {"step", "cache"} & set(measured):
        _check_method(config)
    run_dir = Path(config.paths.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)

    if config.keep_memory:
        keep_freed_memory()
    seconds, rounds = config.seconds, config.rounds
    measurements = sum({"loader": 6, "scoring": 2, "step": 6, "cache": 3}[what] for what in measured) * rounds
    console.print(f"measuring for about {measurements * seconds:.0f} s; leave the machine alone meanwhile")
    make = _Make(config)
    rows: list[Row] = []
    ratios: dict[str, float] = {}
    # On all cores first: what is measured on one core takes the others away for good.
    if "step" in measured:
        data, module = make.ready(), make.module()
        rows += (found := step_rows(data, module, make.trainer, seconds, rounds))
        ratios |= step_ratios(found)
    if "cache" in measured:
        pictures, features = (
            make.ready(augment=augment, batch_size=config.cache_batch_size) for augment in ("crop", "none")
        )
        rows += (found := cached_rows(pictures, features, make.module(frozen=True), make.trainer, seconds, rounds))
        ratios |= cached_ratios(found)
    if "loader" in measured:
        rows += (found := loader_rows(make.data, seconds, rounds, config.workers))
        ratios |= loader_ratios(found)
    if "scoring" in measured:
        rows += (found := scoring_rows(seconds, rounds))
        ratios |= scoring_ratios(found)
    content = {"machine": machine(), "rows": [row._asdict() for row in rows], "ratios": ratios}
    write_text(run_dir / "benchmark.json", json.dumps(content, indent=2) + "\n")

    table = Table("", "", "", "from", "to", box=None, header_style="bold")
    for column in (table.columns[1], *table.columns[3:]):
        column.justify = "right"
    for row in rows:
        table.add_row(f"{row.group}: {row.name}", _number(row.value), row.unit, _number(row.low), _number(row.high))
    console.print(table)
    for name, ratio in ratios.items():
        console.print(f"{name}: {ratio:.3g}")
    console.print(f"  {run_dir / 'benchmark.json'}", markup=False)


def _check_method(config: DictConfig) -> None:
    """The naive way is written for the paper's method alone."""
    model = config.model
    if (model.method, model.attention, model.squared) != ("hybrid", "category", True):
        raise InputError(
            f"what={config.what}: steps are measured with the paper's method; leave model, model.attention and model.squared as they "
            "are, or give what=loader or what=scoring"
        )


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
            module.network.backbone.compile()
            module.network.compile()
        return module

    def trainer(self, **options: Any) -> Trainer:
        """Without checkpoints."""
        trainer: Trainer = build(self._config.trainer, "trainer", **{"logger": False, **options})
        return trainer


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def machine() -> dict[str, object]:
    """What was measured on."""
    return {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform(), **versions()}


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
