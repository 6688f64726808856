"""python -m ctl_lightning.check_splits: whether the published splits follow their rule, and fit the data that are here."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ctl_lightning.conf import build, config_dir, program
from ctl_lightning.console import console
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.published import LISTED, read_published, split_problems, triplet_problems
from ctl_lightning.errors import InputError

SHOWN = 20
"""So many problems are printed; the rest is counted."""


@program("check_splits")
def main(config: DictConfig) -> None:
    """Checks the published files of one data set."""
    check_splits(config, HydraConfig.get().runtime.choices["data"])


def check_splits(config: DictConfig, name: str) -> None:
    """Checks `splits/NAME.json` and `splits/NAME_triplets.jsonl`, and says what was checked.

    Raises:
        InputError: no such file; something is wrong, all of which is printed.
    """
    folder = Path(config.folder) if config.folder is not None else config_dir().parent / "splits"
    path, triplets = folder / f"{name}.json", folder / f"{name}_triplets.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: no published split of {name} there; give folder=DIR of the repository's splits/")
    content = read_published(path)
    problems = list(split_problems(content))
    listed = sum(len(content[split]) for split in LISTED)
    console.print(f"{path}: {listed:,} listed scenes against the rule, salt {content['salt']!r}", markup=False)
    data: TripletDataModule = build(config.data, "data")
    if data.root.is_dir():
        data.read_table()
        here = {scene for split in LISTED for scene in content[split]} & data.table.products_of_scene.keys()
        console.print(f"{data.root}: {len(here):,} of them are in these data", markup=False)
        if triplets.is_file():
            problems += triplet_problems(triplets, data.table, content["salt"])
            console.print(f"{triplets}: every triplet against these data", markup=False)
    else:
        console.print(f"{data.root} is not there: nothing was checked against data; give data.root=DIR", markup=False)
    for problem in problems[:SHOWN]:
        console.print(problem, markup=False)
    if problems:
        raise InputError(
            f"{len(problems)} problems with the published split of {name}, {min(SHOWN, len(problems))} of them above"
        )
    console.print("all is well")


if __name__ == "__main__":
    main()
