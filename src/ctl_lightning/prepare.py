"""python -m ctl_lightning.prepare data=stl_fashion: from nothing to data that is ready for training, and what is in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ctl_lightning.runtime.config import build
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.program import program

if TYPE_CHECKING:
    from ctl_lightning.data.datamodule import TripletDataModule
    from ctl_lightning.data.fetching.download import Downloader


@program("prepare")
def main(config: DictConfig) -> None:
    """Prepares one data set."""
    prepare(config)


def prepare(config: DictConfig) -> None:
    """Fetches, checks, crops and packs a data set; leaves split, evaluation triplets, counts and a picture in `paths.run_dir`.

    What is there is not fetched and not packed again; the images of a folder of one's own are checked each time.

    Raises:
        InputError: what the user can mend.
    """
    from ctl_lightning.reports.data_summary import data_summary, print_data_summary
    from ctl_lightning.reports.examples import pair_rows, twin_rows
    from ctl_lightning.reports.figures.grids import crop_sheet, twin_sheet
    from ctl_lightning.runtime.console import console
    from ctl_lightning.runtime.errors import only_warned
    from ctl_lightning.runtime.files import write_text
    from ctl_lightning.training.picture_options import with_preprocessing

    data: TripletDataModule = build(with_preprocessing(config).data, "data")
    downloader: Downloader = build(config.download, "download")
    run_dir = Path(config.paths.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    console.print(f"data: {data.root}")
    dead = fetch(data, downloader)
    check(data, run_dir)
    data.prepare_data()
    data.setup()
    data.write_protocol_files(run_dir)
    summary = data_summary(data, dead)
    write_text(run_dir / "summary.json", json.dumps(summary, indent=2) + "\n")
    print_data_summary(summary)
    with only_warned(f"{run_dir / 'crops.png'}: not drawn"):
        crop_sheet(run_dir / "crops.png", pair_rows(data))
    pictures = ["crops.png"]
    if data.twins and data.twins.photos:
        with only_warned(f"{run_dir / 'twins.png'}: not drawn"):
            twin_sheet(run_dir / "twins.png", twin_rows(data, data.twins), len(data.twins.photos))
        pictures.append("twins.png")
    console.print(f"ready: {data.summary()}")
    for name in ("summary.json", "split.json", "triplets.jsonl", *pictures):
        console.print(f"  {run_dir / name}")


def fetch(data: "TripletDataModule", downloader: "Downloader") -> Mapping[str, str]:
    """Fetches what is published and not there. Returns the dead ids with their reasons. Raises InputError."""
    from ctl_lightning.runtime.console import console

    source, root = data.source, data.root
    metadata = source.metadata(root)
    if metadata:
        source.check_fetched(root, downloader.metadata(metadata, root))
    images = source.images(root)
    if not images:
        return {}
    report = downloader.images(images, root)
    console.print(f"images: {report}")
    return report.dead


def check(data: "TripletDataModule", run_dir: Path) -> None:
    """Prints and lists all problems of the files. Raises InputError: there are some."""
    from ctl_lightning.runtime.console import console
    from ctl_lightning.runtime.files import write_text

    problems, listing = data.source.check(data.root), run_dir / "problems.txt"
    listing.unlink(missing_ok=True)
    if problems:
        write_text(listing, "".join(f"{problem}\n" for problem in problems))
        for problem in problems:
            console.print(problem)
        raise InputError(
            f"{len(problems)} problems in {data.root}, listed above and in {listing}; mend them and run the command again"
        )


if __name__ == "__main__":
    main()
