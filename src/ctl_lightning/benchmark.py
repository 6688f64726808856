"""python -m ctl_lightning.benchmark: how fast this machine is at this job; every ratio measured in one run."""

import json
import os
import platform
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from ctl_lightning.benchmarks.loader import loader_ratios, loader_rows
from ctl_lightning.benchmarks.rows import Row
from ctl_lightning.benchmarks.scoring import scoring_ratios, scoring_rows
from ctl_lightning.conf import build, program
from ctl_lightning.console import console
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.files import write_text
from ctl_lightning.errors import InputError, suggestion
from ctl_lightning.results import versions

WHAT = ("all", "loader", "scoring")


@program("benchmark")
def main(config: DictConfig) -> None:
    """Measures and prints."""
    benchmark(config)


def benchmark(config: DictConfig) -> None:
    """Measures what `what` names; prints a table and leaves `benchmark.json` in `paths.run_dir`.

    Raises:
        InputError: what the user can mend.
    """
    if config.what not in WHAT:
        raise InputError(
            f"what={config.what}: there is no such benchmark{suggestion(str(config.what), WHAT)}; there are: {', '.join(WHAT)}"
        )
    for option, kinds in (("seconds", (int, float)), ("rounds", (int,)), ("workers", (int,))):
        if not isinstance(config[option], kinds) or config[option] <= 0:
            raise InputError(
                f"{option}={config[option]}: must be a {'whole ' if kinds == (int,) else ''}number above 0"
            )
    run_dir = Path(config.paths.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)

    plain: dict[str, Any] = OmegaConf.to_container(config.data, resolve=True)  # type: ignore[assignment]

    def make(**options: Any) -> TripletDataModule:
        data: TripletDataModule = build(OmegaConf.create({**plain, **options}), "data")
        return data

    measured = WHAT[1:] if config.what == "all" else (config.what,)
    measurements = (6 * ("loader" in measured) + 2 * ("scoring" in measured)) * config.rounds
    console.print(f"measuring for about {measurements * config.seconds:.0f} s; leave the machine alone meanwhile")
    rows: list[Row] = []
    ratios: dict[str, float] = {}
    if "loader" in measured:
        rows += (found := loader_rows(make, config.seconds, config.rounds, config.workers))
        ratios |= loader_ratios(found)
    if "scoring" in measured:
        rows += (found := scoring_rows(config.seconds, config.rounds))
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
        console.print(f"{name}: {ratio:.1f}")
    console.print(f"  {run_dir / 'benchmark.json'}", markup=False)


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
