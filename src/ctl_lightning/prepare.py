"""python -m ctl_lightning.prepare data=stl_fashion: from nothing to data that is ready for training, and what is in it."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from ctl_lightning.data.crop import area, scene_crop
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.sources.download import Downloader, Published
from ctl_lightning.data.sources.folder import LooksFolder
from ctl_lightning.data.sources.stl import ShopTheLook
from ctl_lightning.data.splits import SPLITS
from ctl_lightning.reports.examples import pair_rows
from ctl_lightning.reports.figures.grids import crop_sheet
from ctl_lightning.runtime.config import build, program
from ctl_lightning.runtime.console import console
from ctl_lightning.runtime.errors import InputError
from ctl_lightning.runtime.files import write_text


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
    data: TripletDataModule = build(config.data, "data")
    downloader: Downloader = build(config.download, "download")
    run_dir = Path(config.paths.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    console.print(f"data: {data.root}", markup=False)
    dead: Mapping[str, str] = {}
    if isinstance(data.source, Published):
        dead = _fetch(data, data.source, downloader)
    if isinstance(data.source, LooksFolder):
        _check(data.source, data.root, run_dir)
    data.prepare_data()
    data.setup()
    data.write_protocol_files(run_dir)
    summary = summarise(data, dead)
    write_text(run_dir / "summary.json", json.dumps(summary, indent=2) + "\n")
    crop_sheet(run_dir / "crops.png", pair_rows(data))
    _print(summary)
    console.print(f"ready: {data.summary()}", markup=False)
    for name in ("summary.json", "split.json", "triplets.jsonl", "crops.png"):
        console.print(f"  {run_dir / name}", markup=False)


def _fetch(data: TripletDataModule, source: Published, downloader: Downloader) -> Mapping[str, str]:
    """Fetches what is not there. Returns the dead ids with their reasons."""
    ours = downloader.metadata(source.metadata(data.root), data.root)
    if isinstance(source, ShopTheLook) and source.pairs_file in ours:
        source.check_published(data.root)
    images = source.images(data.root)
    if not images:
        return {}
    report = downloader.images(images, data.root)
    console.print(f"images: {report}", markup=False)
    return report.dead


def _check(source: LooksFolder, root: Path, run_dir: Path) -> None:
    problems, listing = source.check(root), run_dir / "problems.txt"
    listing.unlink(missing_ok=True)
    if problems:
        write_text(listing, "".join(f"{problem}\n" for problem in problems))
        for problem in problems:
            console.print(problem, markup=False)
        raise InputError(
            f"{len(problems)} problems in {root}, listed above and in {listing}; mend them and run the command again"
        )


def summarise(data: TripletDataModule, dead: Mapping[str, str]) -> dict[str, Any]:
    """What there is: counts of the files, what was dropped, and what is left in each split.

    Args:
        data: set up.
        dead: image id -> why it is not to be had.

    Returns:
        Plain values: "here", "published", "excluded", "dropped", "dead_images", "store", "used", "splits", "by_category", "crop_area".
    """
    table = data.table  # without the excluded categories
    pairs = [pair for split in SPLITS for pair in data.pairs[split]]
    areas = [area(scene_crop(pair.box, data.margin)) for pair in pairs]
    published = data.source.published if isinstance(data.source, ShopTheLook) else None
    return {
        "here": {
            "pairs": len(table.pairs) + sum(table.left_out.values()),
            "scenes": len(table.products_of_scene),
            "scene crops": len({(pair.scene, pair.box) for pair in table.pairs}),
            "products": len(table.catalogue),
            "products in pairs": len({pair.product for pair in table.pairs}),
            "categories": len(table.products_of_category),
        },
        "published": dict(published or {}),
        "excluded": list(data.exclude_categories),
        "dropped": {why: count for why, count in data.dropped.items() if count},
        "dead_images": len(dead),
        "store": {"content": data.store.content, "size": data.stored_size, "aspect": data.aspect},
        "used": {"pairs": len(pairs)},
        "splits": {split: len(data.pairs[split]) for split in SPLITS},
        "by_category": dict(Counter(pair.category for pair in pairs).most_common()),
        "crop_area": {"median": statistics.median(areas), "smallest": min(areas)},
    }


def _print(summary: Mapping[str, Any]) -> None:
    published = summary["published"]
    counts = Table("", "here", *(["published"] if published else []), box=None, header_style="bold")
    for column in counts.columns[1:]:
        column.justify = "right"
    for name, here in summary["here"].items():
        counts.add_row(name, f"{here:,}", *([f"{published[name]:,}" if name in published else ""] if published else []))
    console.print(counts)
    if "scenes" in published:
        console.print(
            "  (the paper's number of scenes fits neither the scene ids nor the scene crops of the released file: an open question)"
        )
    if (
        published
        and not summary["excluded"]
        and any(published.get(name) not in (None, summary["here"][name]) for name in ("pairs", "products"))
    ):
        console.print("  (not the whole published data)")
    categories = Table("category", "pairs", box=None, header_style="bold")
    categories.columns[1].justify = "right"
    for name, count in summary["by_category"].items():
        categories.add_row(name, f"{count:,}")
    console.print(categories)


if __name__ == "__main__":
    main()
