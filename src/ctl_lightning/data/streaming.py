"""The image store as LitData's chunks: they can lie in a bucket, and a machine holds only those that it reads (docs/scaling.md)."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ctl_lightning.data.files import write_text
from ctl_lightning.data.images import Aspect, ImageItem, Pixels, decode
from ctl_lightning.errors import InputError

try:
    import litdata
except ImportError:
    raise InputError(
        "data.store=litdata needs LitData: pip install 'ctl_lightning[litdata]'; or data.store=packed"
    ) from None

CHUNK = "64MB"
INDEX = "pictures.json"


class ChunkedStore:
    """Random access to chunks. A worker process opens them anew.

    Args:
        folder: of the chunks.
        bad: key -> why its image could not be read.
    """

    def __init__(self, folder: Path, bad: Mapping[str, str]) -> None:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.size: int = index["size"]
        self.bad = bad
        self._folder = folder
        self._rows = {key: row for row, key in enumerate(index["keys"])}
        self._chunks: Any = None

    def __getitem__(self, key: str) -> Pixels:
        """The picture of a key, uint8 (size, size, 3)."""
        if self._chunks is None:
            # Pictures are asked for in random order: decoding the neighbours too would cost twenty times as much.
            self._chunks = litdata.StreamingDataset(str(self._folder), batch_decode=False)
        pixels: Pixels = self._chunks[self._rows[key]]
        return pixels

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_chunks": None}


def write_chunks(items: Sequence[ImageItem], size: int, aspect: Aspect, bad: Mapping[str, str], folder: Path) -> None:
    """Writes the chunks of these items on all cores; `folder` is there when all of them are.

    Args:
        items: what to store; keys are unique.
        size: side of the stored squares, in pixels.
        aspect: how a picture becomes a square.
        bad: key -> why its image cannot be read; these are left out.
        folder: where to.
    """
    readable = [item for item in items if item.key not in bad]
    making = folder.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    litdata.optimize(
        partial(_pixels, readable, size, aspect),
        list(range(len(readable))),
        str(making),
        chunk_bytes=CHUNK,
        num_workers=min(os.cpu_count() or 1, len(readable)),
        reorder_files=False,
        keep_data_ordered=True,
        verbose=False,
    )
    write_text(making / INDEX, json.dumps({"size": size, "keys": [item.key for item in readable]}))
    making.rename(folder)


def _pixels(items: Sequence[ImageItem], size: int, aspect: Aspect, row: int) -> Pixels:
    return decode(items[row], size, aspect)
