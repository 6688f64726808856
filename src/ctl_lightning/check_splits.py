"""python -m ctl_lightning.check_splits: whether the published splits follow their rule, and fit the data that are here."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ctl_lightning.runtime.config import build, check_options, config_dir
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.program import program

if TYPE_CHECKING:
    from ctl_lightning.data.datamodule import TripletDataModule

SHOWN = 20
"""So many problems are printed; the rest is counted."""


@program("check_splits")
def main(config: DictConfig) -> None:
    """Checks the published files of one data set."""
    hydra = HydraConfig.get()
    asked = any(word.startswith("data.root=") for word in hydra.overrides.task)
    check_splits(config, hydra.runtime.choices["data"], asked)


def check_splits(config: DictConfig, name: str, needs_data: bool = False) -> None:
    """Checks `splits/NAME.json` and `splits/NAME_triplets.jsonl`, and says what was checked.

    Args:
        config: composed.
        name: name of the data set, such as "stl_fashion".
        needs_data: whether it is an error if the data are not there.

    Raises:
        InputError: no such file; something is wrong, all of which is printed.
    """
    from ctl_lightning.data.published_splits import (
        LISTED,
        merged_as_published,
        read_published,
        split_problems,
        triplet_problems,
    )
    from ctl_lightning.runtime.console import console

    check_options({"folder": config.folder}, {"folder": str | None})
    folder = Path(config.folder) if config.folder is not None else config_dir().parent / "splits"
    path, triplets = folder / f"{name}.json", folder / f"{name}_triplets.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: no published split of {name} there; give folder=DIR of the repository's splits/")
    content = read_published(path)
    problems = list(split_problems(content))
    listed = {scene for split in LISTED for scene in content[split]}
    console.print(f"{path}: the rule, with salt {content['salt']!r}, and {len(listed):,} listed scenes")
    console.print(_told_of_twins(content))
    # No picture is looked at, so any size will do where the weights of a backbone would choose it.
    data: TripletDataModule = build(config.data, "data", stored_size=1, image_size=1, interpolation="bilinear")
    table = None
    if data.root.is_dir():
        data.read_table()
        table = merged_as_published(data.table, content)
        console.print(f"{data.root}: {len(listed & table.products_of_scene.keys()):,} of them are in these data")
    elif needs_data:
        raise InputError(f"data.root={data.root}: no such folder, so nothing can be checked against data")
    if content["triplets_sha256"] is None:
        console.print("no triplets are published")
    elif not triplets.is_file():
        problems.append(f"{triplets} is not there")
    else:
        problems += triplet_problems(triplets, content, table)
        console.print(f"{triplets}: its hash{' and every triplet' if table else ''}")
    for problem in problems[:SHOWN]:
        console.print(problem)
    if problems:
        raise InputError(
            f"{len(problems)} problems with the published split of {name}, {min(SHOWN, len(problems))} of them above"
        )
    if not listed:
        console.print("nothing is listed: the rule alone is published")
    elif table is None:
        console.print("the files are well; nothing was checked against data, give data.root=DIR for that")
    else:
        console.print("all is well")


def _told_of_twins(content: Mapping[str, Any]) -> str:
    """One line on the twins of a published split."""
    from ctl_lightning.data.published_splits import twins_of

    if "twins" not in content:
        return "a file of version 1: it does not say which scenes are one photo, so twins may be in two splits"
    counts = {kind: f"{sum(map(len, groups)):,}" for kind, groups in twins_of(content).items()}
    return (
        f"twins are in one split: {counts['scenes']} scenes have one, {counts['products']} products, "
        f"{counts['scenes_that_are_products']} scenes are a product's photo"
    )


if __name__ == "__main__":
    main()
