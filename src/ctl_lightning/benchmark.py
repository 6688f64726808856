"""python -m ctl_lightning.benchmark: how fast this machine is at this job; every ratio measured in one run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ctl_lightning.runtime.config import Config, check_switches, resolved
from ctl_lightning.runtime.errors import InputError, suggestion
from ctl_lightning.runtime.program import program

if TYPE_CHECKING:
    from ctl_lightning.benchmarks.timing import Row

WHAT = ("all", "loader", "packing", "step", "cache", "scoring", "search", "look", "index", "service", "startup", "pace")
MEASUREMENTS = {
    "loader": 6,
    "packing": 4,
    "scoring": 2,
    "step": 6,
    "cache": 5,
    "search": 14,
    "look": 20,
    "index": 40,
    "service": 20,
    "startup": 4,
    "pace": 20,
}
"""About how many measurements a round of each has."""

DATALESS = ("scoring", "search", "startup", "pace")
"""What is measured without data."""


@program("benchmark")
def main(config: DictConfig) -> None:
    """Measures and prints."""
    benchmark(config)


def benchmark(config: DictConfig) -> None:
    """Measures what `what` names; prints a table and leaves `benchmark.json` in `paths.run_dir`.

    Raises:
        InputError: what the user can mend.
    """
    measured = check(resolved(config))
    from ctl_lightning.benchmarks.machine import machine
    from ctl_lightning.benchmarks.measure import Maker, measure
    from ctl_lightning.runtime.console import console, quiet_lightning
    from ctl_lightning.runtime.files import write_text
    from ctl_lightning.runtime.memory import keep_freed_memory
    from ctl_lightning.training.compilation import compile_errors
    from ctl_lightning.training.picture_options import with_preprocessing
    from ctl_lightning.training.trainer import skip_deterministic_fill

    options = resolved(with_preprocessing(config))
    quiet_lightning()
    skip_deterministic_fill()
    run_dir = Path(options["paths"]["run_dir"])
    run_dir.mkdir(parents=True, exist_ok=True)

    if options["keep_memory"]:
        keep_freed_memory()
    seconds = sum(MEASUREMENTS[what] for what in measured) * options["rounds"] * options["seconds"]
    console.print(f"measuring for about {seconds:.0f} s; leave the machine alone meanwhile")
    with compile_errors():
        rows, ratios = measure(options, Maker(options), measured)
    if options["keep_memory"]:
        rows = [row for row in rows if row.group != "memory"]  # what was freed and kept is not counted as needed
    content = {
        "machine": machine(),
        "config": options,
        "rows": [row.as_dict() for row in rows],
        "ratios": ratios,
    }
    write_text(run_dir / "benchmark.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    tell(rows, ratios)
    console.print(f"  {run_dir / 'benchmark.json'}")


def check(config: Config) -> Sequence[str]:
    """What is to be measured. Raises InputError: options out of their range, or of something else."""
    if config["what"] not in WHAT:
        raise InputError(
            f"what={config['what']}: there is no such benchmark{suggestion(str(config['what']), WHAT)}; there are: {', '.join(WHAT)}"
        )
    for option, kinds in (
        ("seconds", (int, float)),
        ("rounds", (int,)),
        ("workers", (int,)),
        ("cache_batch_size", (int,)),
        ("search_products", (int,)),
        ("clients", (int,)),
    ):
        if not isinstance(config[option], kinds) or config[option] <= 0:
            raise InputError(
                f"{option}={config[option]}: must be a {'whole ' if kinds == (int,) else ''}number above 0"
            )
    measured = [what for what in WHAT[1:] if what != "service"] if config["what"] == "all" else [config["what"]]
    check_switches(config, "compile", "keep_memory")
    if config["what"] not in DATALESS and (
        config["loss"]["name"] != "triplet" or config["data"]["negatives"] == "in_batch"
    ):
        raise InputError(
            f"what={config['what']}: batches of triplets are measured; give loss=triplet, data.negatives=uniform"
        )
    model = config["model"]
    paper = {"method": "hybrid", "attention": "category", "attention_temperature": 1, "learn_temperature": False}
    if "step" in measured and any(model.get(name) != value for name, value in (paper | {"squared": True}).items()):
        raise InputError(
            f"what={config['what']}: steps are measured beside a naive way to the paper's distance; leave model, its attention and "
            "model.squared as they are, or give another what"
        )
    return measured


def tell(rows: "Sequence[Row]", ratios: Mapping[str, float]) -> None:
    """Prints the table and the ratios."""
    from rich.table import Table

    from ctl_lightning.runtime.console import console

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


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


if __name__ == "__main__":
    main()
