"""What is in a data set: counts of the files, what was dropped, and what is left in each split."""

import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from ctl_lightning.data.crop import area, scene_crop
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.splits import SPLITS
from ctl_lightning.runtime.console import console


def data_summary(data: TripletDataModule, dead: Mapping[str, str]) -> dict[str, Any]:
    """Counts what is in the files, what was dropped, and what is left in each split.

    Args:
        data: data module, set up.
        dead: image id -> why the image cannot be fetched.

    Returns:
        Plain values with the keys "here", "published", "excluded", "dropped", "dead_images", "store", "used", "splits",
        "by_category", "crop_area", and "twins" where they were looked for.
    """
    table = data.as_read  # without the excluded categories
    pairs = [pair for split in SPLITS for pair in data.pairs[split]]
    areas = [area(scene_crop(pair.box, data.margin)) for pair in pairs]
    return {
        "here": {
            "pairs": len(table.pairs) + sum(table.left_out.values()),
            "scenes": len(table.products_of_scene),
            "scene crops": len({(pair.scene, pair.box) for pair in table.pairs}),
            "products": len(table.catalogue),
            "products in pairs": len({pair.product for pair in table.pairs}),
            "categories": len(table.products_of_category),
        },
        "published": dict(data.source.published or {}),
        "excluded": list(data.exclude_categories),
        "dropped": {why: count for why, count in data.dropped.items() if count},
        "dead_images": len(dead),
        "store": {
            "content": data.store.content,
            "size": data.stored_size,
            "aspect": data.aspect,
            "interpolation": data.interpolation,
        },
        "used": {"pairs": len(pairs)},
        "splits": {split: len(data.pairs[split]) for split in SPLITS},
        "by_category": dict(Counter(pair.category for pair in pairs).most_common()),
        "crop_area": {"median": statistics.median(areas), "smallest": min(areas)},
        **({"twins": data.twins.counts()} if data.twins else {}),
    }


def print_data_summary(summary: Mapping[str, Any]) -> None:
    """Prints the counts of the files beside the published ones, and the number of pairs of each category."""
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
    if found := summary.get("twins"):
        sizes = ", ".join(f"{count:,} of {size}" for size, count in found["sizes"].items()) or "none"
        console.print(
            f"photos under several ids: {found['scene_groups']:,} of scenes ({found['scenes_in_groups']:,} scenes; groups: {sizes}), "
            f"{found['product_groups']:,} of products ({found['products_in_groups']:,} products), and "
            f"{found['scenes_that_are_products']:,} scenes that are a product's photo"
        )
