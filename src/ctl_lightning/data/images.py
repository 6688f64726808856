"""The image store: every scene crop and product decoded and resized once, in one memory-mapped file of uint8."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich import get_console
from rich.progress import track

from ctl_lightning.data.crop import to_pixels
from ctl_lightning.data.files import replacing, write_text
from ctl_lightning.data.pairs import Box

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

FORMAT = 1
"""Counts up when equal items would be stored as other bytes, so that old files are not taken for new ones."""


class ImageItem(NamedTuple):
    """One picture to store: an image file, and which part of it (None: all of it)."""

    key: str
    path: Path
    crop: Box | None


class ImageStore:
    """Read access by key. Cheap to send to a worker process: the file is mapped there anew, not copied.

    Attributes:
        size: side of the stored squares, in pixels.
        bad: key -> why its image could not be read; these keys are not stored.
    """

    def __init__(self, path: Path) -> None:
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.size: int = index["size"]
        self.bad: dict[str, str] = index["bad"]
        self._path = path
        self._rows = {key: row for row, key in enumerate(index["keys"])}
        self._pixels: Pixels | None = None

    def __getitem__(self, key: str) -> Pixels:
        """The picture of a key, uint8 (size, size, 3), RGB; a view of the file, not to be written to."""
        if self._pixels is None:
            self._pixels = np.load(self._path, mmap_mode="r")
        return self._pixels[self._rows[key]]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pixels": None}


def open_upright(path: Path) -> Image.Image:
    """Opens a picture and turns it as EXIF says. Raises OSError: missing, truncated or undecodable file."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's other words for a broken file
        raise OSError(str(error)) from None


def decode(item: ImageItem, size: int) -> Pixels:
    """Opens, crops and resizes one picture to uint8 (size, size, 3), RGB.

    The aspect ratio is not kept: the paper's networks see squares, and cutting a strip down to one would lose most of it.

    Raises:
        OSError: missing, truncated or undecodable file.
    """
    image = open_upright(item.path).convert("RGB")
    if item.crop is not None:
        image = image.crop(to_pixels(item.crop, image.width, image.height))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0))


def open_store(items: Sequence[ImageItem], size: int, cache_dir: Path) -> ImageStore:
    """Opens the store of exactly these items, and packs it first if the cache does not have it.

    The file's name is a hash of the items (keys, files with size and time, crops) and the size: it can not be stale.

    Args:
        items: what to store; keys are unique.
        size: side of the stored squares, in pixels.
        cache_dir: where stores are kept.
    """
    path = cache_dir / "stores" / f"{_fingerprint(items, size)}.npy"
    if not (path.exists() and path.with_suffix(".json").exists()):
        _pack(items, size, path)
    return ImageStore(path)


def _fingerprint(items: Iterable[ImageItem], size: int) -> str:
    digest = hashlib.sha256(f"{FORMAT}|{size}".encode())
    for item in items:
        try:
            status = os.stat(item.path)
            version = (status.st_size, status.st_mtime_ns)
        except OSError:
            version = (0, 0)
        digest.update(repr((item.key, str(item.path), version, item.crop)).encode())
    return digest.hexdigest()[:20]


def _pack(items: Sequence[ImageItem], size: int, path: Path) -> None:
    def attempt(item: ImageItem) -> Pixels | str:
        try:
            return decode(item, size)
        except FileNotFoundError:
            return f"{item.path}: missing"
        except OSError as error:
            return f"{item.path}: {error}"

    log.info("packing %d images to %d x %d pixels, once: %s", len(items), size, size, path)
    keys: list[str] = []
    bad: dict[str, str] = {}
    shape = (len(items), size, size, 3)
    with replacing(path) as temporary, ThreadPoolExecutor() as pool:
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        for start in track(
            range(0, len(items), 256),
            f"packing {len(items):,} images",
            transient=True,
            disable=not get_console().is_terminal,
        ):
            chunk = items[start : start + 256]
            for item, picture in zip(chunk, pool.map(attempt, chunk), strict=True):
                if isinstance(picture, str):
                    bad[item.key] = picture
                else:
                    pixels[len(keys)] = picture
                    keys.append(item.key)
        pixels.flush()
        del pixels
    write_text(path.with_suffix(".json"), json.dumps({"size": size, "keys": keys, "bad": bad}))
