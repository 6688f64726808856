"""How the image store is kept in LitData's chunks (docs/scaling.md)."""

import logging
import multiprocessing
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ctl_lightning.data.images import Pixels, decode
from ctl_lightning.data.store.packing import Index, Plan
from ctl_lightning.runtime.errors import InputError

try:
    import litdata
except ModuleNotFoundError as error:
    if error.name != "litdata":
        raise
    raise InputError(
        "data.store=litdata needs LitData: pip install 'ctl_lightning[litdata]'; or data.store=packed"
    ) from None

log = logging.getLogger(__name__)

CHUNK = "64MB"

LAST_FILE = "index.json"
"""File that LitData writes when all chunks are there."""


class ChunkedStore:
    """Image store with random access to chunks. Each worker process opens the chunks itself.

    Args:
        folder: folder of the chunks.
        keys: keys of the stored pictures, in the order in which they were written.
        index: index of the checked images.
        listing: file that lists the images that cannot be read.
    """

    def __init__(self, folder: Path, keys: Sequence[str], index: Index, listing: Path) -> None:
        self.size, self.content = index.size, index.content
        self.bad: Mapping[str, str] = index.bad
        self.listing = listing
        self._folder = folder
        self._rows = {key: row for row, key in enumerate(keys)}
        self._chunks: Any = None

    def __getitem__(self, key: str) -> Pixels:
        """The picture of a key, uint8 (size, size, 3)."""
        if self._chunks is None:
            # Pictures are asked for in random order: decoding their neighbours too would take twenty times as long.
            self._chunks = litdata.StreamingDataset(str(self._folder), batch_decode=False)
        pixels: Pixels = self._chunks[self._rows[key]]
        return pixels

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_chunks": None}


def open_chunks(plan: Plan, index: Index, listing: Path, folder: Path) -> ChunkedStore:
    """Opens the chunks of a plan's items; writes them first, on all cores, if `folder` does not have them.

    Args:
        plan: what the chunks hold.
        index: index of these items; the images that it calls bad are left out.
        listing: file that lists the images that cannot be read.
        folder: folder in which the chunks are or will be.
    """
    readable = [item for item in plan.items if item.key not in index.bad]
    if not (folder / LAST_FILE).exists():
        shutil.rmtree(folder, ignore_errors=True)  # left by a killed process
        log.info(
            "writing %d images at %d x %d pixels as chunks, once: %s", len(readable), index.size, index.size, folder
        )
        start_method = multiprocessing.get_start_method()
        try:
            litdata.optimize(
                partial(_pixels, plan._replace(items=readable, versions=())),
                list(range(len(readable))),
                str(folder),
                chunk_bytes=CHUNK,
                num_workers=min(os.cpu_count() or 1, len(readable)),
                reorder_files=False,
                keep_data_ordered=True,
                verbose=False,
            )
        finally:
            # LitData changes it for the whole process, and then every loader process takes seconds to start.
            multiprocessing.set_start_method(start_method, force=True)
    return ChunkedStore(folder, [item.key for item in readable], index, listing)


def _pixels(plan: Plan, row: int) -> Pixels:
    return decode(plan.items[row], plan.size, plan.aspect, plan.interpolation)
