"""How fast photos become an image store: as version 0.1 packed them, by Pillow alone and block by block, and as it is done now."""

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from ctl_lightning.benchmarks.timing import Row, in_turn, ratio
from ctl_lightning.data.crop import to_pixels
from ctl_lightning.data.datamodule import TripletDataModule
from ctl_lightning.data.images import ImageItem, Interpolation, Pixels, open_upright, to_rgb
from ctl_lightning.data.store.factory import picture_items
from ctl_lightning.data.store.packing import BLOCK, Plan, pack, version_of
from ctl_lightning.runtime.files import sha256_of
from ctl_lightning.runtime.large_files import array_file, write_at

BEFORE, NOW = "version 0.1: Pillow alone", "now"

PHOTOS = 2048
"""Most pictures that are packed: eight blocks, half of them scene crops if there are as many."""


def before(item: ImageItem, size: int, interpolation: Interpolation) -> Pixels:
    """A stretched picture as version 0.1 decoded and resized it, uint8 (size, size, 3)."""
    image = to_rgb(open_upright(item.path))
    if item.crop is not None:
        image = image.crop(to_pixels(item.crop, image.width, image.height))
    return np.asarray(image.resize((size, size), Image.Resampling[interpolation.upper()], reducing_gap=2.0))


def pack_before(plan: Plan, path: Path) -> None:
    """Packs a store at `path` as version 0.1 did: all cores wait at the end of each block until it is on the disk."""
    picture = plan.size * plan.size * 3
    header = array_file(path, (len(plan.items), plan.size, plan.size, 3), np.uint8, keep=False)

    def attempt(row: int) -> str:
        item = plan.items[row]
        found = sha256_of(item.path)
        pixels = before(item, plan.size, plan.interpolation)
        write_at(file.fileno(), pixels.tobytes(), header + row * picture)
        return found

    with (
        path.open("r+b") as file,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        path.with_suffix(".journal").open("a", encoding="utf-8") as noted,
    ):
        for start in range(0, len(plan.items), BLOCK):
            hashes = list(pool.map(attempt, range(start, min(start + BLOCK, len(plan.items)))))
            os.fsync(file.fileno())
            noted.write(json.dumps([start, hashes]) + "\n")
            noted.flush()


def packing_plan(data: TripletDataModule) -> Plan:
    """Readable scene crops and products of data that are set up, stretched: at most PHOTOS, evenly chosen."""
    pairs = [pair for split in data.pairs.values() for pair in split]
    items = picture_items(data.source, data.root, data.table, pairs, data.margin)
    kinds = [[item for item in items if (item.crop is None) == whole] for whole in (False, True)]
    chosen = [
        item
        for kind in kinds
        for item in kind[:: max(1, -(-len(kind) * len(kinds) // PHOTOS))]
        if item.key not in data.store.bad
    ]
    versions = [version_of(item.path) for item in chosen]
    return Plan(chosen, data.stored_size, "stretch", data.interpolation, versions)


def packing_rows(data: TripletDataModule, rounds: int) -> list[Row]:
    """Images a second of whole packings of the same photos, hash, file and fsync included, in turn.

    Args:
        data: set up; its photos are packed into a folder of its cache, which is removed.
        rounds: number of times that each is measured.
    """
    plan = packing_plan(data)
    logging.getLogger(pack.__module__).setLevel(logging.WARNING)
    data.cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data.cache_dir) as folder:
        numbers = count()
        work = {
            name: partial(_rate, way, plan, Path(folder), numbers) for name, way in ((BEFORE, pack_before), (NOW, pack))
        }
        in_turn(work, 1)  # the photos come from memory from now on
        return [Row("packing", name, values, "images/s") for name, values in in_turn(work, rounds).items()]


def _rate(way: Callable[[Plan, Path], None], plan: Plan, folder: Path, numbers: "count[int]") -> float:
    own = folder / str(next(numbers))
    own.mkdir()  # a store beside it would be taken for this one
    began = time.perf_counter()
    way(plan, own / "store.npy")
    seconds = time.perf_counter() - began
    for path in own.iterdir():
        path.unlink()
    return len(plan.items) / seconds


def packing_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Time before over time now; larger is better."""
    return {"before_over_packing": ratio(rows, NOW, BEFORE, "packing")}
